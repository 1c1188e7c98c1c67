"""SQuAD's metrics equal those of the official script."""

import pytest

from prompt_tuning.data.text import answers

# Prediction, answers, exact match and F1 of evaluate-v1.1.py.
CASES = [
    ("Denver Broncos", ["Denver Broncos"], 1.0, 1.0),
    ("the Denver Broncos.", ["Denver  broncos"], 1.0, 1.0),
    ("Broncos", ["Denver Broncos", "The Broncos"], 1.0, 1.0),
    ("Broncos of Denver", ["Denver Broncos", "Carolina"], 0.0, 0.8),
    ("Carolina", ["Denver Broncos"], 0.0, 0.0),
    # Punctuation is removed before articles: "a." is an article, "a-b" is not.
    ("a. b", ["b"], 1.0, 1.0),
    ("a-b", ["ab"], 1.0, 1.0),
    ("a-b", ["b"], 0.0, 0.0),
    ("U.S.", ["US"], 1.0, 1.0),
    ("U . S .", ["U.S."], 0.0, 0.0),
    # Articles are complete words.
    ("anthem", ["them"], 0.0, 0.0),
    ("then an ant", ["then ant"], 1.0, 1.0),
    # Repeated words count repeatedly.
    ("b b b c", ["b c c"], 0.0, 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)),
    ("b b c", ["b b"], 0.0, 0.8),
    # Empty after normalization: equal, but without a common word.
    ("the", ["a"], 1.0, 0.0),
    ("", ["b"], 0.0, 0.0),
    # Only ASCII punctuation is punctuation.
    ("«b»", ["b"], 0.0, 0.0),
    ("50 %", ["50%"], 1.0, 1.0),
]


@pytest.mark.parametrize(("prediction", "references", "em", "f1"), CASES)
def test_values_equal_those_of_the_official_script(prediction, references, em, f1):
    assert answers.exact_match(prediction, references) == em
    assert answers.f1(prediction, references) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("references", [[], "a text"])
@pytest.mark.parametrize("measure", [answers.exact_match, answers.f1])
def test_answers_must_be_a_non_empty_list(measure, references):
    with pytest.raises(ValueError, match="expected a non-empty list"):
        measure("b", references)


def test_squad_is_the_mean_in_percent():
    targets = [["b"], ["c d", "d"], ["e"], ["f"]]
    assert answers.squad(targets, ["b", "c", "x", "f"]) == pytest.approx(
        {"em": 50.0, "f1": 100 * (1 + 2 / 3 + 0 + 1) / 4}
    )


def test_squad_refuses_lists_of_unequal_length():
    with pytest.raises(ValueError):
        answers.squad([["b"], ["c"]], ["b"])
