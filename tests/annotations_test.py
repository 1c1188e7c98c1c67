"""Checks of values against annotations: accepted values, messages and suggestions."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pytest
from jaxtyping import Float

from prompt_tuning import annotations
from prompt_tuning.annotations import FeatureLengths, Fraction, PositiveFloat, PositiveInt

PATH = str | pathlib.Path


@runtime_checkable
class Decoder(Protocol):
    def __call__(self): ...


class Beam:
    def __call__(self):
        """See Decoder."""


def check(value, annotation):
    return annotations.check("x", value, annotation, annotations.write_argument)


@pytest.mark.parametrize(
    ("value", "annotation", "converted"),
    [
        (np.int64(3), PositiveInt, 3),
        (3, PositiveFloat, 3.0),
        (np.float32(0.5), Fraction, 0.5),
        (np.True_, bool, True),
        (None, int | None, None),
        (["a", np.str_("b")], Sequence[str], ["a", "b"]),
        (["a"], tuple[str, ...], ["a"]),
        ((("a", 1),), Sequence[tuple[str, float]], (("a", 1.0),)),
        ({"inputs": np.int32(8)}, FeatureLengths, {"inputs": 8}),
        ("none", Literal["none", "full"], "none"),
        (pathlib.Path("a"), PATH, pathlib.Path("a")),
        (5, Any, 5),
        (annotations.UNKNOWN, int, annotations.UNKNOWN),
        ([annotations.UNKNOWN, 1], Sequence[int], [annotations.UNKNOWN, 1]),
        ("abc", Iterable[str], "abc"),
    ],
)
def test_matching_values_are_converted_to_python_types(value, annotation, converted):
    checked = check(value, annotation)
    assert checked == converted and type(checked) is type(converted)


def test_objects_match_their_class_protocol_or_shape():
    beam, table = Beam(), np.ones((2, 2))
    assert check(beam, Decoder | None) is beam
    assert check(len, Callable[..., int]) is len
    assert check(table, Float[np.ndarray, "P D"]) is table
    with pytest.raises(TypeError, match=r"x=<class .*Beam'> has type type; expected a Decoder"):
        check(Beam, Decoder)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("0.1", PositiveFloat, "x='0.1' has type str; expected a number greater than 0. Pass x=0.1."),
        ("32", PositiveInt, "x='32' has type str; expected an integer of at least 1. Pass x=32."),
        (1e3, int, "x=1000.0 has type float; expected an integer. Pass x=1000."),
        (True, int | None, "x=True has type bool; expected an integer or None. Set x to an accepted value."),
        ("False", bool, "x='False' has type str; expected True or False. Pass x=False."),
        ("false", bool, "x='false' has type str; expected True or False. Pass x=False."),
        (1, bool, "x=1 has type int; expected True or False. Pass x=True."),
        ("None", int | None, "x='None' has type str; expected an integer or None. Pass x=None."),
        (5, str, "x=5 has type int; expected a str. Pass x='5'."),
        (None, str, "x=None has type NoneType; expected a str. Set x to an accepted value."),
        ("a", Sequence[str], "x='a' has type str; expected a list of str. Pass x=['a']."),
        (["a", 5], Sequence[str], "x[1]=5 has type int; expected a str. Pass x=['a', '5']."),
        (
            [("a", "b")],
            Mapping[str, str],
            "x=[('a', 'b')] has type list; expected a dict of str to str. Pass x={'a': 'b'}.",
        ),
        ({0: "a"}, Mapping[str, str], "x={0: 'a'} has the key 0; expected a dict of str to str. Pass x={'0': 'a'}."),
        ({"a": 0}, Mapping[str, str], "x['a']=0 has type int; expected a str. Pass x={'a': '0'}."),
        ({"a": "8"}, FeatureLengths, "x['a']='8' has type str; expected an integer of at least 1. Pass x={'a': 8}."),
        (
            128,
            FeatureLengths | None,
            "x=128 has type int; expected a dict of str to integer of at least 1 or None. "
            "Pass x={'inputs': 512, 'targets': 8}.",
        ),
        ((1, 2, 3), tuple[int, int], "x=(1, 2, 3) has 3 elements; expected a list of integer and integer. Set x to an accepted value."),
        (
            pathlib.Path("m"),
            Annotated[Beam, annotations.Example("load({value})")],
            "x=PosixPath('m') has type PosixPath; expected a Beam. Pass x=load('m').",
        ),
    ],
)  # fmt: skip
def test_a_wrong_type_is_refused_with_a_suggestion(value, annotation, message):
    with pytest.raises(TypeError) as caught:
        check(value, annotation)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (0, PositiveInt, "an integer of at least 1"),
        (-0.1, annotations.NonNegativeFloat, "a number of at least 0"),
        (0, PositiveFloat, "a number greater than 0"),
        (float("nan"), PositiveFloat, "a number greater than 0"),
        (float("inf"), PositiveFloat, "a number greater than 0"),
        (1, Fraction, "a number of at least 0 and below 1"),
        (1.5, annotations.Probability, "a number of at least 0 and at most 1"),
        ([3, 0], Sequence[PositiveInt], "an integer of at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused(value, annotation, expected):
    with pytest.raises(ValueError, match=f"is out of range; expected {expected}. Set x to an"):
        check(value, annotation)


def test_an_unknown_literal_is_refused_with_the_alternatives():
    with pytest.raises(ValueError, match="x='c' is unknown; expected 'a' or 'b'"):
        check("c", Literal["a", "b"] | None)


def test_a_long_value_is_shortened_to_one_line():
    with pytest.raises(TypeError) as caught:
        check(np.zeros((100, 100)), int)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
