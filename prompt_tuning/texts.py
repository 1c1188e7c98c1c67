"""Texts in any iterable: lists, generators, arrays, columns of pandas and pyarrow."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prompt_tuning import annotations

SHOWN = 80  # characters of a value in a message


def to_strings(name: str, values: Any) -> list[str]:
    """The texts in order, as a list of `str`.

    Args:
      name: of the argument, for messages.
      values: an iterable of `str`, NumPy strings or pyarrow scalars. It is read once.

    Raises:
      WrongTypeError: a single text, a mapping, a set or a table; or an element that is not a text.
    """
    texts = list(map(to_python, iterate(name, values)))
    for number, text in enumerate(texts):
        check_text(f"{name}[{number}]", text)
    return list(map(str, texts))


def iterate(name: str, values: Any, element: str = "str") -> Iterator[Any]:
    """An iterator over `values`.

    Raises WrongTypeError for one text, and for what does not iterate over elements in their order;
    `element` is the type of an element, for messages.
    """
    kind = type(values).__name__
    if isinstance(values, str | bytes):
        text = show(values)
        advice = f"Pass {name}=[{text}]" if element == "str" else "Pass a list"
        raise annotations.WrongTypeError(
            f"{name}={text} is a single {kind}; expected an iterable of {element}. {advice}."
        )
    if isinstance(values, Mapping):
        raise annotations.WrongTypeError(
            f"{name} is a {kind}, which iterates over its keys; expected an iterable of {element}. "
            f"Pass {name}={name}.values()."
        )
    if hasattr(values, "columns"):
        raise annotations.WrongTypeError(
            f"{name} is a {kind} of columns {list(map(str, column_names(values)))}; expected a single "
            f'column. Pass {name}=table["<column>"].'
        )
    if isinstance(values, set | frozenset):
        raise annotations.WrongTypeError(
            f"{name} is a {kind}, which has no order; expected an iterable of {element} in order. Pass a list."
        )
    try:
        return iter(values)
    except TypeError:
        raise annotations.WrongTypeError(
            f"{name}={show(values)} has type {kind}; expected an iterable of {element}. Pass a list."
        ) from None


def column_names(table: Any) -> Iterable[Any]:
    """Names of the columns of a pandas or pyarrow table."""
    return getattr(table, "column_names", None) or table.columns


def to_python(value: Any) -> Any:
    """A scalar of pyarrow as Python's value; others as they are."""
    return value.as_py() if hasattr(value, "as_py") else value


def show(value: Any) -> str:
    """The start of a value, on one line."""
    return f"{' '.join(repr(value).split()):.{SHOWN}}"


def check_text(name: str, value: Any) -> None:
    """Raises WrongTypeError where `value` is not a `str`; the message names the conversion."""
    if isinstance(value, str):
        return
    kind = type(value).__name__
    if is_missing(value):
        problem, advice = "is a missing value", "Drop it, or replace it by a text"
    elif isinstance(value, bytes):
        problem, advice = f"has type {kind}", "Decode it with text.decode()"
    elif hasattr(value, "shape") and value.shape:
        problem, advice = f"is an array of shape {value.shape}", "Pass a one-dimensional array"
    elif isinstance(value, Iterable):
        problem, advice = f"has type {kind}", "Pass its text"
    else:
        element = "label" if "target" in name or "label" in name else "text"
        problem, advice = f"has type {kind}", f"Convert each with str({element})"
    raise annotations.WrongTypeError(f"{name}={show(value)} {problem}; expected a str. {advice}.")


def is_missing(value: Any) -> bool:
    """Whether it is None, NaN, or pandas' NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value
