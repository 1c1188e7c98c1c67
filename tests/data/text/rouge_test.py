"""ROUGE against the package rouge-score (scripts/make_rouge_goldens.py)."""

import json
import pathlib

import pytest

from prompt_tuning.data.text import rouge

GOLDEN = json.loads((pathlib.Path(__file__).parents[2] / "testdata" / "rouge.json").read_text())


def test_values_are_those_of_rouge_score():
    assert len(GOLDEN) > 50
    for target, prediction, expected in GOLDEN:
        got = {
            "rouge1": rouge.rouge_n(target, prediction, 1),
            "rouge2": rouge.rouge_n(target, prediction, 2),
            "rougeLsum": rouge.rouge_lsum(target, prediction),
        }
        assert got == pytest.approx(expected, abs=1e-12), (target, prediction)


def test_the_metric_is_the_mean_in_percent():
    targets, predictions, expected = zip(*GOLDEN, strict=True)
    got = rouge.rouge(targets, predictions)
    assert got.keys() == {"rouge1", "rouge2", "rougeLsum"}
    for name, percent in got.items():
        mean = sum(scores[name] for scores in expected) / len(expected)
        assert percent == pytest.approx(100 * mean)


def test_a_point_between_spaces_ends_a_sentence():
    apart = rouge.rouge(["one two . three four ."], ["three four . one two ."])
    assert apart["rougeLsum"] == 100.0
    assert rouge.rouge(["one two, three four."], ["three four, one two."])["rougeLsum"] == 50.0


def test_lists_of_unequal_length():
    with pytest.raises(ValueError):
        rouge.rouge(["a", "b"], ["a"])
