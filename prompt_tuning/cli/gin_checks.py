"""Checks the settings that gin has read, before anything is called with them."""

import contextlib
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import gin

from prompt_tuning import annotations
from prompt_tuning.cli import commands

REQUIRED = "%gin.REQUIRED"
# A required macro -> the one that may be set in its place.
ALTERNATIVES = {"TRAIN_STEPS": "TRAIN_STEPS_RELATIVE"}


def bind_alternatives(macros: Mapping[str, str]) -> None:
    """Sets a required macro of `macros`, {name: text}, to None where its alternative is set."""
    for name, alternative in ALTERNATIVES.items():
        if macros.get(name) == REQUIRED and macros.get(alternative, "None") != "None":
            gin.bind_parameter(f"%{name}", None)


def check_missing(macros: Mapping[str, str]) -> None:
    """Raises UsageError where a required macro of `macros`, {name: text}, is not set."""
    missing = [name for name, text in macros.items() if text == REQUIRED]
    flags = "".join(f"\n  --gin.{name}=…" + _or_alternative(name) for name in missing)
    if missing:
        raise commands.UsageError(f"required settings are not set. Add:{flags}")


def _or_alternative(name: str) -> str:
    return f"  or --gin.{ALTERNATIVES[name]}=…" if name in ALTERNATIVES else ""


def advise(name: str, text: str) -> str:
    """What gin reads, and how `text`, which it cannot parse, is probably to be written."""
    values = "expected a number, True, False, None, a quoted string, a list, a tuple or a dict"
    if meant := annotations.suggest(text, bool | None):
        return f"{values}. {write_flag(name, meant)}."
    if re.match(r"[-+\d\[(]|\{(?!\w+\})", text):
        return f"{values}. Check the syntax of {text}."
    return f"{values}. A string needs inner quotes. {write_flag(name, repr(text))}."


def check_types(function: Callable) -> None:
    """Checks all bindings that a call of `function` would use, without calling anything.

    Raises:
      UsageError: a value has another type, or is out of range; it names the macro.
    """
    _check_bindings(function, set())


def write_flag(name: str, text: str) -> str:
    """How a setting is written on the command line."""
    if "'" in text or '"' in text or " " in text:
        text = shlex.quote(text) if set(text) & set('"$`\\') else f'"{text}"'
    return f"Set --gin.{name}={text}"


def name_macros(message: str) -> str:
    """The message of an error in a call that gin made, with macros in place of arguments.

    gin adds the configurables that were called behind the message, the innermost first.
    """
    text, *calls = message.split("\n  In call to configurable ")
    bindings: Mapping[str, Any] = {}
    with contextlib.suppress(KeyError, ValueError):  # a name without its module may be ambiguous
        bindings = (
            gin.get_bindings(calls[0].split("'")[1], resolve_references=False) if calls else {}
        )
    for parameter, bound in bindings.items():
        macro, _ = _follow(parameter, bound)
        text = re.sub(rf"\b{parameter}=", f"{macro}=", text)
    return text


def _check_bindings(function: Callable, done: set) -> None:
    key = (tuple(gin.current_scope()), function)
    if key in done:
        return
    done.add(key)
    hints = annotations.hints(function)
    owner = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
    for parameter, bound in gin.get_bindings(function, resolve_references=False).items():
        name, value = _follow(f"{owner}.{parameter}", bound)
        value = _resolve(value, done)
        with _as_usage_error():
            annotations.check(name, value, hints.get(parameter, Any), write_flag)


def _follow(name: str, value: Any) -> tuple[str, Any]:
    """The macro that a parameter is bound to, and its value; or the parameter itself."""
    macro = _macro(value)
    if macro is None:
        return name, value
    while (inner := _macro(value)) is not None:
        value = gin.query_parameter(f"%{inner}")
    return macro, value


def _macro(value: Any) -> str | None:
    is_reference = isinstance(value, gin.config.ConfigurableReference)
    is_macro = is_reference and value.configurable.wrapped is gin.config.macro
    return "/".join(value.scopes) if is_macro else None


def _resolve(value: Any, done: set) -> Any:
    """The value with its macros; what references give is unknown, and their bindings are checked."""
    _, value = _follow("", value)
    if isinstance(value, gin.config.ConfigurableReference):
        scope = gin.config_scope(value.scopes) if value.scopes else contextlib.nullcontext()
        with scope:
            _check_bindings(value.configurable.wrapped, done)
        return annotations.UNKNOWN
    if isinstance(value, list | tuple):
        return type(value)(_resolve(each, done) for each in value)
    if isinstance(value, Mapping):
        return {key: _resolve(each, done) for key, each in value.items()}
    return value


@contextlib.contextmanager
def _as_usage_error():
    try:
        yield
    except ValueError as error:
        raise commands.UsageError(str(error)) from error
