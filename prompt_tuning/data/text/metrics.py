"""Metrics of answers, as seqio metric functions; shares and correlations are in percent.

Names and values are those of the t5 library, which follows the official scripts of GLUE and
SuperGLUE. An answer that is no label counts as wrong.
"""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.text import answers

Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, Any]]


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """The share of predictions that are the target, in percent."""
    hits = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return {"accuracy": 100.0 * hits / len(targets)}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """F1 of class 1 of two; a prediction that is neither counts as the wrong one."""
    wanted, given = np.asarray(targets), np.asarray(predictions)
    given = np.where((given == 0) | (given == 1), given, 1 - wanted)
    return {"f1": 100.0 * _f1(wanted, given, 1)}


def _f1(targets: np.ndarray, predictions: np.ndarray, label: int) -> float:
    """0 where no target and no prediction is the label, as in scikit-learn."""
    total = np.sum(targets == label) + np.sum(predictions == label)
    hits = np.sum((targets == label) & (predictions == label))
    return float(2 * hits / total) if total else 0.0


def macro_f1(
    targets: Sequence[int], predictions: Sequence[int], *, num_classes: int
) -> dict[str, float]:
    """The mean of the F1 of each class."""
    wanted, given = np.asarray(targets), np.asarray(predictions)
    mean = np.mean([_f1(wanted, given, label) for label in range(num_classes)])
    return {f"mean_{num_classes}class_f1": 100.0 * float(mean)}


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Matthews' correlation, of any number of classes (Gorodkin, 2004); 0 where one is constant.

    What is no label is a class of its own.
    """
    labels = sorted({*targets, *predictions})
    wanted, given = (np.asarray(x)[:, None] == labels for x in (targets, predictions))
    count, hits = len(wanted), np.sum(wanted & given)
    # As floats: their product overflows 64 bits from some 50,000 examples on.
    of_target, of_prediction = wanted.sum(0, dtype=float), given.sum(0, dtype=float)
    covariance = hits * count - of_target @ of_prediction
    variances = (count**2 - of_target @ of_target) * (count**2 - of_prediction @ of_prediction)
    value = covariance / np.sqrt(variances) if variances else 0.0
    return {"matthews_corrcoef": 100.0 * float(value)}


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation; nan of one example, or where targets or predictions are all the same."""
    return {"pearson_corrcoef": _correlation("pearsonr", targets, predictions)}


def spearman(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Spearman's correlation of ranks; nan where `pearson` is."""
    return {"spearman_corrcoef": _correlation("spearmanr", targets, predictions)}


def _correlation(name: str, targets: Sequence[float], predictions: Sequence[float]) -> float:
    import scipy.stats

    if len(targets) < 2:
        return float("nan")
    with warnings.catch_warnings():
        # The value NaN says that it is undefined.
        warnings.simplefilter("ignore")
        return 100.0 * float(getattr(scipy.stats, name)(targets, predictions).statistic)


def multirc(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """MultiRC: "f1" over all answers, and "exact_match": questions with all answers right.

    Args:
      targets: {"value": 0 or 1, "group": the question}, as `postprocessors.multirc` makes them.
      predictions: the same.
    """
    right: dict[Any, bool] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        hit = target["value"] == prediction["value"]
        right[target["group"]] = right.get(target["group"], True) and hit
    values = [[each["value"] for each in some] for some in (targets, predictions)]
    return {**f1(*values), "exact_match": 100.0 * sum(right.values()) / len(right)}


def record(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """ReCoRD: exact match "em" and "f1" as for SQuAD, each query counted once.

    Args:
      targets: {"value": the right answers, "group": the query}.
      predictions: {"value": the answer, "group": the query}; the first of a query counts.
    """
    firsts: dict[Any, tuple[Any, Any]] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        firsts.setdefault(target["group"], (target["value"], prediction["value"]))
    return answers.squad([t for t, _ in firsts.values()], [p for _, p in firsts.values()])


def of_prediction(
    targets: Sequence[Any], predictions: Sequence[Mapping[str, Any]], metric: Metric
) -> dict[str, Any]:
    """A metric of predictions with text beside them; see `postprocessors.with_text`."""
    return metric(targets, [prediction["prediction"] for prediction in predictions])


def samples(
    targets: Sequence[Any],
    predictions: Sequence[Mapping[str, Any]],
    task: str,
    count: int = 8,
    wrong_too: bool = True,
) -> dict[str, str]:
    """Some answers as text, "TASK samples", and some that differ, "TASK negative samples".

    They are drawn anew each time, always the same of the same. Of a question all right answers
    are shown. `wrong_too` is False where no answer is like its target, as of summaries.
    """
    pairs = list(zip(targets, predictions, strict=True))
    values = {f"{task} samples": _sample(pairs, count)}
    if wrong_too:
        wrong = [(t, p) for t, p in pairs if not _is_same(t, p["prediction"])]
        values[f"{task} negative samples"] = _sample(wrong, count)
    return values


def _is_same(target: Any, prediction: Any) -> bool:
    """Where several answers are right, one of them will do."""
    if isinstance(target, Mapping):
        return _is_same(target["value"], prediction["value"])
    return prediction in target if isinstance(target, list) else prediction == target


def _sample(pairs: Sequence[tuple[Any, Mapping[str, Any]]], count: int) -> str:
    drawn = random.Random(0).sample(range(len(pairs)), min(count, len(pairs)))
    return "\n\n".join(_shown(*pairs[i]) for i in drawn)


def _shown(target: Any, prediction: Mapping[str, Any]) -> str:
    answer = _text(prediction["targets_pretokenized"])
    if isinstance(target, list):
        answer = "; ".join(sorted(set(target)))
    return (
        f"input: {_text(prediction['inputs_pretokenized'])}\ntarget: {answer}\n"
        f"prediction: {_text(prediction['prediction_pretokenized'])}"
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
