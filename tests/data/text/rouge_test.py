"""ROUGE equals the package rouge-score (scripts/make_rouge_goldens.py)."""

import json
import pathlib

import pytest

from prompt_tuning.data.text import rouge

GOLDEN = json.loads((pathlib.Path(__file__).parents[2] / "testdata" / "rouge.json").read_text())


def test_values_equal_those_of_rouge_score():
    assert len(GOLDEN) > 50
    for target, prediction, expected in GOLDEN:
        scores = {
            "rouge1": rouge.rouge_n(target, prediction, 1),
            "rouge2": rouge.rouge_n(target, prediction, 2),
            "rougeLsum": rouge.rouge_lsum(target, prediction),
        }
        assert scores == pytest.approx(expected, abs=1e-12), (target, prediction)


def test_the_metric_is_the_mean_in_percent():
    targets, predictions, expected = zip(*GOLDEN, strict=True)
    scores = rouge.rouge(targets, predictions)
    assert scores.keys() == {"rouge1", "rouge2", "rougeLsum"}
    for name, percent in scores.items():
        mean = sum(values[name] for values in expected) / len(expected)
        assert percent == pytest.approx(100 * mean)


def test_a_period_between_spaces_ends_a_sentence():
    separated = rouge.rouge(["one two . three four ."], ["three four . one two ."])
    assert separated["rougeLsum"] == 100.0
    assert rouge.rouge(["one two, three four."], ["three four, one two."])["rougeLsum"] == 50.0


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError):
        rouge.rouge(["a", "b"], ["a"])
