"""seqio metric functions of predictions; fractions and correlations are in percent.

Names and values are those of the t5 library, which follows the official scripts of GLUE and
SuperGLUE. A prediction that is not a label counts as wrong.
"""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.text import answers

Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, Any]]


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Computes the percentage of predictions that equal their target."""
    hits = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return {"accuracy": 100.0 * hits / len(targets)}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Computes F1 of class 1 of two; a prediction that is not a class counts as the wrong one."""
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    is_class = (predictions == 0) | (predictions == 1)
    return {"f1": 100.0 * _f1(targets, np.where(is_class, predictions, 1 - targets), 1)}


def _f1(targets: np.ndarray, predictions: np.ndarray, label: int) -> float:
    """Returns F1 of a label; 0 if no target and no prediction has it, as in scikit-learn."""
    total = np.sum(targets == label) + np.sum(predictions == label)
    hits = np.sum((targets == label) & (predictions == label))
    return float(2 * hits / total) if total else 0.0


def macro_f1(
    targets: Sequence[int], predictions: Sequence[int], *, num_classes: int
) -> dict[str, float]:
    """Computes the mean F1 over classes."""
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    mean = np.mean([_f1(targets, predictions, label) for label in range(num_classes)])
    return {f"mean_{num_classes}class_f1": 100.0 * float(mean)}


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Computes the multiclass Matthews correlation (Gorodkin, 2004); 0 if one side is constant.

    Invalid predictions form a class.
    """
    labels = sorted({*targets, *predictions})
    # [N, classes], one-hot.
    targets, predictions = (np.asarray(x)[:, None] == labels for x in (targets, predictions))
    count, hits = len(targets), np.sum(targets & predictions)
    # Floats: products of int64 counts overflow above about 50,000 examples.
    target_counts, prediction_counts = targets.sum(0, dtype=float), predictions.sum(0, dtype=float)
    covariance = hits * count - target_counts @ prediction_counts
    variances = (count**2 - target_counts @ target_counts) * (
        count**2 - prediction_counts @ prediction_counts
    )
    value = covariance / np.sqrt(variances) if variances else 0.0
    return {"matthews_corrcoef": 100.0 * float(value)}


def pearson(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Computes Pearson's correlation; NaN for one example or for constant values."""
    return {"pearson_corrcoef": _correlation("pearsonr", targets, predictions)}


def spearman(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Computes Spearman's rank correlation; NaN for one example or for constant values."""
    return {"spearman_corrcoef": _correlation("spearmanr", targets, predictions)}


def _correlation(name: str, targets: Sequence[float], predictions: Sequence[float]) -> float:
    import scipy.stats

    if len(targets) < 2:
        return float("nan")
    with warnings.catch_warnings():
        # NaN already shows that the correlation is undefined.
        warnings.simplefilter("ignore")
        return 100.0 * float(getattr(scipy.stats, name)(targets, predictions).statistic)


def multirc(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Computes MultiRC's "f1" over answers and "exact_match" over questions.

    Args:
      targets: {"value": 0 or 1, "group": question}; see `postprocessors.multirc`.
      predictions: the same; a question is correct if all its answers are.
    """
    is_correct: dict[Any, bool] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        hit = target["value"] == prediction["value"]
        is_correct[target["group"]] = is_correct.get(target["group"], True) and hit
    values = ([example["value"] for example in side] for side in (targets, predictions))
    return {**f1(*values), "exact_match": 100.0 * sum(is_correct.values()) / len(is_correct)}


def record(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Computes SQuAD's "em" and "f1" for ReCoRD, with each query counted once.

    Args:
      targets: {"value": correct answers, "group": query}.
      predictions: {"value": prediction, "group": query}; the first of a query counts.
    """
    firsts: dict[Any, tuple[Any, Any]] = {}
    for target, prediction in zip(targets, predictions, strict=True):
        firsts.setdefault(target["group"], (target["value"], prediction["value"]))
    return answers.squad(*zip(*firsts.values(), strict=True))


def of_prediction(
    targets: Sequence[Any], predictions: Sequence[Mapping[str, Any]], metric: Metric
) -> dict[str, Any]:
    """Computes a metric of predictions that `postprocessors.with_text` made."""
    return metric(targets, [prediction["prediction"] for prediction in predictions])


def samples(
    targets: Sequence[Any],
    predictions: Sequence[Mapping[str, Any]],
    task: str,
    count: int = 8,
    show_wrong: bool = True,
) -> dict[str, str]:
    """Formats sampled predictions as "TASK samples", and wrong ones as "TASK negative samples".

    The sample depends only on the number of predictions. All reference answers of a question are
    shown. Disable `show_wrong` where no prediction equals its target, such as for summaries.
    """
    pairs = list(zip(targets, predictions, strict=True))
    values = {f"{task} samples": _sample(pairs, count)}
    if show_wrong:
        wrong = [(t, p) for t, p in pairs if not _is_correct(t, p["prediction"])]
        values[f"{task} negative samples"] = _sample(wrong, count)
    return values


def _is_correct(target: Any, prediction: Any) -> bool:
    """Whether a prediction equals its target, or one of several reference answers."""
    if isinstance(target, Mapping):
        return _is_correct(target["value"], prediction["value"])
    return prediction in target if isinstance(target, list) else prediction == target


def _sample(pairs: Sequence[tuple[Any, Mapping[str, Any]]], count: int) -> str:
    indices = random.Random(0).sample(range(len(pairs)), min(count, len(pairs)))
    return "\n\n".join(_format(*pairs[i]) for i in indices)


def _format(target: Any, prediction: Mapping[str, Any]) -> str:
    answer = _decode(prediction["targets_pretokenized"])
    if isinstance(target, list):
        answer = "; ".join(sorted(set(target)))
    return (
        f"input: {_decode(prediction['inputs_pretokenized'])}\ntarget: {answer}\n"
        f"prediction: {_decode(prediction['prediction_pretokenized'])}"
    )


def _decode(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
