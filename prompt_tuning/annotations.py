"""Checks values against the type annotations of the functions and dataclasses that take them.

`int` accepts NumPy integers, `float` accepts integers, a sequence may be a list or a tuple, and
`bool` is never a number. Ranges and examples are metadata: `Annotated[int, Range(1)]`.
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

# Stands for a value that is not known yet; it matches every annotation.
UNKNOWN = object()
LONGEST_VALUE = 200  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`, without the ends that are open."""

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
    """A value that a message advises, as Python text; `{value}` in it is the value, if that is a path."""

    text: str


@dataclasses.dataclass(frozen=True)
class Deferred:
    """Marks a parameter whose None is refused where it is read, not here."""


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # jax.random.key leaves out further bits
PositiveFloat = Annotated[float, Range(0, low_open=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1, high_open=True)]
Probability = Annotated[float, Range(0, 1)]
Dtype = Literal["float32", "bfloat16", "float16"]
FeatureLengths = Annotated[Mapping[str, PositiveInt], Example("{'inputs': 512, 'targets': 8}")]


class WrongTypeError(TypeError, ValueError):
    """A value of another type than expected; commands report it like other ValueErrors."""


class MismatchError(Exception):
    """A value, or the part of it at `location`, does not match an annotation."""

    def __init__(self, value: Any, reason: str, annotation: Any, location: str = ""):
        super().__init__()
        self.value, self.reason = value, reason
        self.annotation, self.location = annotation, location

    def at(self, location: str) -> "MismatchError":
        """The same in an outer value, of which it is at `location`."""
        return MismatchError(self.value, self.reason, self.annotation, location + self.location)

    @property
    def is_precise(self) -> bool:
        """Whether the type itself fits, but a part or the size of the value does not."""
        return bool(self.location) or not self.reason.startswith("has type")


@functools.cache
def hints(function: Callable) -> dict[str, Any]:
    """Annotations of the parameters of a function, or of what a class is constructed with."""
    target = function.__init__ if inspect.isclass(function) else function  # type: ignore[misc]
    return typing.get_type_hints(target, include_extras=True)


def convert(value: Any, annotation: Any) -> Any:
    """The value, with numbers of NumPy as Python's. Raises MismatchError."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if value is UNKNOWN or annotation in (Any, inspect.Parameter.empty):
        return value
    if origin is Annotated:
        return _convert_annotated(value, annotation)
    if origin in (Union, types.UnionType):
        return _convert_union(value, annotation)
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        reason = "is unknown" if isinstance(value, str) else _type_reason(value)
        raise MismatchError(value, reason, annotation)
    kind = origin or annotation
    if kind in (int, float, bool):
        return _convert_number(value, kind)
    if kind in (collections.abc.Sequence, collections.abc.Collection, tuple, list):
        return _convert_sequence(value, annotation, arguments)
    if kind is collections.abc.Mapping:
        return _convert_mapping(value, annotation, arguments)
    if not _is_instance(value, kind):
        raise MismatchError(value, _type_reason(value), annotation)
    return value


def _is_instance(value: Any, kind: Any) -> bool:
    """Whether a value that is no number and no container is of a kind.

    Shapes of arrays, and protocols that cannot be checked, match everything; iterables are checked
    where they are read. An object is expected, not its class.
    """
    if kind in (None, type(None)):
        return value is None
    if kind is collections.abc.Callable:
        return callable(value)
    if not isinstance(kind, type) or kind is collections.abc.Iterable:
        return True
    is_static = getattr(kind, "_is_protocol", False) and not kind._is_runtime_protocol
    if is_static or kind.__module__.startswith("jaxtyping"):
        return True
    return isinstance(value, kind) and not inspect.isclass(value)


def _type_reason(value: Any) -> str:
    return f"has type {type(value).__name__}"


def _convert_annotated(value: Any, annotation: Any) -> Any:
    inner, *metadata = typing.get_args(annotation)
    if value is None and any(isinstance(each, Deferred) for each in metadata):
        return None
    try:
        value = convert(value, inner)
    except MismatchError as error:
        if not error.location:
            error.annotation = annotation
        raise
    for each in metadata:
        if isinstance(each, Range) and value is not UNKNOWN and value not in each:
            raise MismatchError(value, "is out of range", annotation)
    return value


def _convert_union(value: Any, annotation: Any) -> Any:
    errors = []
    for member in typing.get_args(annotation):
        try:
            return convert(value, member)
        except MismatchError as error:
            errors.append(error)
    raise next(
        (error for error in errors if error.is_precise),
        MismatchError(value, _type_reason(value), annotation),
    )


def _convert_number(value: Any, kind: type) -> Any:
    kinds = {int: numbers.Integral, float: numbers.Real, bool: bool | np.bool_}
    if isinstance(value, bool | np.bool_) != (kind is bool) or not isinstance(value, kinds[kind]):
        raise MismatchError(value, _type_reason(value), kind)
    return kind(value)


def _convert_sequence(value: Any, annotation: Any, arguments: tuple) -> Any:
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str | bytes):
        raise MismatchError(value, _type_reason(value), annotation)
    if typing.get_origin(annotation) is tuple and arguments and arguments[-1] is not ...:
        if len(value) != len(arguments):
            raise MismatchError(value, f"has {len(value)} elements", annotation)
        members = list(arguments)
    else:
        members = [arguments[0] if arguments else Any] * len(value)
    converted = []
    for number, (each, member) in enumerate(zip(value, members, strict=True)):
        try:
            converted.append(convert(each, member))
        except MismatchError as error:
            raise error.at(f"[{number}]") from None
    return tuple(converted) if isinstance(value, tuple) else converted


def _convert_mapping(value: Any, annotation: Any, arguments: tuple) -> Any:
    if not isinstance(value, Mapping):
        raise MismatchError(value, _type_reason(value), annotation)
    of_key, of_value = arguments or (Any, Any)
    converted = {}
    for key, each in value.items():
        try:
            key = convert(key, of_key)
        except MismatchError as error:
            raise MismatchError(value, f"has the key {key!r}", annotation) from error
        try:
            converted[key] = convert(each, of_value)
        except MismatchError as error:
            raise error.at(f"[{key!r}]") from None
    return converted


def describe(annotation: Any) -> str:
    """What an annotation accepts, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        inner, *metadata = arguments
        ranges = "".join(f" {each}" for each in metadata if isinstance(each, Range))
        return f"{describe(inner)}{ranges}"
    if origin in (Union, types.UnionType):
        has_path = any(map(_is_path, arguments))
        members = [each for each in arguments if not (each is str and has_path)]
        words = [word for each in members for word in describe(each).split(" or ")]
        return _join(list(dict.fromkeys(words)))
    if origin is Literal:
        return _join(list(map(repr, arguments)))
    kind = origin or annotation
    if kind in (collections.abc.Sequence, collections.abc.Collection, tuple, list):
        members = [each for each in arguments if each is not ...]
        return f"a list of {' and '.join(map(_plain, members))}" if members else "a list"
    if kind is collections.abc.Mapping:
        of_key, of_value = map(_plain, arguments or (Any, Any))
        return f"a dict of {of_key} to {of_value}"
    if _is_path(kind):
        return "a path"
    return _NAMES.get(kind) or f"{_article(kind.__name__)} {kind.__name__}"


def _join(words: Sequence[str]) -> str:
    """Alternatives: a; a or b; a, b or c."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _is_path(value: Any) -> bool:
    """Whether a value, or what an annotation accepts, is os.PathLike."""
    return hasattr(value, "__fspath__")


def _plain(annotation: Any) -> str:
    return describe(annotation).removeprefix("an ").removeprefix("a ")


def _article(word: str) -> str:
    return "an" if word[0] in "AEIOUaeiou" else "a"


_NAMES = {
    Any: "anything",
    None: "None",
    type(None): "None",
    bool: "True or False",
    float: "a number",
    int: "an integer",
    str: "a str",
    collections.abc.Callable: "a function",
    collections.abc.Iterable: "an iterable",
}


def _example(annotation: Any, value: Any) -> str:
    for each in (annotation, *typing.get_args(annotation)):
        for metadata in getattr(each, "__metadata__", ()):
            if isinstance(metadata, Example):
                path = value.__fspath__() if _is_path(value) else value
                text = _shown(path) if isinstance(path, str) else "…"
                return metadata.text.replace("{value}", text)
    return ""


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def suggest(value: Any, annotation: Any) -> str:
    """What was probably meant by a value that does not match, as Python text; "" where unknown."""
    for candidate in _candidates(value):
        with contextlib.suppress(MismatchError):
            if len(text := repr(convert(candidate, annotation))) <= LONGEST_VALUE:
                return text
    return ""


def _candidates(value: Any) -> Iterator[Any]:
    """The value written in other ways, the nearest first."""
    if isinstance(value, str):
        for text in (value, value.strip().capitalize()):
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                yield ast.literal_eval(text)
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if isinstance(value, int) and value in (0, 1):
        yield bool(value)
    if isinstance(value, bool | int | float) or _is_path(value):
        yield str(value)
    if isinstance(value, str | int | float):
        yield [value]
    if isinstance(value, list | tuple | set):
        if all(isinstance(each, list | tuple) and len(each) == 2 for each in value):
            yield dict(value)
        yield list(map(_as_text, value))
    if isinstance(value, Mapping):
        yield {str(key): each for key, each in value.items()}
        yield {str(key): _as_text(each) for key, each in value.items()}
        for convert_value in (int, float):
            with contextlib.suppress(ValueError, TypeError):
                yield {key: convert_value(each) for key, each in value.items()}


def _as_text(value: Any) -> Any:
    """A number as text; None, which is a missing value, stays."""
    return str(value) if isinstance(value, int | float) else value


def check(name: str, value: Any, annotation: Any, write: Callable[[str, str], str]) -> Any:
    """The value as `convert` has it.

    Args:
      name: of the setting or argument.
      value: what it is set to.
      annotation: of the parameter that takes it.
      write: (name, value as text) -> how a user sets it.

    Raises:
      WrongTypeError: another type; the message says what is expected and how to write it.
      ValueError: the type fits, and the value does not.
    """
    try:
        return convert(value, annotation)
    except MismatchError as error:
        example = _example(error.annotation, error.value) or _example(annotation, value)
        meant = suggest(value, annotation) or example
        advice = write(name, meant) if meant else f"Set {name} to an accepted value"
        message = (
            f"{name}{error.location}={_shown(error.value)} {error.reason}; "
            f"expected {describe(error.annotation)}. {advice}."
        )
        kind = ValueError if error.reason.startswith("is ") else WrongTypeError
        raise kind(message) from None


def check_fields(instance: Any) -> None:
    """Checks the fields of a frozen dataclass, in its __post_init__. Raises as `check`."""
    for name, annotation in hints(type(instance)).items():
        if name != "return":
            value = check(name, getattr(instance, name), annotation, write_argument)
            object.__setattr__(instance, name, value)


def write_argument(name: str, text: str) -> str:
    """How an argument is passed in Python."""
    return f"Pass {name}={text}"
