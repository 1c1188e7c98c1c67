"""Checks values against the type annotations of functions and dataclasses.

`int` accepts NumPy integers, `float` accepts integers, a sequence may be a list or a tuple, and
`bool` is not a number. Ranges and examples are metadata: `Annotated[int, Range(1)]`.
"""

import ast
import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union

import numpy as np

UNKNOWN = object()  # a value that is not computed yet; it matches every annotation
LONGEST_VALUE = 200  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`; open ends are excluded."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        low = f"greater than {self.low}" if self.low_open else f"of at least {self.low}"
        if math.isinf(self.high):
            return low
        return f"{low} and {'below' if self.high_open else 'at most'} {self.high}"


@dataclasses.dataclass(frozen=True)
class Example:
    """Python text that a message suggests; a path replaces `{value}` in it."""

    text: str


@dataclasses.dataclass(frozen=True)
class Deferred:
    """Marks a parameter whose None is reported where the value is read, not here."""


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # jax.random.key drops further bits
PositiveFloat = Annotated[float, Range(0, low_open=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1, high_open=True)]
Probability = Annotated[float, Range(0, 1)]
Dtype = Literal["float32", "bfloat16", "float16"]
FeatureLengths = Annotated[Mapping[str, PositiveInt], Example("{'inputs': 512, 'targets': 8}")]


class WrongTypeError(TypeError, ValueError):
    """A value of the wrong type; commands report it like other ValueErrors."""


class MismatchError(Exception):
    """A value, or the part of it at `location`, does not match an annotation."""

    def __init__(self, value: Any, annotation: Any, reason: str = ""):
        super().__init__()
        self.value, self.annotation, self.location = value, annotation, ""
        self.reason = reason or f"has type {type(value).__name__}"

    @property
    def is_precise(self) -> bool:
        """Whether the type matches, but not a part, the length or the range of the value."""
        return bool(self.location) or not self.reason.startswith("has type")


@functools.cache
def hints(function: Callable) -> dict[str, Any]:
    """Returns the annotations of the parameters of a function, or of a class's constructor."""
    target = function.__init__ if inspect.isclass(function) else function  # type: ignore[misc]
    return typing.get_type_hints(target, include_extras=True)


def convert(value: Any, annotation: Any) -> Any:
    """Returns the value with NumPy numbers as Python numbers. Raises MismatchError."""
    arguments = typing.get_args(annotation)
    kind = typing.get_origin(annotation) or annotation
    if value is UNKNOWN or kind in (Any, inspect.Parameter.empty):
        return value
    if kind is Annotated:
        return _convert_annotated(value, annotation, *arguments)
    if kind in (Union, types.UnionType):
        return _convert_union(value, annotation)
    if kind in _NUMBERS:
        return _convert_number(value, kind)
    if kind in _SEQUENCES:
        return _convert_sequence(value, annotation, arguments)
    if kind is collections.abc.Mapping:
        return _convert_mapping(value, annotation, *arguments or (Any, Any))
    if not _is_instance(value, str if kind is Literal else kind):
        raise MismatchError(value, annotation)
    if kind is Literal and value not in arguments:
        raise MismatchError(value, annotation, "is unknown")
    return value


_NUMBERS: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real, bool: bool | np.bool_}
_SEQUENCES = (collections.abc.Sequence, collections.abc.Collection, tuple, list)


def _is_instance(value: Any, kind: Any) -> bool:
    """Whether a value is an instance of a class, not the class itself.

    Array shapes and protocols that isinstance cannot check match every value. So do iterables,
    which are checked where they are read.
    """
    if kind is collections.abc.Iterable or kind.__module__.startswith("jaxtyping"):
        return True
    try:
        is_class = inspect.isclass(value) and kind is not collections.abc.Callable
        return isinstance(value, kind) and not is_class
    except TypeError:
        return True


def _convert_annotated(value: Any, annotation: Any, inner: Any, *metadata: Any) -> Any:
    if value is None and any(isinstance(item, Deferred) for item in metadata):
        return None
    try:
        value = convert(value, inner)
    except MismatchError as error:
        if not error.location:
            error.annotation = annotation
        raise
    for item in metadata:
        if isinstance(item, Range) and value is not UNKNOWN and value not in item:
            raise MismatchError(value, annotation, "is out of range")
    return value


def _convert_union(value: Any, annotation: Any) -> Any:
    errors = []
    for member in typing.get_args(annotation):
        try:
            return convert(value, member)
        except MismatchError as error:
            errors.append(error)
    raise next((x for x in errors if x.is_precise), MismatchError(value, annotation))


def _convert_number(value: Any, kind: type) -> Any:
    is_bool = isinstance(value, bool | np.bool_)
    if is_bool != (kind is bool) or not isinstance(value, _NUMBERS[kind]):
        raise MismatchError(value, kind)
    return kind(value)


def _convert_sequence(value: Any, annotation: Any, arguments: tuple) -> Any:
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str | bytes):
        raise MismatchError(value, annotation)
    if typing.get_origin(annotation) is tuple and arguments and arguments[-1] is not ...:
        if len(value) != len(arguments):
            raise MismatchError(value, annotation, f"has {len(value)} elements")
        members = list(arguments)
    else:
        members = [arguments[0] if arguments else Any] * len(value)
    converted = [_convert_part(value, i, member) for i, member in enumerate(members)]
    return tuple(converted) if isinstance(value, tuple) else converted


def _convert_mapping(value: Any, annotation: Any, key_type: Any, value_type: Any) -> Any:
    if not isinstance(value, Mapping):
        raise MismatchError(value, annotation)
    converted = {}
    for key in value:
        try:
            new_key = convert(key, key_type)
        except MismatchError as error:
            raise MismatchError(value, annotation, f"has the key {key!r}") from error
        converted[new_key] = _convert_part(value, key, value_type)
    return converted


def _convert_part(container: Any, key: Any, annotation: Any) -> Any:
    try:
        return convert(container[key], annotation)
    except MismatchError as error:
        error.location = f"[{key!r}]{error.location}"
        raise


def describe(annotation: Any) -> str:
    """Describes in words what an annotation accepts."""
    arguments = typing.get_args(annotation)
    kind = typing.get_origin(annotation) or annotation
    if kind is Annotated:
        inner, *metadata = arguments
        return describe(inner) + "".join(f" {x}" for x in metadata if isinstance(x, Range))
    if kind in (Union, types.UnionType):
        has_path = any(map(_is_path, arguments))
        members = [x for x in arguments if not (x is str and has_path)]
        alternatives = [text for x in members for text in describe(x).split(" or ")]
        return _join(list(dict.fromkeys(alternatives)))
    if kind is Literal:
        return _join(list(map(repr, arguments)))
    if kind in _SEQUENCES:
        members = [_without_article(x) for x in arguments if x is not ...]
        return f"a list of {' and '.join(members)}" if members else "a list"
    if kind is collections.abc.Mapping:
        return "a dict of {} to {}".format(*map(_without_article, arguments or (Any, Any)))
    if _is_path(kind):
        return "a path"
    if kind in _NAMES:
        return _NAMES[kind]
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    return f"{article} {kind.__name__}"


_NAMES = {
    Any: "anything",
    type(None): "None",
    bool: "True or False",
    float: "a number",
    int: "an integer",
    collections.abc.Callable: "a function",
    collections.abc.Iterable: "an iterable",
}


def _join(alternatives: Sequence[str]) -> str:
    """Formats alternatives: a; a or b; a, b or c."""
    *others, last = alternatives
    return f"{', '.join(others)} or {last}" if others else last


def _is_path(value: Any) -> bool:
    """Whether a value, or a class, is os.PathLike."""
    return hasattr(value, "__fspath__")


def _without_article(annotation: Any) -> str:
    return describe(annotation).removeprefix("an ").removeprefix("a ")


def _example(annotation: Any, value: Any) -> str:
    """Returns the text of an Example in the metadata of an annotation, or ""."""
    members = (annotation, *typing.get_args(annotation))
    metadata = [item for x in members for item in getattr(x, "__metadata__", ())]
    text = next((item.text for item in metadata if isinstance(item, Example)), "")
    path = value.__fspath__() if _is_path(value) else value
    return text.replace("{value}", show(path) if isinstance(path, str) else "…")


def show(value: Any) -> str:
    """Formats a value on one line, shortened to LONGEST_VALUE characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def suggest(value: Any, annotation: Any) -> str:
    """Returns, as Python text, a similar value that matches the annotation; "" if there is none."""
    for candidate in _candidates(value):
        with contextlib.suppress(MismatchError):
            if len(text := repr(convert(candidate, annotation))) <= LONGEST_VALUE:
                return text
    return ""


def _candidates(value: Any) -> Iterator[Any]:
    """Yields a value in other types, the most similar first."""
    if isinstance(value, str):
        for text in (value, value.strip().capitalize()):
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                yield ast.literal_eval(text)
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if isinstance(value, int) and value in (0, 1):
        yield bool(value)
    if isinstance(value, int | float) or _is_path(value):
        yield str(value)
    if isinstance(value, str | int | float):
        yield [value]
    if isinstance(value, list | tuple | set):
        if all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
            yield dict(value)
        yield list(map(_number_to_str, value))
    if isinstance(value, Mapping):
        yield {str(key): item for key, item in value.items()}
        yield {str(key): _number_to_str(item) for key, item in value.items()}
        for kind in (int, float):
            with contextlib.suppress(ValueError, TypeError):
                yield {key: kind(item) for key, item in value.items()}


def _number_to_str(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


def check(name: str, value: Any, annotation: Any, write: Callable[[str, str], str]) -> Any:
    """Returns the value as `convert`.

    Args:
      name: name of the setting or argument.
      value: its value.
      annotation: annotation of the parameter.
      write: (name, value as text) -> instruction to set it.

    Raises:
      WrongTypeError: the value has another type.
      ValueError: the value has the right type, but is out of range or unknown.
    """
    try:
        return convert(value, annotation)
    except MismatchError as error:
        example = _example(error.annotation, error.value) or _example(annotation, value)
        text = suggest(value, annotation) or example
        advice = write(name, text) if text else f"Set {name} to an accepted value"
        message = (
            f"{name}{error.location}={show(error.value)} {error.reason}; "
            f"expected {describe(error.annotation)}. {advice}."
        )
        kind = ValueError if error.reason.startswith("is ") else WrongTypeError
        raise kind(message) from None


def check_fields(instance: Any) -> None:
    """Checks and converts the fields of a frozen dataclass, in its __post_init__."""
    for name, annotation in hints(type(instance)).items():
        if name != "return":
            value = check(name, getattr(instance, name), annotation, write_argument)
            object.__setattr__(instance, name, value)


def write_argument(name: str, text: str) -> str:
    """Returns the instruction to pass a Python argument."""
    return f"Pass {name}={text}"
