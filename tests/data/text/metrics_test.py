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


def test_accuracy_requires_one_prediction_per_target():
    with pytest.raises(ValueError):
        metrics.accuracy(["a", "b"], ["a"])


def test_accuracy_accepts_arrays():
    assert metrics.accuracy([1, 0], np.array([1, 1])) == {"accuracy": 50.0}


@pytest.mark.parametrize("case", GOLDENS["classes"])
def test_metrics_of_classes_equal_scikit_learn(case):
    arguments = case["targets"], case["predictions"]
    values = {
        **metrics.accuracy(*arguments),
        **metrics.matthews(*arguments),
        **metrics.macro_f1(*arguments, num_classes=case["num_classes"]),
        **(metrics.f1(*arguments) if "f1" in case["values"] else {}),
    }
    assert values == pytest.approx(case["values"])


def test_correlations_equal_scipy():
    case = GOLDENS["similarity"]
    arguments = case["targets"], case["predictions"]
    values = {**metrics.pearson(*arguments), **metrics.spearman(*arguments)}
    assert values == pytest.approx(case["values"])


def test_a_correlation_of_constant_predictions_is_nan():
    for metric in (metrics.pearson, metrics.spearman):
        [value] = metric([1.0, 2.0, 3.0], [-1.0, -1.0, -1.0]).values()
        assert math.isnan(value)
        [value] = metric([1.0], [2.0]).values()
        assert math.isnan(value)


def test_matthews_does_not_overflow():
    """Products of these counts exceed 64 bits."""
    targets, predictions = [0, 0, 1, 1] * 50_000, [0, 1, 1, 1] * 50_000
    expected = 100 * (2 * 1) / math.sqrt(1 * 3 * 2 * 2)
    assert metrics.matthews(targets, predictions)["matthews_corrcoef"] == pytest.approx(expected)


def grouped(values, groups):
    return [{"value": v, "group": g} for v, g in zip(values, groups, strict=True)]


def test_multirc_equals_super_glue():
    case = GOLDENS["multirc"]
    targets = grouped(case["targets"], case["groups"])
    predictions = grouped(case["predictions"], case["groups"])
    order = np.random.default_rng(0).permutation(len(targets))  # questions need not be together
    values = metrics.multirc([targets[i] for i in order], [predictions[i] for i in order])
    assert values == pytest.approx(case["values"])


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


def test_a_metric_accepts_predictions_with_text():
    values = metrics.of_prediction([1, 0], answered(1, 1), metric=metrics.accuracy)
    assert values == {"accuracy": 50.0}


def test_samples_show_all_and_wrong_predictions():
    values = metrics.samples([1, 0, 1], answered(1, 1, -1), task="rte")
    assert list(values) == ["rte samples", "rte negative samples"]
    texts = [
        f"input: in {i}\ntarget: out\nprediction: said {said}" for i, said in enumerate((1, 1, -1))
    ]
    assert sorted(values["rte samples"].split("\n\n")) == texts
    assert sorted(values["rte negative samples"].split("\n\n")) == texts[1:]


def test_samples_show_all_reference_answers():
    values = metrics.samples([["b", "a", "b"]], answered("c"), task="qa")
    assert values["qa samples"] == "input: in 0\ntarget: a; b\nprediction: said c"


def test_samples_of_wrong_predictions_can_be_disabled():
    values = metrics.samples([1, 0], answered(1, 1), task="xsum", show_wrong=False)
    assert list(values) == ["xsum samples"]


def test_samples_are_few_and_reproducible():
    arguments = [1] * 100, answered(*[1, 0] * 50)
    values = metrics.samples(*arguments, task="rte")
    assert [text.count("input:") for text in values.values()] == [8, 8]
    assert "said 1" not in values["rte negative samples"]
    assert values == metrics.samples(*arguments, task="rte")


@pytest.mark.parametrize(
    ("target", "prediction", "wrong"),
    [
        (["a", "b"], "b", False),
        (["a", "b"], "c", True),
        ({"value": 1, "group": 2}, {"value": 1, "group": 2}, False),
        ({"value": ["a"], "group": 2}, {"value": "b", "group": 2}, True),
    ],
)
def test_a_prediction_is_wrong_if_it_equals_no_reference_answer(target, prediction, wrong):
    values = metrics.samples([target], answered(prediction), task="x")["x negative samples"]
    assert bool(values) == wrong
