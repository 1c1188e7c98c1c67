"""Writes tests/testdata/metrics.json: predictions, and metrics of scikit-learn and SciPy.

Requires scikit-learn, which is no dependency of this package:

    python scripts/make_metric_goldens.py tests/testdata/metrics.json

The official scripts of GLUE and SuperGLUE compute these metrics with the same functions. Metrics of
MultiRC are SuperGLUE's: F1a over all answers, and exact match of all answers to a question.
"""

import collections
import json
import sys
import warnings

import numpy as np
import scipy.stats
from sklearn import metrics

SIZE = 60


def percent(value: float) -> float:
    return 100.0 * float(value)


def classes(rng: np.random.Generator, num_classes: int, invalid: float) -> dict[str, list]:
    """Draws targets, and predictions of which some are right and some are invalid (-1)."""
    targets = rng.integers(num_classes, size=SIZE)
    guesses = rng.integers(num_classes, size=SIZE)
    predictions = np.where(rng.random(SIZE) < 0.6, targets, guesses)
    predictions = np.where(rng.random(SIZE) < invalid, -1, predictions)
    return {"targets": targets.tolist(), "predictions": predictions.tolist()}


def two_class_f1(targets: list[int], predictions: list[int]) -> float:
    """Computes F1 of class 1; an invalid prediction counts as the wrong class."""
    pairs = zip(targets, predictions, strict=True)
    valid = [p if p in (0, 1) else 1 - t for t, p in pairs]
    return percent(metrics.f1_score(targets, valid))


def class_metrics(targets: list[int], predictions: list[int], num_classes: int) -> dict[str, float]:
    values = {
        "accuracy": percent(metrics.accuracy_score(targets, predictions)),
        "matthews_corrcoef": percent(metrics.matthews_corrcoef(targets, predictions)),
        f"mean_{num_classes}class_f1": percent(
            metrics.f1_score(
                targets,
                predictions,
                labels=range(num_classes),
                average="macro",
                zero_division=0.0,
            )
        ),
    }
    if num_classes == 2:
        values["f1"] = two_class_f1(targets, predictions)
    return values


def multirc(rng: np.random.Generator) -> dict[str, list | dict[str, float]]:
    case = classes(rng, 2, 0.1)
    groups = np.sort(rng.integers(12, size=SIZE)).tolist()
    by_question = collections.defaultdict(list)
    for group, target, prediction in zip(groups, case["targets"], case["predictions"], strict=True):
        by_question[group].append(target == prediction)
    values = {
        "f1": two_class_f1(case["targets"], case["predictions"]),
        "exact_match": percent(np.mean([all(hits) for hits in by_question.values()])),
    }
    return {**case, "groups": groups, "values": values}


def correlated(rng: np.random.Generator) -> dict[str, list | dict[str, float]]:
    targets = rng.integers(26, size=SIZE) / 5
    predictions = np.round((targets + rng.normal(0, 1.5, SIZE)) * 5) / 5
    predictions = np.where(rng.random(SIZE) < 0.1, -1.0, predictions)
    values = {
        "pearson_corrcoef": percent(scipy.stats.pearsonr(targets, predictions)[0]),
        "spearman_corrcoef": percent(scipy.stats.spearmanr(targets, predictions)[0]),
    }
    return {"targets": targets.tolist(), "predictions": predictions.tolist(), "values": values}


def main() -> None:
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    cases = []
    for num_classes in (2, 3):
        for invalid in (0.0, 0.1, 1.0):
            case = classes(rng, num_classes, invalid)
            values = class_metrics(case["targets"], case["predictions"], num_classes)
            cases.append({**case, "num_classes": num_classes, "values": values})
    # A single class; a class in neither targets nor predictions.
    for targets, predictions in (([1] * 5, [1] * 5), ([0, 0, 1], [1, 1, 0]), ([0, 2], [0, 0])):
        values = class_metrics(targets, predictions, 3)
        case = {"targets": targets, "predictions": predictions, "num_classes": 3}
        cases.append({**case, "values": values})
    goldens = {"classes": cases, "multirc": multirc(rng), "similarity": correlated(rng)}
    with open(sys.argv[1], "w") as out:
        json.dump(goldens, out)
        out.write("\n")


if __name__ == "__main__":
    main()
