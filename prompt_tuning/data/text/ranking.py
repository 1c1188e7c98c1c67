"""Rank classification: the candidate with the highest likelihood is the prediction."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from prompt_tuning.data.text import metrics

Metric = Callable[[Sequence["Candidate"], Sequence[float]], dict[str, float]]


class Candidate(NamedTuple):
    """A candidate target of an example.

    Attributes:
      example: index of the example.
      is_correct: whether it is the example's target.
      tokens: number of tokens, with EOS.
    """

    example: int
    is_correct: bool
    tokens: int


def candidates(dataset: tf.data.Dataset, labels: Sequence[str]) -> tf.data.Dataset:
    """Repeats each example with each label as its target.

    Adds "is_correct", whether the label was the target, and "idx", (example, label) indices.
    """
    names = tf.constant(list(labels))
    return _repeat(dataset, lambda example: (names, names == example["targets"]))


def entities(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Repeats each example with each of its "entities"; those in its "answers" are correct."""

    def entities_of(example):
        names = example["entities"]
        is_answer = names[:, tf.newaxis] == example["answers"][tf.newaxis]
        return names, tf.reduce_any(is_answer, axis=1)

    return _repeat(dataset, entities_of)


def _repeat(dataset: tf.data.Dataset, candidates_of: Callable) -> tf.data.Dataset:
    def repeat(index, example):
        names, is_correct = candidates_of(example)
        count = tf.size(names, tf.int64)
        repeated = {
            "inputs": tf.repeat(example["inputs"][tf.newaxis], count),
            "targets": names,
            "is_correct": is_correct,
            "idx": tf.stack([tf.repeat(index, count), tf.range(count)], axis=1),
        }
        return tf.data.Dataset.from_tensor_slices(repeated)

    return dataset.enumerate().flat_map(repeat)


def candidate(text: str, example: Mapping[str, Any], is_target: bool) -> Candidate | str:
    """Postprocesses a target to a Candidate; predicted text is not used by these metrics."""
    if not is_target:
        return text
    return Candidate(int(example["idx"][0]), bool(example["is_correct"]), len(example["targets"]))


def rank_accuracy(targets: Sequence[Candidate], scores: Sequence[float]) -> dict[str, float]:
    """Computes the percentage of examples whose most likely candidate is correct."""
    hits = [
        is_correct[np.argmax(likelihoods)] for is_correct, likelihoods in _groups(targets, scores)
    ]
    return {"accuracy": 100.0 * float(np.mean(hits))}


def _groups(
    targets: Sequence[Candidate], scores: Sequence[float]
) -> list[tuple[list[bool], list[float]]]:
    """Groups by example: (is_correct of each candidate, their scores)."""
    groups = collections.defaultdict(lambda: ([], []))
    for target, score in zip(targets, scores, strict=True):
        groups[target.example][0].append(target.is_correct)
        groups[target.example][1].append(score)
    return list(groups.values())


def rank_classes(
    targets: Sequence[Candidate], scores: Sequence[float], num_classes: int
) -> dict[str, float]:
    """Computes accuracy and F1 in percent, where all examples have the same candidates.

    With two classes F1 is that of the second, and "auc-roc" and "auc-pr" (average precision)
    rank examples by the difference of their log likelihoods; NaN if all examples have the same
    label. With more classes F1 is the mean over classes.
    """
    # A limit on the number of examples may leave the last group incomplete.
    groups = [group for group in _groups(targets, scores) if len(group[1]) == num_classes]
    if not groups:
        return {}
    is_correct, likelihoods = (np.array(column) for column in zip(*groups, strict=True))
    labels, predictions = is_correct.argmax(axis=1), likelihoods.argmax(axis=1)
    values = metrics.accuracy(labels, predictions)
    if num_classes > 2:
        return values | metrics.macro_f1(labels, predictions, num_classes=num_classes)
    margins = likelihoods[:, 1] - likelihoods[:, 0]
    return {
        **values,
        **metrics.f1(labels, predictions),
        "auc-roc": 100.0 * _auc_roc(labels == 1, margins),
        "auc-pr": 100.0 * _auc_pr(labels == 1, margins),
    }


def _auc_roc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Returns the probability that a positive scores above a negative; ties count half."""
    import scipy.stats

    positives, negatives = is_positive.sum(), (~is_positive).sum()
    if not positives or not negatives:
        return float("nan")
    ranks = scipy.stats.rankdata(scores)[is_positive].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * negatives))


def _auc_pr(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Returns the mean over positives of the precision at their score."""
    if not is_positive.any() or is_positive.all():
        return float("nan")
    thresholds = scores[is_positive]
    positives, selected = (
        len(x) - np.searchsorted(np.sort(x), thresholds) for x in (thresholds, scores)
    )
    return float(np.mean(positives / selected))


def by_length(
    targets: Sequence[Candidate], scores: Sequence[float], metric: Metric, prefix: str = ""
) -> dict[str, float]:
    """Computes a metric of scores per token, which do not favor short candidates.

    `prefix` precedes the metric's names.
    """
    means = [score / target.tokens for target, score in zip(targets, scores, strict=True)]
    return {f"{prefix}{name}": value for name, value in metric(targets, means).items()}
