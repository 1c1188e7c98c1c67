"""SQuAD's rules, by cases whose values the official script gives."""

import pytest

from prompt_tuning.data.text import answers

# Prediction, answers -> exact match and F1 of the official evaluate-v1.1.py.
CASES = [
    ("Denver Broncos", ["Denver Broncos"], 1.0, 1.0),
    ("the Denver Broncos.", ["Denver  broncos"], 1.0, 1.0),
    ("Broncos", ["Denver Broncos", "The Broncos"], 1.0, 1.0),
    ("Broncos of Denver", ["Denver Broncos", "Carolina"], 0.0, 0.8),
    ("Carolina", ["Denver Broncos"], 0.0, 0.0),
    # Punctuation goes before articles: "a." is one, "a-b" is none.
    ("a. b", ["b"], 1.0, 1.0),
    ("a-b", ["ab"], 1.0, 1.0),
    ("a-b", ["b"], 0.0, 0.0),
    ("U.S.", ["US"], 1.0, 1.0),
    ("U . S .", ["U.S."], 0.0, 0.0),
    # An article is a whole word only.
    ("anthem", ["them"], 0.0, 0.0),
    ("then an ant", ["then ant"], 1.0, 1.0),
    # Words count as often as they occur.
    ("b b b c", ["b c c"], 0.0, 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)),
    ("b b c", ["b b"], 0.0, 0.8),
    # What is empty after normalising: equal, but without a word in common.
    ("the", ["a"], 1.0, 0.0),
    ("", ["b"], 0.0, 0.0),
    # Only ASCII punctuation is punctuation.
    ("«b»", ["b"], 0.0, 0.0),
    ("50 %", ["50%"], 1.0, 1.0),
]


@pytest.mark.parametrize(("prediction", "given", "em", "f1"), CASES)
def test_values_are_those_of_the_official_script(prediction, given, em, f1):
    assert answers.exact_match(prediction, given) == em
    assert answers.f1(prediction, given) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("given", [[], "a text"])
@pytest.mark.parametrize("measure", [answers.exact_match, answers.f1])
def test_answers_are_a_list_with_something_in_it(measure, given):
    with pytest.raises(ValueError, match="expected a non-empty list"):
        measure("b", given)


def test_squad_is_the_mean_in_percent():
    targets = [["b"], ["c d", "d"], ["e"], ["f"]]
    assert answers.squad(targets, ["b", "c", "x", "f"]) == pytest.approx(
        {"em": 50.0, "f1": 100 * (1 + 2 / 3 + 0 + 1) / 4}
    )


def test_squad_refuses_lists_of_unequal_length():
    with pytest.raises(ValueError):
        answers.squad([["b"], ["c"]], ["b"])
