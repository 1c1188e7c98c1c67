"""JSON of files that nobody has checked."""

import json
from collections.abc import Callable
from typing import Any


def parse(text: str | bytes, place: str, decode: Callable[[Any], Any] = json.loads) -> Any:
    """What a JSON text says.

    Args:
      text: the JSON.
      place: its file and line, for messages.
      decode: parses it.

    Raises:
      ValueError: no JSON, or nested too deep, or a string that no file can hold: half of a
        surrogate pair.
    """
    try:
        value = decode(text)
        if (b"\\ud" if isinstance(text, bytes) else "\\ud") in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (RecursionError, ValueError) as error:
        raise ValueError(
            f"{place}: not JSON ({error}). Correct it, or write the file again."
        ) from error
    return value
