"""Rank classification: the label that the model finds likeliest is its answer."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Candidate(NamedTuple):
    """A label of an example: the example's number, whether it is the right one, its tokens."""

    example: int
    is_correct: bool
    tokens: int


def candidates(dataset: tf.data.Dataset, labels: Sequence[str]) -> tf.data.Dataset:
    """Each example once for each label, as its target; "is_correct" tells which one it had.

    "idx" is (number of the example, number of the label).
    """
    names = tf.constant(list(labels))

    def spread(number, example):
        count = len(labels)
        repeated = {
            "inputs": tf.repeat(example["inputs"][tf.newaxis], count),
            "targets": names,
            "is_correct": names == example["targets"],
            "idx": tf.stack([tf.repeat(number, count), tf.range(count, dtype=tf.int64)], axis=1),
        }
        return tf.data.Dataset.from_tensor_slices(repeated)

    return dataset.enumerate().flat_map(spread)


def candidate(text: str, example: Mapping[str, Any], is_target: bool) -> Candidate | str:
    """A seqio postprocessor: of a target what the metrics below need; predictions do not matter."""
    if not is_target:
        return text
    return Candidate(int(example["idx"][0]), bool(example["is_correct"]), len(example["targets"]))


def rank_accuracy(targets: Sequence[Candidate], scores: Sequence[float]) -> dict[str, float]:
    """The share of examples whose likeliest label is right, in percent."""
    return {"accuracy": _accuracy(targets, scores)}


def normed_rank_accuracy(targets: Sequence[Candidate], scores: Sequence[float]) -> dict[str, float]:
    """`rank_accuracy` by likelihood a token, so that a short label has no advantage."""
    means = [score / target.tokens for target, score in zip(targets, scores, strict=True)]
    return {"normed_accuracy": _accuracy(targets, means)}


def _accuracy(targets: Sequence[Candidate], scores: Sequence[float]) -> float:
    groups = collections.defaultdict(list)
    for target, score in zip(targets, scores, strict=True):
        groups[target.example].append((score, target.is_correct))
    hits = [some[int(np.argmax([score for score, _ in some]))][1] for some in groups.values()]
    return 100.0 * sum(hits) / len(hits)
