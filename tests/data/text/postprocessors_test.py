"""Postprocessors of targets and predictions."""

import math

import numpy as np
import pytest

from prompt_tuning.data.text import postprocessors


def test_strip_removes_outer_white_space():
    text = " a b \n"
    assert postprocessors.strip(text, example={}, is_target=False) == "a b"


def test_text_that_the_vocabulary_cannot_represent_equals_its_decoded_form(vocabulary):
    """The vocabulary has neither capital letters nor "_"."""
    for target in ("Not_good", "a  good\nfilm", "good", "C++", "film", ""):
        written = postprocessors.as_written(target, vocabulary=vocabulary, is_target=True)
        prediction = vocabulary.decode(vocabulary.encode(target))
        assert postprocessors.as_written(prediction, vocabulary=vocabulary) == written
        assert postprocessors.as_written("bad", vocabulary=vocabulary) != written
    assert written == ""


@pytest.mark.parametrize(
    ("text", "expected"), [("no", 0), (" yes", 1), ("Yes", -1), ("", -1), ("yes no", -1)]
)
def test_text_that_is_not_a_label_is_invalid(text, expected):
    assert postprocessors.class_id(text, ("no", "yes"), example={}, is_target=True) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3.4", 3.4), (" 2 ", 2.0), ("-1.0", -1.0), ("much", -1.0), ("nan", -1.0), ("inf", -1.0)],
)
def test_only_finite_decimal_numbers_are_parsed(text, expected):
    value = postprocessors.number(text, example={})
    assert value == expected and math.isfinite(value)


def test_multirc_returns_value_and_question():
    example = {"idx/paragraph": np.int32(3), "idx/question": np.int32(5), "idx/answer": 7}
    arguments = {"example": example, "is_target": False}
    assert postprocessors.multirc("True", **arguments) == {"value": 1, "group": (3, 5)}
    assert postprocessors.multirc("maybe", **arguments) == {"value": -1, "group": (3, 5)}


def test_record_has_all_answers_as_the_target():
    answers = np.array([b"Ann", "Zo\u00eb".encode()], object)
    example = {"idx/passage": 3, "idx/query": 5, "answers": answers}
    target = postprocessors.record("Ann", example=example, is_target=True)
    assert target == {"value": ["Ann", "Zo\u00eb"], "group": (3, 5)}
    answer = postprocessors.record(" Bob", example=example, is_target=False)
    assert answer == {"value": "Bob", "group": (3, 5)}


@pytest.mark.parametrize(
    ("answer", "referent", "same"),
    [
        ("the bunny", "Bunny", 1),
        ("fuzzy bunny", "the bunny", 1),
        ("bunny", "his fuzzy bunny", 1),
        ("Bob", "Bob's hat", 0),
        ("hat", "Bob's hat", 0),
        ("Bob's", "Bob's hat", 1),
        ("cat", "bunny", 0),
        ("fuzzy cat", "fuzzy bunny", 0),
        ("", "bunny", -1),
        ("the", "bunny", -1),
        (" ", "Bob's hat", -1),
    ],
)
def test_wsc_compares_words_with_the_referent(answer, referent, same):
    for label in (0, 1):
        example = {"targets_pretokenized": referent.encode(), "label": np.int64(label)}
        assert postprocessors.wsc(referent, example=example, is_target=True) == label
        assert postprocessors.wsc(answer, example=example, is_target=False) == same


def of_label(text, **arguments):
    return postprocessors.class_id(text, ("not_equivalent", "equivalent"), **arguments)


@pytest.mark.parametrize(
    ("text", "expected"), [("duplicate", 1), ("not_duplicate", 0), ("equivalent", 1), ("?", -1)]
)
def test_labels_of_the_source_task_are_renamed(text, expected):
    words = {"old": "duplicate", "new": "equivalent", "postprocess": of_label}
    assert postprocessors.renamed(text, **words, example={}, is_target=False) == expected


def test_a_prediction_keeps_its_texts():
    example = {"inputs_pretokenized": b"in", "targets_pretokenized": b"out", "idx": 1}
    arguments = {"postprocess": of_label, "example": example}
    assert postprocessors.with_text("equivalent", **arguments, is_target=True) == 1
    assert postprocessors.with_text("same", **arguments, is_target=False) == {
        "prediction": -1,
        "prediction_pretokenized": "same",
        "inputs_pretokenized": b"in",
        "targets_pretokenized": b"out",
    }
