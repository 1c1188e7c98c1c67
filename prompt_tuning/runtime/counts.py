"""Settings that are whole numbers."""

from typing import Any


def check(setting: str, value: Any, least: int, *, none: str = "") -> None:
    """Raises ValueError where `value` is no whole number from `least` on.

    Args:
      setting: name of the macro.
      value: what it is set to.
      least: the lowest that has a meaning.
      none: what None means; "" where it means nothing.
    """
    if value is None and none:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        or_none = f", or None for {none}" if none else ""
        raise ValueError(
            f"{setting} is {value!r}; expected a whole number of at least {least}{or_none}; set "
            f"{setting}"
        )
