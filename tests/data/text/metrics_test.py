"""Metrics equal scikit-learn's and SciPy's on stored predictions (scripts/make_metric_goldens.py)."""

import json
import math
import pathlib

import numpy as np
import pytest

from prompt_tuning.data.text import metrics

GOLDENS = json.loads((pathlib.Path(__file__).parents[2] / "testdata/metrics.json").read_text())


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [(["a", "b", "b", "a"], 75.0), (["a", "b", "c", "a"], 100.0), (["A", "", "a", "b"], 0.0)],
)
def test_accuracy_is_in_percent(predictions, expected):
    assert metrics.accuracy(["a", "b", "c", "a"], predictions) == {"accuracy": expected}


def test_accuracy_needs_a_prediction_for_each_target():
    with pytest.raises(ValueError):
        metrics.accuracy(["a", "b"], ["a"])


def test_accuracy_with_numbers():
    assert metrics.accuracy([1, 0], np.array([1, 1])) == {"accuracy": 50.0}


@pytest.mark.parametrize("case", GOLDENS["classes"])
def test_metrics_of_classes(case):
    given = case["targets"], case["predictions"]
    found = {
        **metrics.accuracy(*given),
        **metrics.matthews(*given),
        **metrics.macro_f1(*given, num_classes=case["num_classes"]),
        **(metrics.f1(*given) if "f1" in case["values"] else {}),
    }
    assert found == pytest.approx(case["values"])


def test_correlations():
    case = GOLDENS["similarity"]
    given = case["targets"], case["predictions"]
    found = {**metrics.pearson(*given), **metrics.spearman(*given)}
    assert found == pytest.approx(case["values"])


def test_a_correlation_of_answers_that_are_all_the_same_is_no_number():
    for metric in (metrics.pearson, metrics.spearman):
        [value] = metric([1.0, 2.0, 3.0], [-1.0, -1.0, -1.0]).values()
        assert math.isnan(value)
        [value] = metric([1.0], [2.0]).values()
        assert math.isnan(value)


def test_matthews_of_many_examples():
    """Products of their counts are beyond 64 bits."""
    targets, predictions = [0, 0, 1, 1] * 50_000, [0, 1, 1, 1] * 50_000
    expected = 100 * (2 * 1) / math.sqrt(1 * 3 * 2 * 2)
    assert metrics.matthews(targets, predictions)["matthews_corrcoef"] == pytest.approx(expected)


def grouped(values, groups):
    return [{"value": v, "group": g} for v, g in zip(values, groups, strict=True)]


def test_multirc():
    case = GOLDENS["multirc"]
    targets = grouped(case["targets"], case["groups"])
    predictions = grouped(case["predictions"], case["groups"])
    order = np.random.default_rng(0).permutation(len(targets))  # questions need not be together
    found = metrics.multirc([targets[i] for i in order], [predictions[i] for i in order])
    assert found == pytest.approx(case["values"])


def test_record_counts_each_query_once():
    groups = [(0, 0), (0, 0), (0, 1), (1, 0)]
    targets = grouped([["Ann", "Ann Lee"]] * 2 + [["The Hague"], ["Bob Ray"]], groups)
    predictions = grouped(["ann", "wrong", "Hague.", "Bob"], groups)
    # 1, 1 and 0 are exact; F1 is 1, 1 and 2 * 1 * 0.5 / 1.5.
    assert metrics.record(targets, predictions) == pytest.approx(
        {"em": 200 / 3, "f1": 100 * (2 + 2 / 3) / 3}
    )


def answered(*predictions):
    return [
        {
            "prediction": prediction,
            "prediction_pretokenized": f"said {prediction}",
            "inputs_pretokenized": f"in {i}".encode(),
            "targets_pretokenized": b"out",
        }
        for i, prediction in enumerate(predictions)
    ]


def test_a_metric_of_predictions_with_text():
    found = metrics.of_prediction([1, 0], answered(1, 1), metric=metrics.accuracy)
    assert found == {"accuracy": 50.0}


def test_samples_of_all_answers_and_of_wrong_ones():
    found = metrics.samples([1, 0, 1], answered(1, 1, -1), task="rte")
    assert list(found) == ["rte samples", "rte negative samples"]
    texts = [
        f"input: in {i}\ntarget: out\nprediction: said {said}" for i, said in enumerate((1, 1, -1))
    ]
    assert sorted(found["rte samples"].split("\n\n")) == texts
    assert sorted(found["rte negative samples"].split("\n\n")) == texts[1:]


def test_all_right_answers_to_a_question_are_shown():
    found = metrics.samples([["b", "a", "b"]], answered("c"), task="qa")
    assert found["qa samples"] == "input: in 0\ntarget: a; b\nprediction: said c"


def test_samples_without_wrong_ones():
    found = metrics.samples([1, 0], answered(1, 1), task="xsum", wrong_too=False)
    assert list(found) == ["xsum samples"]


def test_samples_are_few_and_always_the_same():
    given = [1] * 100, answered(*[1, 0] * 50)
    found = metrics.samples(*given, task="rte")
    assert [text.count("input:") for text in found.values()] == [8, 8]
    assert "said 1" not in found["rte negative samples"]
    assert found == metrics.samples(*given, task="rte")


@pytest.mark.parametrize(
    ("target", "prediction", "wrong"),
    [
        (["a", "b"], "b", False),
        (["a", "b"], "c", True),
        ({"value": 1, "group": 2}, {"value": 1, "group": 2}, False),
        ({"value": ["a"], "group": 2}, {"value": "b", "group": 2}, True),
    ],
)
def test_what_a_wrong_answer_is(target, prediction, wrong):
    found = metrics.samples([target], answered(prediction), task="x")["x negative samples"]
    assert bool(found) == wrong
