"""JSON of files that nobody has checked."""

import json
from typing import Any


def parse(text: str | bytes, place: str) -> Any:
    """What a JSON text says.

    Raises ValueError naming `place`, its file and line, where it is none, is nested too deep, or
    has a string that no file can hold: half of a surrogate pair.
    """
    try:
        value = json.loads(text)
        if (b"\\ud" if isinstance(text, bytes) else "\\ud") in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{place}: not JSON ({error})") from error
    return value
