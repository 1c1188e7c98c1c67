"""Conversion of iterables of text to lists: generators, arrays, pandas and pyarrow columns."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prompt_tuning import annotations


def to_strings(name: str, values: Any) -> list[str]:
    """Converts an iterable of texts to a list of `str`, in its order.

    Args:
      name: name of the argument, for messages.
      values: an iterable of `str`, NumPy strings or pyarrow scalars. It is read once.

    Raises:
      WrongTypeError: a single text, a mapping, a set, a table, or an element that is not a text.
    """
    texts = list(map(to_python, iterate(name, values)))
    for index, text in enumerate(texts):
        check_text(f"{name}[{index}]", text)
    return list(map(str, texts))


def iterate(name: str, values: Any, element: str = "str") -> Iterator[Any]:
    """Returns an iterator over an ordered collection.

    Args:
      name: name of the argument, for messages.
      values: an iterable.
      element: type of the elements, for messages.

    Raises:
      WrongTypeError: a single text, a mapping, a set, a table, or a value that is not iterable.
    """
    kind, expected, advice = type(values).__name__, f"an iterable of {element}", "Pass a list"
    if isinstance(values, str | bytes):
        problem = f"={annotations.show(values)} is a single {kind}"
        if element == "str":
            advice = f"Pass {name}=[{annotations.show(values)}]"
    elif isinstance(values, Mapping):
        problem = f" is a {kind}, which iterates over its keys"
        advice = f"Pass {name}={name}.values()"
    elif hasattr(values, "columns"):
        problem = f" is a {kind} of columns {list(map(str, column_names(values)))}"
        expected, advice = "a single column", f'Pass {name}=table["<column>"]'
    elif isinstance(values, set | frozenset):
        problem, expected = f" is a {kind}, which has no order", f"{expected} in order"
    else:
        try:
            return iter(values)
        except TypeError:
            problem = f"={annotations.show(values)} has type {kind}"
    raise annotations.WrongTypeError(f"{name}{problem}; expected {expected}. {advice}.")


def column_names(table: Any) -> Iterable[Any]:
    """Returns the names of the columns of a pandas or pyarrow table."""
    return getattr(table, "column_names", None) or table.columns


def to_python(value: Any) -> Any:
    """Converts a pyarrow scalar to a Python value; returns other values unchanged."""
    return value.as_py() if hasattr(value, "as_py") else value


def check_text(name: str, value: Any) -> None:
    """Raises WrongTypeError, with the conversion to use, if the value is not a `str`."""
    if isinstance(value, str):
        return
    problem, advice = f"has type {type(value).__name__}", "Pass its text"
    if _is_missing(value):
        problem, advice = "is a missing value", "Drop it, or replace it by a text"
    elif isinstance(value, bytes):
        advice = "Decode it with text.decode()"
    elif hasattr(value, "shape") and value.shape:
        problem, advice = f"is an array of shape {value.shape}", "Pass a one-dimensional array"
    elif not isinstance(value, Iterable):
        element = "label" if "target" in name or "label" in name else "text"
        advice = f"Convert each with str({element})"
    raise annotations.WrongTypeError(
        f"{name}={annotations.show(value)} {problem}; expected a str. {advice}."
    )


def _is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or pandas' NA or NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value
