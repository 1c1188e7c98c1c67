"""seqio tasks and mixtures -> batches."""

import dataclasses
import itertools
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import pipeline, seqio_tasks, sources, vocabularies
from prompt_tuning.data.batches import soft_tokens
from prompt_tuning.data.text import metrics

SOFT = soft_tokens.SoftTokens(np.array([300, 301], np.int32))
TEXTS = [f"film {letter}" for letter in "adefghiklm"]
LENGTHS = {"inputs": 20, "targets": 8}


@dataclasses.dataclass
class Opens:
    """A source of something that is there."""

    provider: Any

    def open(self, vocabulary, split):
        return self.provider


def make_task(name="films", texts=TEXTS, labels=("good", "bad"), steps=(), **settings):
    """A task that labels texts in turn, unregistered, reading with the model's vocabulary."""
    rows = [{"inputs": text, "targets": labels[i % len(labels)]} for i, text in enumerate(texts)]
    defaults = {
        "source": seqio_tasks.InMemory({"train": rows, "validation": rows}),
        "preprocessors": [
            seqio.preprocessors.tokenize,
            *steps,
            seqio.preprocessors.append_eos_after_trim,
        ],
        "output_features": seqio_tasks.text_features(),
        "metric_fns": [metrics.accuracy],
        "shuffle_buffer_size": None,
    }
    return seqio.Task(name, **(defaults | settings))


def config(provider, **settings):
    defaults = {"task_feature_lengths": LENGTHS, "split": "train", "batch_size": 4}
    return pipeline.DatasetConfig(Opens(provider), **(defaults | settings))


def train(vocabulary, provider, row_multiple=1, **settings):
    return pipeline.TrainBatches(config(provider, **settings), vocabulary, SOFT, row_multiple)


def texts_of(batches, vocabulary):
    """The inputs of batches, packed or not, without their soft tokens."""
    for batch in batches:
        rows = batch["encoder_input_tokens"]
        segments = batch.get("encoder_segment_ids", np.ones_like(rows))
        for row, numbers in zip(rows, segments, strict=True):
            for number in range(1, numbers.max() + 1):
                ids = row[numbers == number]
                assert ids[:2].tolist() == [300, 301]
                yield vocabulary.decode(ids[2:])


@pytest.mark.parametrize("pack", [False, True])
def test_every_epoch_has_each_example_once_in_an_order_of_its_own(vocabulary, pack):
    batches = train(vocabulary, make_task(), batch_size=5, pack=pack)
    epochs = [list(texts_of(itertools.islice(batches, 2), vocabulary)) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [TEXTS] * 3
    if not pack:  # packing sorts the examples of a batch
        assert len({tuple(epoch) for epoch in epochs}) == 3


@dataclasses.dataclass
class Registered(Opens):
    """A source of a task with a name."""

    name: str = "films"
    allow_empty_targets: bool = False


def test_a_registered_task_is_trained_with_targets_that_can_be_learned(vocabulary):
    def train_on(labels, allowed=False):
        source = Registered(make_task(labels=labels), allow_empty_targets=allowed)
        settings = pipeline.DatasetConfig(source, LENGTHS, "train", 4)
        return pipeline.TrainBatches(settings, vocabulary, SOFT)

    half = len(TEXTS) // 2
    expected = (
        f"{half} of the first {len(TEXTS)} examples of films have an empty target; .*ALLOW_EMPTY"
    )
    for blank in ("", " "):
        with pytest.raises(ValueError, match=expected):
            train_on(("good", blank))
        assert train_on(("good", blank), allowed=True).labels == {"good": len(TEXTS) - half}
    with pytest.raises(ValueError, match=r"films: targets: .*\n.*'C\+\+' and 'C#' have the same"):
        train_on(("C++", "C#"))


def test_many_orders_are_read_beside_each_other(vocabulary):
    first = train(vocabulary, make_task(texts=TEXTS[:8]))
    orders, done = [first.with_seed(seed) for seed in range(15)], []

    def read():
        for _ in range(3):
            done.append([next(order)["encoder_input_tokens"] for order in orders])

    # Where all began a new epoch, tf.data has hung.
    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(timeout=120)
    assert len(done) == 3 and all(order.position["epoch"] == 1 for order in orders)
    np.testing.assert_array_equal(done[0][0], next(first)["encoder_input_tokens"])
    assert any(not np.array_equal(done[0][0], other) for other in done[0][1:])


def test_small_files_are_tokenized_once(vocabulary, tmp_path, monkeypatch):
    """Each epoch has all examples, in an order that follows seed and epoch."""
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"film {i}\tgood\n" for i in range(7)))
    source = sources.TaskSource(train_file=str(path))
    settings = pipeline.DatasetConfig(source, LENGTHS, "train", 7, seed=3)
    batches = pipeline.TrainBatches(settings, vocabulary, SOFT)
    with monkeypatch.context() as patch:
        patch.setattr(vocabularies, "_ids", None)  # texts are not tokenized again
        orders = [list(texts_of([next(batches)], vocabulary)) for _ in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(f"film {i}" for i in range(7))
    assert orders[0] != orders[1] and batches.position == {"epoch": 2, "examples": 7}
    other = batches.with_seed(4)
    assert other.position == {"epoch": 0, "examples": 0}
    assert list(texts_of([next(other)], vocabulary)) != orders[0]
    other = batches.with_seed(3)
    other.position = {"epoch": 1, "examples": 0}
    assert list(texts_of([next(other)], vocabulary)) == orders[1]
    # A file beyond the sample is read row by row, in the same orders.
    monkeypatch.setattr(pipeline, "CHECKED_EXAMPLES", 3)
    large = pipeline.TrainBatches(settings, vocabulary, SOFT)
    assert [list(texts_of([next(large)], vocabulary)) for _ in range(3)] == orders
    large.position = {"epoch": 1, "examples": 3}
    assert list(texts_of([next(large)], vocabulary))[:4] == orders[1][3:]
    unshuffled = dataclasses.replace(settings, shuffle=False, batch_size=5)
    in_order = pipeline.TrainBatches(unshuffled, vocabulary, SOFT)
    in_order_texts = list(texts_of([next(in_order), next(in_order)], vocabulary))
    assert in_order_texts == [f"film {i % 7}" for i in range(10)]


def test_order_follows_the_seed(vocabulary):
    once, again, other = (
        list(texts_of(itertools.islice(train(vocabulary, make_task(), seed=s), 5), vocabulary))
        for s in (1, 1, 7)
    )
    assert once == again != other


def films_and_songs(rates=(3.0, 1.0)):
    songs = make_task("songs", [f"song {i}" for i in range(4)])
    return seqio.Mixture("both", list(zip((make_task(), songs), rates, strict=True)))


def running_text(folder, vocabulary):
    lines = (f"she liked the {how} film in the park .\n" for how in ("good", "bad", "long") * 9)
    (folder / "a.txt").write_text("".join(lines))
    source = sources.TextSource([str(folder / "a.txt")], [("span_corruption", 1.0)])
    return source.open(vocabulary, "train")


@pytest.mark.parametrize(
    ("kind", "pack"),
    [
        ("task", False),
        ("task", True),
        ("mixture", False),
        ("mixture", True),
        ("running text", True),
    ],
)
def test_position_is_where_the_next_batch_begins(vocabulary, tmp_path, kind, pack):
    provider = {
        "task": make_task,
        "mixture": films_and_songs,
        "running text": lambda: running_text(tmp_path, vocabulary),
    }[kind]()
    batches = train(vocabulary, provider, pack=pack)
    seen, positions = [], []
    for _ in range(6):
        positions.append(dict(batches.position))
        seen.append(next(batches))
    assert positions[0] == {"epoch": 0, "examples": 0}
    if kind == "task":
        assert positions[3] == {"epoch": 1, "examples": 2}
    for start in (1, 4):
        again = train(vocabulary, provider, pack=pack)
        again.position = positions[start]
        for old, new in zip(seen[start:], again, strict=False):
            assert old.keys() == new.keys()
            for name, array in old.items():
                np.testing.assert_array_equal(new[name], array)


@pytest.mark.parametrize("pack", [False, True])
def test_rows_are_as_long_as_the_data_need(vocabulary, caplog, pack):
    with caplog.at_level("INFO"):
        batches = train(vocabulary, make_task(), 8, batch_size=48, pack=pack)
    batch = next(batches)
    rows, length = batch["encoder_input_tokens"].shape
    longest = max(len(vocabulary.encode(text)) for text in TEXTS) + len("..") + 1
    if pack:
        # At most six examples a row, about.
        assert rows % 8 == 0 and rows < 48 and longest < length <= 6 * longest + 8
        assert caplog.messages[-1].startswith(f"Packing batches: 48 examples in {rows} rows of ")
    else:
        assert rows == 48 and longest <= length < longest + 8
        assert batch["decoder_target_tokens"].shape == (48, 8)
        assert (
            caplog.messages[-1] == "Padding batches: 48 examples in 48 rows of 8, 16, 22 positions."
        )
    assert len(list(texts_of([batch], vocabulary))) == 48


def test_lengths_of_a_mixture_are_those_at_its_rates(vocabulary):
    """Long songs that hardly ever come do not make long rows."""
    songs = make_task("songs", ["song " * 6] * 10)
    both = [[(make_task(), 1.0), (songs, rate)] for rate in (1e-6, 1e6)]
    lengths = [
        next(train(vocabulary, seqio.Mixture("both", tasks)))["encoder_input_tokens"].shape[1]
        for tasks in both
    ]
    assert lengths == [8, 22]


def test_an_example_too_long_for_the_sample_fits(vocabulary, monkeypatch):
    monkeypatch.setattr(pipeline, "CHECKED_EXAMPLES", 5)
    task = make_task(texts=[*TEXTS[:6], "a long long long long film", *TEXTS[6:]])
    for pack in (False, True):
        batches = train(vocabulary, task, batch_size=11, pack=pack)
        batch_texts = list(texts_of([next(batches)], vocabulary))
        assert len(batch_texts) == 11 and max(map(len, batch_texts)) > 10


def test_tasks_read_with_the_vocabulary_of_the_model(vocabulary):
    (text,) = texts_of([next(train(vocabulary, make_task(), batch_size=1))], vocabulary)
    assert text in TEXTS
    same = make_task(output_features=seqio_tasks.text_features(vocabulary.for_seqio()))
    next(train(vocabulary, same))


@pytest.mark.parametrize("kind", ["task", "mixture"])
def test_tasks_of_another_vocabulary_are_refused(vocabulary, kind):
    other = dataclasses.replace(vocabulary, extra_ids=0).for_seqio()
    task = make_task(output_features=seqio_tasks.text_features(other))
    provider = task if kind == "task" else seqio.Mixture("one", [(task, 1.0)])
    for call in (lambda: train(vocabulary, provider), lambda: evaluate(vocabulary, provider)):
        with pytest.raises(ValueError, match=r"task films tokenizes .* Set VOCABULARY_FILE"):
            call()


@pytest.mark.parametrize("nested", [False, True])
def test_a_mixture_keeps_its_rates(vocabulary, nested):
    mixture = films_and_songs()
    if nested:
        mixture = seqio.Mixture("outer", [(mixture, 1.0)])
    batches = train(vocabulary, mixture, batch_size=100)
    counts = Counter(text.split()[0] for text in texts_of([next(batches)], vocabulary))
    assert counts.keys() == {"film", "song"}
    assert 60 <= counts["film"] <= 90
    assert batches.name == mixture.name


def test_a_task_of_a_mixture_may_lack_the_split(vocabulary):
    rows = [{"inputs": "song", "targets": "good"}]
    only_train = make_task("songs", source=seqio_tasks.InMemory({"train": rows}))
    mixture = seqio.Mixture("both", [(make_task(), 1.0), (only_train, 1.0)])
    assert [task.name for task in evaluate(vocabulary, mixture)] == ["films"]
    next(train(vocabulary, mixture, split="validation"))
    with pytest.raises(
        sources.NoSplitError,
        match=r"both has no split 'test'; expected one of \['train', 'validation'\]",
    ):
        evaluate(vocabulary, mixture, split="test")


def needs_lengths(dataset, sequence_length):
    """Replaces the targets by the maximum lengths."""
    max_lengths = tf.constant([sequence_length["inputs"], sequence_length["targets"]], tf.int32)
    return dataset.map(lambda example: example | {"targets": max_lengths})


def test_a_preprocessor_that_needs_the_lengths_gets_them(vocabulary):
    batch = next(train(vocabulary, make_task(steps=[needs_lengths])))
    np.testing.assert_array_equal(batch["decoder_target_tokens"][:, :3], [[20, 8, 1]] * 4)


LONG_LABELS = ("good", "a long long label")


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("opens", ["train", "evaluate"])
def test_a_label_that_is_cut_is_an_error(vocabulary, mixed, opens):
    provider = make_task(labels=LONG_LABELS)
    if mixed:
        provider = seqio.Mixture("both", [(make_task("songs"), 1.0), (provider, 1.0)])
    call, longest = globals()[opens], 1 + len(vocabulary.encode(LONG_LABELS[1]))
    part = rf"5 of the first 10 labels of films .*TASK_FEATURE_LENGTHS.* to at least {longest}"
    with pytest.raises(ValueError, match=part):
        call(vocabulary, provider)
    max_lengths = {"inputs": 20, "targets": longest}
    call(vocabulary, provider, task_feature_lengths=max_lengths)


@pytest.mark.parametrize("opens", ["train", "evaluate"])
def test_what_else_is_cut_is_told(vocabulary, caplog, opens):
    stories = make_task(
        texts=["a " * 30, *TEXTS[1:]], labels=[f"a long story {i}" for i in range(10)]
    )
    globals()[opens](vocabulary, stories)
    assert "films: the inputs of 1 of 10 examples (10 %) have more than" in caplog.text
    assert "films: the targets of 10 of 10 examples (100 %) have more than" in caplog.text
    caplog.clear()
    globals()[opens](vocabulary, make_task())
    assert "WARNING" not in {record.levelname for record in caplog.records}


@pytest.mark.parametrize("max_inputs", [24, 40])
def test_a_field_is_shortened_however_a_file_is_read(vocabulary, tmp_path, caplog, max_inputs):
    """By number, and by seqio, as in a mixture and under T5X."""
    question = "she saw the bad film"
    rows = [("she liked the good film in the park . " * n, question) for n in (9, 1, 0, 5)]
    path, lengths = tmp_path / "a.tsv", {"inputs": max_inputs, "targets": 4}
    path.write_text("p\tq\tlabel\n" + "".join(f"{p}\t{q}\tgood\n" for p, q in rows))
    source = sources.TaskSource(
        train_file=str(path), input_template="{p} . {q}", truncate_field="p"
    )
    settings = pipeline.DatasetConfig(source, lengths, "train", 4, shuffle=False)
    (task,) = pipeline.evaluation_tasks(settings, vocabulary)
    by_seqio = source.open(vocabulary, "train").get_dataset(lengths, "train", shuffle=False)
    for example, other in zip(task.examples, by_seqio.as_numpy_iterator(), strict=True):
        text = task.text(example, "inputs")
        assert text == other["inputs_pretokenized"].decode() and text.endswith(f" . {question}")
        assert example["inputs"].tolist() == [*vocabulary.encode(text), 1]
        np.testing.assert_array_equal(example["inputs"], other["inputs"])
        assert example.keys() == other.keys()
    assert next(len(example["inputs"]) for example in task.examples) in (max_inputs, max_inputs - 1)
    batch = next(pipeline.TrainBatches(settings, vocabulary, SOFT))
    texts = list(texts_of([batch], vocabulary))
    assert texts == [task.text(example, "inputs").strip() for example in task.examples]
    assert "is cut off" not in caplog.text


@pytest.mark.parametrize("opens", ["train", "evaluate"])
def test_no_example_is_an_error(vocabulary, opens):
    none = make_task(steps=[lambda dataset: dataset.take(0)])
    with pytest.raises(ValueError, match="films has no example in split 'train'"):
        globals()[opens](vocabulary, none, split="train")


@pytest.mark.parametrize("size", [0, -1, 2.0, None])
def test_batch_size_is_a_positive_number(size):
    with pytest.raises(ValueError, match=f"BATCH_SIZE is {size}; expected a positive integer"):
        config(None, batch_size=size)


def evaluate(vocabulary, provider, limit=None, **settings):
    settings = {"split": "validation"} | settings
    return pipeline.evaluation_tasks(config(provider, **settings), vocabulary, limit)


def test_evaluation_goes_in_order(vocabulary):
    (task,) = evaluate(vocabulary, make_task())
    assert [task.text(example, "inputs") for example in task.examples] == TEXTS
    assert (task.lengths.inputs, task.lengths.targets) == (20, 8)


def test_evaluation_of_some_examples(vocabulary):
    tasks = evaluate(vocabulary, films_and_songs(), limit=3)
    assert [(task.name, len(task.examples)) for task in tasks] == [("films", 3), ("songs", 3)]


def test_examples_can_come_in_their_own_order(vocabulary):
    batches = train(vocabulary, make_task(), shuffle=False)
    assert list(texts_of(itertools.islice(batches, 5), vocabulary)) == 2 * TEXTS


def test_without_lengths_the_longest_example_fits(vocabulary, caplog):
    texts = ["film", "a long story of a film in the park", "story"]
    (task,) = pipeline.evaluation_tasks(
        config(make_task(texts=texts), task_feature_lengths=None), vocabulary
    )
    sizes = [(len(e["inputs"]), len(e["targets"])) for e in task.examples]
    assert (task.lengths.inputs, task.lengths.targets) == tuple(map(max, zip(*sizes, strict=True)))
    assert not caplog.records
    with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS is None; expected"):
        train(vocabulary, make_task(), task_feature_lengths=None)


@pytest.mark.parametrize("known_labels", [None, {"named": ["good"]}])
def test_detokenizes_ranked_labels_of_prompts_without_a_card(vocabulary, known_labels):
    """The vocabulary has no capitals."""
    (task,) = pipeline.evaluation_tasks(
        config(make_task(), split="validation"),
        vocabulary,
        known_labels=known_labels,
        ranked_labels=["Good"],
    )
    ids = vocabulary.encode("Good")
    assert vocabulary.decode(ids) != "Good" == task.detokenize(np.array(ids))


def test_another_task_than_the_source_has(vocabulary):
    source = sources.TaskSource("none", module="prompt_tuning.data.tasks.glue")
    asked = pipeline.DatasetConfig(source, LENGTHS, "train", 4)
    assert asked.name == "none"
    other = dataclasses.replace(asked, mixture_or_task_name="glue_sst2_v200_exmaples")
    assert other.name == "glue_sst2_v200_exmaples"
    with pytest.raises(ValueError, match="Did you mean: glue_sst2_v200_examples"):
        pipeline.evaluation_tasks(other, vocabulary)


def test_what_is_not_kept_is_read_when_asked_for(vocabulary, tmp_path):
    """Of own files, and of registered tasks, which are read on from where they are."""
    path = tmp_path / "a.tsv"
    path.write_text("text\n" + "".join(f"{text}\n" for text in TEXTS))
    source = sources.TaskSource(infer_file=str(path))
    of_file = pipeline.DatasetConfig(source, LENGTHS, "infer", 4)
    for settings in (of_file, config(make_task(), split="validation")):
        (kept,) = pipeline.evaluation_tasks(settings, vocabulary)
        (task,) = pipeline.evaluation_tasks(settings, vocabulary, in_memory=False)
        assert len(task.examples) == 10 and not isinstance(task.examples, list)
        assert task.examples[4] is not task.examples[4]
        assert [task.text(example, "inputs") for example in task.examples[1::3]] == TEXTS[1::3]
        for ours, theirs in zip(task.batches(4, SOFT), kept.batches(4, SOFT), strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0])
            for name, array in theirs[1].items():
                np.testing.assert_array_equal(ours[1][name], array)


def in_memory_batches(vocabulary, texts=TEXTS, labels=("good", "bad") * 5, **settings):
    defaults = {"task_feature_lengths": None, "split": "train", "batch_size": 4}
    config = pipeline.DatasetConfig(None, **(defaults | settings))
    pairs = zip(texts, labels, strict=True)
    examples = [vocabularies.tokenize_pair(*pair, vocabulary) for pair in pairs]
    return pipeline.example_batches("examples", examples, config, SOFT, 2)


def test_in_memory_every_epoch_has_each_example_once_in_an_order_of_its_own(vocabulary):
    endless = in_memory_batches(vocabulary, batch_size=5)
    rounds = [list(texts_of(itertools.islice(endless, 2), vocabulary)) for _ in range(3)]
    assert [sorted(each) for each in rounds] == [TEXTS] * 3
    assert len({tuple(each) for each in rounds}) == 3


def test_in_memory_order_follows_the_seed(vocabulary):
    once, again, other = (
        list(texts_of(itertools.islice(in_memory_batches(vocabulary, seed=seed), 5), vocabulary))
        for seed in (1, 1, 7)
    )
    assert once == again != other


@pytest.mark.parametrize("pack", [False, True])
def test_in_memory_position_is_where_the_next_batch_begins(vocabulary, pack):
    endless = in_memory_batches(vocabulary, pack=pack)
    seen, positions = [], []
    for _ in range(6):
        positions.append(dict(endless.position))
        seen.append(next(endless))
    assert (positions[0], positions[3]) == (
        {"epoch": 0, "examples": 0},
        {"epoch": 1, "examples": 2},
    )
    again = in_memory_batches(vocabulary, pack=pack)
    again.position = positions[4]
    for old, new in zip(seen[4:], again, strict=False):
        for name, array in old.items():
            np.testing.assert_array_equal(new[name], array)
    assert len(seen[0]["encoder_input_tokens"]) % 2 == 0


def test_in_memory_without_lengths_the_longest_example_fits(vocabulary, caplog):
    batch = next(
        in_memory_batches(vocabulary, [*TEXTS, "film " * 30], ["good"] * 11, batch_size=11)
    )
    assert "is cut off" not in caplog.text
    longest = len(vocabulary.encode("film " * 30)) + 1 + 2
    assert (batch["encoder_input_tokens"] > 0).sum(axis=1).max() == longest


def test_cuts_in_memory_are_reported(vocabulary, caplog):
    lengths = {"inputs": 3, "targets": 8}
    in_memory_batches(vocabulary, task_feature_lengths=lengths)
    assert (
        "inputs of 10 of 10 examples (100 %) have more than task_feature_lengths['inputs'] = 3 tokens"
        in caplog.text
    )
    with pytest.raises(ValueError, match=r"labels of examples are longer .* to at least"):
        in_memory_batches(vocabulary, task_feature_lengths={"inputs": 20, "targets": 2})
    with pytest.raises(ValueError, match="examples is empty; expected at least one"):
        in_memory_batches(vocabulary, [], [])
