"""Examples in batches of like length, and what is made of answers."""

import dataclasses
import functools
import itertools
import types

import numpy as np
import pytest
import seqio

from prompt_tuning.data import evaluation_task
from prompt_tuning.data.batches import batching, soft_tokens
from prompt_tuning.data.files import records
from prompt_tuning.data.text import metrics, postprocessors

SOFT = soft_tokens.SoftTokens(np.array([300, 301], np.int32))


def make_task(vocabulary, texts, *, targets=("good", "bad"), **settings):
    """A task of texts with these targets in turn, without seqio's reading."""
    examples = [
        {
            "inputs": np.array([*vocabulary.encode(text), 1]),
            "targets": np.array([*vocabulary.encode(targets[i % len(targets)]), 1]),
            "inputs_pretokenized": text.encode(),
        }
        for i, text in enumerate(texts)
    ]
    defaults = {
        "postprocess_fn": lambda text, **_: text,
        "predict_metric_fns": [],
        "predict_with_aux_metric_fns": [],
        "score_metric_fns": [],
    }
    of_seqio = types.SimpleNamespace(**(defaults | settings))
    room = batching.MaxLengths(60, 8)
    return evaluation_task.EvaluationTask("films", examples, room, of_seqio, vocabulary)


def of_lengths(vocabulary, lengths):
    """A task whose inputs have so many tokens, and tell which they are by their first."""
    task = make_task(vocabulary, ["film"] * len(lengths))
    for i, (example, length) in enumerate(zip(task.examples, lengths, strict=True)):
        example["inputs"] = np.append(3 + i, np.full(length - 1, 5))
    return task


def test_batches_have_each_example_once_and_say_which(vocabulary, rng):
    lengths = np.append(rng.integers(3, 60, 22), 70)  # one is cut to 60
    task = of_lengths(vocabulary, lengths)
    seen = []
    for which, batch in task.batches(4, SOFT):
        inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        assert inputs.shape[0] == 4 and targets.shape == (4, 8)
        assert (inputs[len(which) :] == 0).all() and (targets[len(which) :] == 0).all()
        for example, ids, answer in zip(which, inputs, targets, strict=False):
            assert ids[:3].tolist() == [300, 301, 3 + example]
            assert np.count_nonzero(ids) == 2 + min(lengths[example], 60)
            expected = task.examples[example]["targets"]
            np.testing.assert_array_equal(answer[: len(expected)], expected)
        seen += which.tolist()
    assert sorted(seen) == list(range(23))
    np.testing.assert_array_equal(lengths[seen], np.sort(lengths))
    assert sum(len(which) == 4 for which, _ in task.batches(4, SOFT)) == 5


def test_answers_are_in_order_again_after_each_window(vocabulary, rng, monkeypatch):
    monkeypatch.setattr(evaluation_task, "WINDOW", 3)
    lengths = rng.integers(3, 60, 20)
    order = [w.tolist() for w, _ in of_lengths(vocabulary, lengths).batches(2, SOFT)]
    assert [len(which) for which in order] == [2] * 10
    for start in range(0, 10, 3):
        window = list(itertools.chain(*order[start : start + 3]))
        first = 2 * start
        expected = first + np.argsort(lengths[first : first + 6], kind="stable")
        assert window == expected.tolist()


@pytest.mark.parametrize("sampled", [8, 1000])
def test_windows_are_the_same_wherever_it_begins(vocabulary, rng, monkeypatch, sampled):
    monkeypatch.setattr(evaluation_task, "WINDOW", 3)
    monkeypatch.setattr(evaluation_task, "SAMPLED", sampled)
    task = of_lengths(vocabulary, rng.integers(3, 60, 20))
    whole = [(w.start, w.examples, list(w.batches)) for w in task.windows(2, SOFT)]
    assert [start for start, _, _ in whole] == [0, 6, 12, 18]
    assert [len(examples) for _, examples, _ in whole] == [6, 6, 6, 2]
    rest = [(w.start, w.examples, list(w.batches)) for w in task.windows(2, SOFT, 12)]
    for (start, examples, batches), (_, _, expected) in zip(rest, whole[2:], strict=True):
        assert examples == task.examples[start : start + 6]
        for (which, batch), (order, other) in zip(batches, expected, strict=True):
            assert which.tolist() == order.tolist()
            ours, theirs = batch["encoder_input_tokens"], other["encoder_input_tokens"]
            np.testing.assert_array_equal(ours, theirs)


def test_a_sample_of_many_tells_shapes_and_labels(vocabulary, rng, monkeypatch):
    task = of_lengths(vocabulary, np.repeat(np.arange(4, 60), 20))
    task.examples = records.Lazy(task.examples.__getitem__, range(len(task.examples)))
    asked = []
    task.examples = task.examples.map(lambda example: asked.append(1) or example)
    monkeypatch.setattr(evaluation_task, "SAMPLED", 100)
    next(task.windows(2, SOFT))
    assert len(asked) == 100 + 2 * evaluation_task.WINDOW
    assert task.detokenize(vocabulary.encode("good")) == "good"
    assert len(asked) == 200 + 2 * evaluation_task.WINDOW
    batches = [batch["encoder_input_tokens"] for _, batch in task.batches(4, SOFT)]
    assert len({batch.shape for batch in batches}) <= 6
    filled = sum((batch > 0).sum() for batch in batches) / sum(batch.size for batch in batches)
    assert filled > 0.75


def test_examples_of_one_length_keep_their_order(vocabulary):
    task = of_lengths(vocabulary, [4, 9, 4, 9, 4])
    assert [w.tolist() for w, _ in task.batches(2, SOFT)] == [[0, 2], [4, 1], [3]]


@pytest.mark.parametrize("batch_size", [4, 32])
def test_shapes_are_few_and_leave_little_empty(vocabulary, rng, batch_size):
    """Counts what is compiled, over a long run."""
    lengths = np.clip(rng.lognormal(2.4, 0.7, 2000), 2, 60).astype(int)
    task = of_lengths(vocabulary, lengths)
    batches = [batch["encoder_input_tokens"] for _, batch in task.batches(batch_size, SOFT)]
    assert len({batch.shape for batch in batches}) <= 6
    filled = sum((batch > 0).sum() for batch in batches) / sum(batch.size for batch in batches)
    assert filled > 0.75


def test_metrics_see_what_postprocessing_makes(vocabulary):
    seen = []

    def postprocess(text, example, is_target):
        assert example["inputs_pretokenized"].decode().startswith("film")
        return ("target" if is_target else "answer", text.upper())

    def both(targets, predictions):
        seen.append((targets, predictions))
        return {"both": np.float32(0.5)}

    def ranked(targets, scores):
        return {"ranked": seqio.metrics.Scalar(sum(scores))}

    settings = {"predict_metric_fns": [both], "score_metric_fns": [ranked]}
    texts = ["film a", "film b"]
    task = make_task(vocabulary, texts, postprocess_fn=postprocess, **settings)
    assert task.needs_scores
    assert task.metrics(["x", "y"], [1.0, 2.0]) == {"both": 0.5, "ranked": 3.0}
    assert seen == [
        ([("target", "GOOD"), ("target", "BAD")], [("answer", "X"), ("answer", "Y")]),
    ]
    assert not make_task(vocabulary, texts).needs_scores


def test_metrics_may_be_text_and_may_want_more_than_answers(vocabulary, caplog):
    def with_aux(targets, predictions, aux_values):
        return {"sure": sum(aux_values["scores"]) / len(targets)}

    def samples(targets, predictions):
        text = seqio.metrics.Text(textdata="a sample")
        return {"sample": text, "plain": "text", "picture": seqio.metrics.Image(np.zeros([1, 2]))}

    settings = {"predict_with_aux_metric_fns": [with_aux], "predict_metric_fns": [samples]}
    task = make_task(vocabulary, ["film a", "film b"], **settings)
    found = task.metrics(["x", "y"], None, {"scores": [-1.0, -2.0]})
    assert found == {"sure": -1.5, "sample": "a sample", "plain": "text"}
    [message] = caplog.messages
    assert "films: metrics that are neither numbers nor text are not reported: picture" in message


def unknown(vocabulary, target, postprocess, metric, **features):
    """Two examples without an answer."""
    settings = {"postprocess_fn": postprocess, "predict_metric_fns": [metric]}
    task = make_task(vocabulary, ["film a", "film b"], **settings)
    for example in task.examples:
        example |= {"targets_pretokenized": target.encode(), **features}
    return task


OF_RECORD = {"idx/passage": 1, "idx/query": 2, "answers": np.array([], object)}


@pytest.mark.parametrize(
    ("target", "postprocess", "metric", "features"),
    [
        (
            "<unk>",
            functools.partial(postprocessors.class_id, names=("no", "yes")),
            metrics.accuracy,
            {},
        ),
        ("<unk>", postprocessors.strip, metrics.accuracy, {}),
        ("<unk>", postprocessors.record, metrics.record, OF_RECORD),
        ("-1.0", postprocessors.number, metrics.pearson, {}),
        ("Bob", postprocessors.wsc, metrics.accuracy, {"label": np.int64(-1)}),
    ],
)
def test_a_split_without_answers_has_no_metrics(
    vocabulary, caplog, target, postprocess, metric, features
):
    task = unknown(vocabulary, target, postprocess, metric, **features)
    assert task.metrics(["", "no"], None) == {}
    [message] = caplog.messages
    assert message.startswith("films: no metrics, because the targets of this split are unknown")


def test_metrics_of_a_split_with_an_answer(vocabulary):
    by_label = functools.partial(postprocessors.class_id, names=("no", "yes"))
    task = unknown(vocabulary, "<unk>", by_label, metrics.accuracy)
    task.examples[0]["targets_pretokenized"] = b"no"
    assert task.metrics(["no", "no"], None) == {"accuracy": 50.0}


@pytest.mark.parametrize(
    ("metrics_of", "wanted"),
    [
        ({}, True),
        ({"score_metric_fns": [len]}, False),
        ({"score_metric_fns": [len], "predict_metric_fns": [len]}, True),
        ({"score_metric_fns": [len], "predict_with_aux_metric_fns": [len]}, True),
    ],
)
def test_answers_are_needed_unless_only_scores_are(vocabulary, metrics_of, wanted):
    assert make_task(vocabulary, ["film a"], **metrics_of).needs_answers is wanted


def test_text_that_was_not_kept_is_spelt_from_its_ids(vocabulary):
    (example,) = make_task(vocabulary, ["film a"]).examples
    task = make_task(vocabulary, [])
    assert task.text(example, "targets") == "good"
    assert task.text({"inputs": example["inputs"]}, "inputs") == "film a"
    assert task.text(example | {"inputs_pretokenized": b"Film A"}, "inputs") == "Film A"


def with_texts(vocabulary, targets):
    task = make_task(vocabulary, ["film"] * len(targets), targets=targets)
    for example, label in zip(task.examples, targets, strict=True):
        example["targets_pretokenized"] = label.encode()
    return task


def encoded(vocabulary, text):
    return np.array([*vocabulary.encode(text), 1, 0])


@pytest.mark.parametrize("count", [1, 40])
def test_labels_that_the_vocabulary_cannot_write_are_restored(vocabulary, count, caplog):
    """It has no "_": any number of labels is restored; other text stays as it is."""
    caplog.set_level("INFO")
    words = ("film", "story", "song", "park", "town", "long", "dull")
    labels = [f"{one}_{other}" for one in words for other in words][:count]
    task = with_texts(vocabulary, [*labels, "good"] * 2)
    written = vocabulary.decode(vocabulary.encode(labels[-1]))
    assert written != labels[-1]
    for label in (*labels, "good"):
        assert task.detokenize(encoded(vocabulary, label)) == label
    assert task.detokenize(np.array(vocabulary.encode("bad film"))) == "bad film"
    [message] = caplog.messages
    assert "predictions are mapped back to the labels" in message and "'film_film' as" in message
    assert ("and 32 more" in message) == (count == 40)
    assert message.count("' as '") == min(count, 8)


def test_labels_that_are_written_alike_are_not_guessed(vocabulary):
    """Of a registered task: of a file they are refused."""
    task = with_texts(vocabulary, ["not_good", "not-good"])
    ids = vocabulary.encode("not_good")
    assert task.detokenize(np.array(ids)) == vocabulary.decode(ids)


def test_free_text_is_not_restored(vocabulary):
    texts = [f"the_{'abcdefghij'[i % 10]}{'klm'[i // 10]}" for i in range(30)]
    task = with_texts(vocabulary, texts)
    ids = np.array(vocabulary.encode(texts[0]))
    assert task.detokenize(ids) == vocabulary.decode(ids) != texts[0]
    assert task.target_labels == {}


def test_labels_of_a_card_are_restored_by_prompt(vocabulary):
    """Those of the task's targets come first."""
    task = with_texts(vocabulary, ["Good"])
    task.labels = {"a": ["BAD", "Hood"], "b": ["Bad_"]}
    assert task.detokenize(encoded(vocabulary, "BAD"), "a") == "BAD"
    assert task.detokenize(encoded(vocabulary, "Bad_"), b"b") == "Bad_"
    assert task.detokenize(encoded(vocabulary, "BAD")) == vocabulary.decode(
        vocabulary.encode("BAD")
    )
    assert task.detokenize(encoded(vocabulary, "Good"), "b") == "Good"
    assert task.detokenize(encoded(vocabulary, "Hood"), "a") == "Good"


def test_labels_that_are_not_listed_are_reported(vocabulary, caplog):
    task = with_texts(vocabulary, ["good", "bad", "dull", "bad"])
    task.warn_of_unlisted_labels(["good", "dull", "fine"], "LABELS", "they are never predicted")
    [message] = caplog.messages
    assert message == (
        "films has labels that are not in LABELS, so they are never predicted: 'bad' (2 examples). "
        "Add them to LABELS, or correct the targets."
    )
    task.warn_of_unlisted_labels(["good", "bad", "dull"], "LABELS", "")
    task.warn_of_unlisted_labels([], "LABELS", "")
    assert len(caplog.messages) == 1


def test_one_example_per_label_is_compared_with_the_listed_labels_too(vocabulary, caplog):
    names = [f"film {i}" for i in range(30)]
    task = with_texts(vocabulary, [*names, "bad"])
    assert not task.target_labels  # they look like free text
    task.warn_of_unlisted_labels(names, "TRAIN_FILE", "the prompt does not learn them")
    assert "the prompt does not learn them: 'bad' (1 examples)" in caplog.text


def test_a_neutral_input_has_the_soft_tokens_of_its_example(vocabulary):
    task = make_task(vocabulary, ["film a", "film b"])
    task.neutral_text = "she saw : "
    text = [*vocabulary.encode("she saw :"), 1]
    assert neutral_inputs(task, SOFT) == [[300, 301, *text]]
    named = dataclasses.replace(SOFT, names=("a", "b"))
    for example, name in zip(task.examples, "ab", strict=True):
        example["prompt"] = name
    zeros = [0] * (len(text) + 2)
    assert neutral_inputs(task, named) == [[300, 301, *text], [302, 303, *text], zeros]
    last = vocabulary.size - 1
    several = dataclasses.replace(SOFT, num_tasks=2, sentinels_end=vocabulary.size)
    for example in task.examples:
        example["inputs"] = np.array([last - 1, 5, 1])
    assert neutral_inputs(task, several) == [[302, 303, *text]]
    task.neutral_text = None
    assert evaluation_task.NEUTRAL not in next(task.batches(3, several))[1]


def neutral_inputs(task, soft):
    """Those of a batch of three rows."""
    [(_, batch)] = task.batches(3, soft)
    return batch[evaluation_task.NEUTRAL].tolist()
