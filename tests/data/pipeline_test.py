"""seqio tasks and mixtures -> batches."""

import dataclasses
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import features, in_memory, metrics, pipeline, sources

SOFT_IDS = np.array([300, 301], np.int32)
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
        "source": in_memory.InMemory({"train": rows, "validation": rows}),
        "preprocessors": [
            seqio.preprocessors.tokenize,
            *steps,
            seqio.preprocessors.append_eos_after_trim,
        ],
        "output_features": features.features(),
        "metric_fns": [metrics.accuracy],
        "shuffle_buffer_size": None,
    }
    return seqio.Task(name, **(defaults | settings))


def config(provider, **settings):
    defaults = {"task_feature_lengths": LENGTHS, "split": "train", "batch_size": 4}
    return pipeline.DatasetConfig(Opens(provider), **(defaults | settings))


def train(vocabulary, provider, row_multiple=1, **settings):
    return pipeline.TrainBatches(config(provider, **settings), vocabulary, SOFT_IDS, row_multiple)


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
    [("task", False), ("task", True), ("mixture", False), ("running text", True)],
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


def test_shapes(vocabulary):
    plain = next(train(vocabulary, make_task()))
    assert plain["encoder_input_tokens"].shape == (4, 22)  # soft tokens come on top
    assert plain["decoder_target_tokens"].shape == (4, 8)
    needed = {}
    for multiple in (1, 8):
        batches = train(vocabulary, make_task(), multiple, batch_size=48, pack=True)
        needed[multiple] = len(next(batches)["encoder_input_tokens"])
    # A sixteenth of the batch, 3 rows, is the step between shapes, so that they are few.
    assert 8 < needed[1] < 48 and needed[1] % 3 == 0
    assert needed[8] % 8 == 0 and 0 <= needed[8] - needed[1] < 8


def test_tasks_read_with_the_vocabulary_of_the_model(vocabulary):
    (own,) = texts_of([next(train(vocabulary, make_task(), batch_size=1))], vocabulary)
    assert own in TEXTS
    same = make_task(output_features=features.features(vocabulary.for_seqio()))
    next(train(vocabulary, same))


@pytest.mark.parametrize("kind", ["task", "mixture"])
def test_tasks_of_another_vocabulary_are_refused(vocabulary, kind):
    other = dataclasses.replace(vocabulary, extra_ids=0).for_seqio()
    task = make_task(output_features=features.features(other))
    provider = task if kind == "task" else seqio.Mixture("one", [(task, 1.0)])
    for call in (lambda: train(vocabulary, provider), lambda: evaluate(vocabulary, provider)):
        with pytest.raises(ValueError, match=r"task films tokenises .* set VOCABULARY_FILE"):
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
    only_train = make_task("songs", source=in_memory.InMemory({"train": rows}))
    mixture = seqio.Mixture("both", [(make_task(), 1.0), (only_train, 1.0)])
    assert [task.name for task in evaluate(vocabulary, mixture)] == ["films"]
    next(train(vocabulary, mixture, split="validation"))
    with pytest.raises(
        ValueError, match=r"both has no split 'test'; it has \['train', 'validation'\]"
    ):
        evaluate(vocabulary, mixture, split="test")


def needs_lengths(dataset, sequence_length):
    """Tells the room in place of the targets."""
    room = tf.constant([sequence_length["inputs"], sequence_length["targets"]], tf.int32)
    return dataset.map(lambda example: example | {"targets": room})


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
    part = rf"5 of the first 10 labels of films .*TASK_FEATURE_LENGTHS.* set at least {longest}"
    with pytest.raises(ValueError, match=part):
        call(vocabulary, provider)
    room = {"inputs": 20, "targets": longest}
    call(vocabulary, provider, task_feature_lengths=room)


@pytest.mark.parametrize("opens", ["train", "evaluate"])
def test_what_else_is_cut_is_told(vocabulary, caplog, opens):
    stories = make_task(
        texts=["a " * 30, *TEXTS[1:]], labels=[f"a long story {i}" for i in range(10)]
    )
    globals()[opens](vocabulary, stories)
    assert "first 10 examples of films, 1 inputs are cut to 20 tokens and 10 targets" in caplog.text
    caplog.clear()
    globals()[opens](vocabulary, make_task())
    assert not caplog.records


@pytest.mark.parametrize("opens", ["train", "evaluate"])
def test_no_example_is_an_error(vocabulary, opens):
    none = make_task(steps=[lambda dataset: dataset.take(0)])
    with pytest.raises(ValueError, match="films has no example in split 'train'"):
        globals()[opens](vocabulary, none, split="train")


@pytest.mark.parametrize("size", [0, -1, 2.0, None])
def test_batch_size_is_a_positive_number(size):
    with pytest.raises(ValueError, match=f"BATCH_SIZE is {size}; expected a positive number"):
        config(None, batch_size=size)


def evaluate(vocabulary, provider, limit=None, **settings):
    settings = {"split": "validation"} | settings
    return pipeline.evaluation_tasks(config(provider, **settings), vocabulary, limit)


def test_evaluation_goes_in_order_and_fills_the_last_batch(vocabulary):
    (task,) = evaluate(vocabulary, make_task())
    batches = list(task.batches(4, SOFT_IDS))
    assert [batch["encoder_input_tokens"].shape for batch in batches] == [(4, 22)] * 3
    last = batches.pop()
    batches.append({name: array[:2] for name, array in last.items()})
    assert list(texts_of(batches, vocabulary)) == TEXTS
    assert all((array[2:] == 0).all() for array in last.values())


def test_evaluation_of_some_examples(vocabulary):
    tasks = evaluate(vocabulary, films_and_songs(), limit=3)
    assert [(task.name, len(task.examples)) for task in tasks] == [("films", 3), ("songs", 3)]


def test_metrics_see_what_postprocessing_makes(vocabulary):
    seen = []

    def postprocess(text, example, is_target):
        assert example["inputs_pretokenized"].decode() in TEXTS
        return ("target" if is_target else "answer", text.upper())

    def both(targets, predictions):
        seen.append((targets, predictions))
        return {"both": np.float32(0.5)}

    def ranked(targets, scores):
        return {"ranked": seqio.metrics.Scalar(sum(scores))}

    (task,) = evaluate(
        vocabulary, make_task(postprocess_fn=postprocess, metric_fns=[both, ranked]), limit=2
    )
    assert task.needs_scores
    assert task.metrics(["x", "y"], [1.0, 2.0]) == {"both": 0.5, "ranked": 3.0}
    assert seen == [
        ([("target", "GOOD"), ("target", "BAD")], [("answer", "X"), ("answer", "Y")]),
    ]
    assert not evaluate(vocabulary, make_task())[0].needs_scores


def test_text_that_was_not_kept_is_spelt_from_its_ids(vocabulary):
    (task,) = evaluate(vocabulary, make_task())
    first = task.examples[0]
    ids_alone = {name: first[name] for name in ("inputs", "targets")}
    for feature, text in (("inputs", "film a"), ("targets", "good")):
        assert task.text(first, feature) == task.text(ids_alone, feature) == text
