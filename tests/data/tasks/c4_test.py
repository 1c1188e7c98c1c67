"""Pre-training objectives on C4."""

import json

import numpy as np
import pytest
import seqio

from prompt_tuning.data import pipeline, sources
from prompt_tuning.data.batches import soft_tokens
from prompt_tuning.data.tasks import c4

LENGTHS = {"inputs": 24, "targets": 24}


@pytest.fixture
def folder(tmp_path):
    """Three documents."""
    texts = ["she liked the good film in the park . " * 8, "a long story", "the song in town " * 9]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "c4-train.00000-of-01024.json").write_text(lines)
    return str(tmp_path)


def examples(objective, folder, vocabulary):
    config = pipeline.DatasetConfig(
        source=sources.TaskSource(name=f"c4_v220_{objective}", data_dir=folder),
        task_feature_lengths=LENGTHS,
        split="train",
        batch_size=1,
    )
    (task,) = pipeline.evaluation_tasks(config, vocabulary)
    return [(e["inputs"].tolist(), e["targets"].tolist()) for e in task.examples]


@pytest.mark.parametrize("objective", c4.OBJECTIVES)
def test_training_data_has_a_reproducible_digest(folder, vocabulary, objective, tmp_path):
    """Also with random objectives; other documents have another digest."""
    source = sources.TaskSource(name=f"c4_v220_{objective}", data_dir=folder)
    config = pipeline.DatasetConfig(source, LENGTHS, "train", 1)
    soft = soft_tokens.SoftTokens(np.zeros(0, np.int32))
    first, again = (pipeline.TrainBatches(config, vocabulary, soft).digests for _ in range(2))
    (shard,) = tmp_path.glob("c4-train*")
    shard.write_text(shard.read_text().replace("she liked", "he hated"))
    other = pipeline.TrainBatches(config, vocabulary, soft).digests
    assert first == again != other and list(first) == [f"c4_v220_{objective}"]


def test_every_objective_is_registered_with_source_and_splits():
    names = {n for n in seqio.TaskRegistry.names() if n.startswith("c4_")}
    assert names == {
        "c4_v220_bart_text_infilling",
        "c4_v220_bart_token_deletion",
        "c4_v220_prefix_lm",
        "c4_v220_random_positive_negative_targets",
        "c4_v220_span_corruption",
    }
    for name in names:
        task = seqio.TaskRegistry.get(name)
        assert task.source.name == "c4/en:2.2.0" and tuple(task.splits) == ("train", "validation")


def is_text(ids, vocabulary):
    words = vocabulary.encode("she liked the good film in the park . a long story song town")
    return set(ids[:-1]) <= set(words)


def is_subsequence(ids, of):
    remaining = iter(of)
    return all(token in remaining for token in ids)


EXPECTED = {
    "prefix_lm": lambda i, t, v: is_text(t[:1], v) and len(i) > 1,
    "bart_token_deletion": lambda i, t, v: is_text(t, v) and is_subsequence(i, t),
    "bart_text_infilling": lambda i, t, v: is_text(t, v) and v.size - 1 in i,
    "span_corruption": lambda i, t, v: v.size - 1 in i and t[0] == v.size - 1,
    "random_positive_negative_targets": lambda i, t, v: v.decode(t) in ("positive", "negative"),
}


@pytest.mark.parametrize("objective", c4.OBJECTIVES)
def test_examples_fit_end_with_eos_and_have_the_form_of_the_objective(
    folder, vocabulary, objective
):
    pairs = examples(objective, folder, vocabulary)
    assert len(pairs) > 2
    for inputs, targets in pairs:
        assert inputs[-1] == targets[-1] == 1
        assert max(len(inputs), len(targets)) <= 24
        assert EXPECTED[objective](inputs, targets, vocabulary)
        if objective != "span_corruption":
            assert 1 not in inputs[:-1] and 1 not in targets[:-1], "documents are concatenated"
