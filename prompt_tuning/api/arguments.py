"""Checks the arguments of the Python interface, and names them in messages of the package.

Below the interface messages name gin macros. A function of the interface says which of its
arguments each macro stands for; a macro that is the name of an argument in capitals need not be
listed.
"""

import contextlib
import contextvars
import difflib
import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from prompt_tuning import annotations

Function = TypeVar("Function", bound=Callable[..., Any])

# What a model that was loaded stands for, in functions that get one.
MODEL_NAMES = {
    "BATCH_SIZE / NUM_MICROBATCHES": "batch_size",
    "NUM_PARTITIONS": "num_partitions of pt.load_model",
    "INITIAL_CHECKPOINT_PATH": "the model",
    "PROMPT_PLACE": "place",
    "NUM_EMBEDDINGS": "vocab_size",
    "EMBED_DIM": "embed_dim",
}

# What the function of the interface that runs in this thread calls each macro.
_NAMES: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("names")


def checked(names: Mapping[str, str] | None = None) -> Callable[[Function], Function]:
    """Decorates a function of the interface.

    Args:
      names: {macro, or another phrase of a message: what it is called here}.

    Returns:
      A decorator. Its function raises TypeError for an unknown argument or one of another type
      than its annotation, ValueError for one out of range; numbers of NumPy become Python's.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        table = {name.upper(): name for name in signature.parameters} | dict(names or {})

        @functools.wraps(function)
        def call(*positional: Any, **keywords: Any) -> Any:
            _check_names(function.__name__, keywords, signature)
            try:
                bound = signature.bind(*positional, **keywords)
            except TypeError as error:
                raise TypeError(f"{function.__name__}(): {error}") from None
            hints = annotations.hints(function)
            for name, value in bound.arguments.items():
                bound.arguments[name] = annotations.check(
                    name, value, hints.get(name, Any), annotations.write_argument
                )
            with _named(table):
                return function(*bound.args, **bound.kwargs)

        return call  # type: ignore[return-value]

    return decorate


def _check_names(function: str, keywords: Mapping[str, Any], signature: inspect.Signature) -> None:
    known = [name for name in signature.parameters if name != "self"]
    for name in keywords:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            advice = (
                f"Did you mean {close[0]}=?" if close else f"Expected one of {', '.join(known)}."
            )
            raise TypeError(f"{function}() has no argument {name!r}. {advice}")


@contextlib.contextmanager
def _named(names: Mapping[str, str]) -> Iterator[None]:
    """Within it errors, and log lines of this thread, have these names."""
    token = _NAMES.set(names)
    logging.getLogger().addFilter(_rename_record)
    try:
        yield
    except (ValueError, OSError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (_rename(error.args[0], names),)
        raise
    finally:
        _NAMES.reset(token)


def _rename_record(record: logging.LogRecord) -> bool:
    """A filter of the root logger, which has no effect outside a function of the interface."""
    if names := _NAMES.get({}):
        record.msg, record.args = _rename(record.getMessage(), names), ()
    return True


def _rename(message: str, names: Mapping[str, str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        message = re.sub(rf"(?<![\w'/]){re.escape(name)}(?!\w)", names[name], message)
    return message
