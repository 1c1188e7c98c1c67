"""Batches of examples in memory; of tasks: pipeline_test.py."""

import itertools

import numpy as np
import pytest
import seqio

from prompt_tuning.data import features, in_memory, pipeline
from prompt_tuning.data.batches import epochs, soft_tokens

SOFT = soft_tokens.SoftTokens(np.array([300, 301], np.int32))
TEXTS = [f"film {letter}" for letter in "adefghiklm"]
LABELS = ["good", "bad"] * 5


def batches(vocabulary, texts=TEXTS, labels=LABELS, **settings):
    defaults = {"task_feature_lengths": None, "split": "train", "batch_size": 4}
    config = pipeline.DatasetConfig(None, **(defaults | settings))
    return pipeline.example_batches(
        "examples", epochs.tokenized(texts, labels, vocabulary), config, SOFT, 2
    )


def texts_of(some, vocabulary):
    for batch in some:
        for row in batch["encoder_input_tokens"]:
            assert row[:2].tolist() == [300, 301]
            yield vocabulary.decode(row[2:])


def test_every_epoch_has_each_example_once_in_an_order_of_its_own(vocabulary):
    endless = batches(vocabulary, batch_size=5)
    rounds = [list(texts_of(itertools.islice(endless, 2), vocabulary)) for _ in range(3)]
    assert [sorted(each) for each in rounds] == [TEXTS] * 3
    assert len({tuple(each) for each in rounds}) == 3


def test_order_follows_the_seed(vocabulary):
    once, again, other = (
        list(texts_of(itertools.islice(batches(vocabulary, seed=seed), 5), vocabulary))
        for seed in (1, 1, 7)
    )
    assert once == again != other


@pytest.mark.parametrize("pack", [False, True])
def test_position_is_where_the_next_batch_begins(vocabulary, pack):
    endless = batches(vocabulary, pack=pack)
    seen, positions = [], []
    for _ in range(6):
        positions.append(dict(endless.position))
        seen.append(next(endless))
    assert (positions[0], positions[3]) == (
        {"epoch": 0, "examples": 0},
        {"epoch": 1, "examples": 2},
    )
    again = batches(vocabulary, pack=pack)
    again.position = positions[4]
    for old, new in zip(seen[4:], again, strict=False):
        for name, array in old.items():
            np.testing.assert_array_equal(new[name], array)
    assert len(seen[0]["encoder_input_tokens"]) % 2 == 0


def test_ids_are_those_of_a_task(vocabulary):
    texts = ["she liked the film .", "", "  two  spaces ", "SHE <extra_id_0>"]
    rows = [{"inputs": text, "targets": "good"} for text in texts]
    task = seqio.Task(
        "same",
        source=in_memory.InMemory({"train": rows}),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=features.features(),
    )
    task = pipeline.use_vocabulary(task, vocabulary)
    expected = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    found = epochs.tokenized(texts, ["good"] * len(texts), vocabulary)
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("inputs", "targets"):
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_sample_is_of_the_whole(vocabulary):
    ordered = epochs.tokenized(["a" * i for i in range(1, 101)], ["good"] * 100, vocabulary)
    assert epochs.sample(ordered, 200) == ordered
    sample = epochs.sample(ordered, 20)
    lengths = [len(example["inputs"]) for example in sample]
    assert len(sample) == len(set(lengths)) == 20 and 35 < np.mean(lengths) < 65
    np.testing.assert_array_equal(
        lengths, [len(example["inputs"]) for example in epochs.sample(ordered, 20)]
    )


def test_without_lengths_the_longest_example_fits(vocabulary, caplog):
    batch = next(batches(vocabulary, [*TEXTS, "film " * 30], [*LABELS, "good"], batch_size=11))
    assert "is cut off" not in caplog.text
    longest = len(vocabulary.encode("film " * 30)) + 1 + 2
    assert (batch["encoder_input_tokens"] > 0).sum(axis=1).max() == longest


def test_what_does_not_fit_is_told(vocabulary, caplog):
    lengths = {"inputs": 3, "targets": 8}
    batches(vocabulary, task_feature_lengths=lengths)
    assert (
        "inputs of 10 of 10 examples (100 %) have more than task_feature_lengths['inputs'] = 3 tokens"
        in caplog.text
    )
    with pytest.raises(ValueError, match=r"labels of examples are longer .* to at least"):
        batches(vocabulary, task_feature_lengths={"inputs": 20, "targets": 2})
    with pytest.raises(ValueError, match="examples is empty; expected at least one"):
        batches(vocabulary, [], [])
