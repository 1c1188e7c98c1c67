"""Texts in ordered iterables; stand-ins have the attributes of pandas' and polars' objects."""

import numpy as np
import pyarrow
import pytest

from prompt_tuning import texts

TEXTS = ["a lovely day", "a bleak hour", "c"]


class Series:
    """A column of a data frame: iterable with a length, but not a Sequence."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)


class Frame(Series):
    """A data frame, which iterates over the names of its columns."""

    columns = ("text", "label")


class NAType:
    """pandas.NA."""


@pytest.mark.parametrize(
    "values",
    [
        TEXTS,
        tuple(TEXTS),
        (text for text in TEXTS),
        dict(enumerate(TEXTS)).values(),
        dict.fromkeys(TEXTS).keys(),
        map(str, TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        np.array(TEXTS, np.dtypes.StringDType()),
        list(np.array(TEXTS)),
        Series(TEXTS),
        pyarrow.array(TEXTS),
        pyarrow.array(TEXTS, pyarrow.large_string()),
        pyarrow.array(TEXTS).dictionary_encode(),
        pyarrow.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pyarrow.table({"text": TEXTS})["text"],
    ],
    ids=lambda values: type(values).__name__,
)
def test_ordered_iterables_become_lists_of_strings(values):
    strings = texts.to_strings("texts", values)
    assert strings == TEXTS and {type(string) for string in strings} == {str}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("one text", r"texts='one text' is a single str; .* Pass texts=\['one text'\]"),
        (b"one", r"texts=b'one' is a single bytes"),
        (5, "texts=5 has type int; expected an iterable of str"),
        (None, "texts=None has type NoneType; expected an iterable of str"),
        (np.array("a"), "has type ndarray; expected an iterable of str"),
        ({"a": 1}, r"texts is a dict, which iterates over its keys.* Pass texts=texts.values\(\)"),
        ({"a", "b"}, "texts is a set, which has no order"),
        (
            Frame(TEXTS),
            r"texts is a Frame of columns \['text', 'label'\]; expected a single column",
        ),
        (pyarrow.table({"text": TEXTS}), r"texts is a Table of columns \['text'\]"),
        (["a", None], r"texts\[1\]=None is a missing value; expected a str. Drop it"),
        (["a", "b", float("nan")], r"texts\[2\]=nan is a missing value"),
        (Series([NAType()]), r"texts\[0\]=.* is a missing value"),
        (np.array([np.nan]), r"texts\[0\]=.*nan.* is a missing value"),
        (pyarrow.array(["a", None]), r"texts\[1\]=None is a missing value"),
        ([b"a"], r"texts\[0\]=b'a' has type bytes; expected a str. Decode it with text.decode\(\)"),
        (np.array([b"a"]), r"has type bytes_; expected a str. Decode it"),
        (["a", 5], r"texts\[1\]=5 has type int; expected a str. Convert each with str\(text\)"),
        (np.array([1]), r"texts\[0\]=.*1.* has type int64; expected a str. Convert each"),
        ([True], r"texts\[0\]=True has type bool"),
        (np.array([["a"]]), r"is an array of shape \(1,\); .* one-dimensional"),
        ([["a"]], r"texts\[0\]=\['a'\] has type list; expected a str. Pass its text"),
    ],
)
def test_values_that_are_not_texts_are_refused_with_position_and_fix(values, message):
    with pytest.raises(TypeError, match=message):
        texts.to_strings("texts", values)


def test_a_numeric_label_is_refused_with_the_conversion():
    with pytest.raises(TypeError, match=r"targets\[0\]=1 has type int; .*str\(label\)"):
        texts.to_strings("targets", [1, 0])
