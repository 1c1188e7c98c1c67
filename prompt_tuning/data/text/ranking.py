"""Rank classification: the label that the model finds likeliest is its answer."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from prompt_tuning.data.text import metrics

Metric = Callable[[Sequence["Candidate"], Sequence[float]], dict[str, float]]


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
    return _spread(dataset, lambda example: (names, names == example["targets"]))


def entities(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """`candidates` where each example has its own: its "entities", of which "answers" are right."""

    def of_example(example):
        names = example["entities"]
        is_answer = names[:, tf.newaxis] == example["answers"][tf.newaxis]
        return names, tf.reduce_any(is_answer, axis=1)

    return _spread(dataset, of_example)


def _spread(dataset: tf.data.Dataset, of_example: Callable) -> tf.data.Dataset:
    def spread(number, example):
        names, is_correct = of_example(example)
        count = tf.size(names, tf.int64)
        repeated = {
            "inputs": tf.repeat(example["inputs"][tf.newaxis], count),
            "targets": names,
            "is_correct": is_correct,
            "idx": tf.stack([tf.repeat(number, count), tf.range(count)], axis=1),
        }
        return tf.data.Dataset.from_tensor_slices(repeated)

    return dataset.enumerate().flat_map(spread)


def candidate(text: str, example: Mapping[str, Any], is_target: bool) -> Candidate | str:
    """A seqio postprocessor: of a target what the metrics below need; predictions do not matter."""
    if not is_target:
        return text
    return Candidate(int(example["idx"][0]), bool(example["is_correct"]), len(example["targets"]))


def rank_accuracy(targets: Sequence[Candidate], scores: Sequence[float]) -> dict[str, float]:
    """The share of examples whose likeliest candidate is right, in percent."""
    groups = _groups(targets, scores)
    hits = [is_correct[np.argmax(some)] for is_correct, some in groups]
    return {"accuracy": 100.0 * float(np.mean(hits))}


def _groups(
    targets: Sequence[Candidate], scores: Sequence[float]
) -> list[tuple[list[bool], list[float]]]:
    """Of each example (whether each candidate is right, their scores)."""
    groups = collections.defaultdict(lambda: ([], []))
    for target, score in zip(targets, scores, strict=True):
        groups[target.example][0].append(target.is_correct)
        groups[target.example][1].append(score)
    return list(groups.values())


def rank_classes(
    targets: Sequence[Candidate], scores: Sequence[float], num_classes: int
) -> dict[str, float]:
    """Of labels that are the same for all examples, in percent: "accuracy" and F1.

    Of two labels F1 is that of the second, and there are "auc-roc" and "auc-pr" (average
    precision) of ranking examples by how much likelier the second is than the first; they
    are nan where all examples have the same label. Of more, F1 is the mean of all labels'.
    """
    # A limit on the examples may cut the last group.
    groups = [group for group in _groups(targets, scores) if len(group[1]) == num_classes]
    if not groups:
        return {}
    is_correct, likelihoods = (np.array(column) for column in zip(*groups, strict=True))
    wanted, given = is_correct.argmax(axis=1), likelihoods.argmax(axis=1)
    values = metrics.accuracy(wanted, given)
    if num_classes > 2:
        return values | metrics.macro_f1(wanted, given, num_classes=num_classes)
    margins = likelihoods[:, 1] - likelihoods[:, 0]
    return {
        **values,
        **metrics.f1(wanted, given),
        "auc-roc": 100.0 * _auc_roc(wanted == 1, margins),
        "auc-pr": 100.0 * _auc_pr(wanted == 1, margins),
    }


def _auc_roc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """How likely a positive has a higher score than a negative; half where they are the same."""
    import scipy.stats

    positives, negatives = is_positive.sum(), (~is_positive).sum()
    if not positives or not negatives:
        return float("nan")
    ranks = scipy.stats.rankdata(scores)[is_positive].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * negatives))


def _auc_pr(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """The mean over positives of the precision among all with at least their score."""
    if not is_positive.any() or is_positive.all():
        return float("nan")
    of_positives = scores[is_positive]
    among_positives, among_all = (
        len(some) - np.searchsorted(np.sort(some), of_positives) for some in (of_positives, scores)
    )
    return float(np.mean(among_positives / among_all))


def by_length(
    targets: Sequence[Candidate], scores: Sequence[float], metric: Metric, prefix: str = ""
) -> dict[str, float]:
    """A metric of likelihoods a token, so that a short label has no advantage.

    `prefix` stands in front of the metric's names.
    """
    means = [score / target.tokens for target, score in zip(targets, scores, strict=True)]
    return {f"{prefix}{name}": value for name, value in metric(targets, means).items()}
