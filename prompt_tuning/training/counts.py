"""Validation of integer settings."""

from typing import Any

MAX_STEP = 2**31 - 1  # steps are int32 arrays
MAX_SEED = 2**32 - 1  # jax.random.key ignores higher bits


def validate_int(
    setting: str, value: Any, least: int, most: int | None = None, *, none: str = ""
) -> None:
    """Raises ValueError unless `value` is an integer from `least` to `most`.

    Args:
      setting: name of the macro.
      value: value of the macro.
      least: lowest valid value.
      most: highest valid value; None for no limit.
      none: meaning of None; "" if None is invalid.
    """
    if value is None and none:
        return
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int or value < least or (most is not None and value > most):
        at_most = "" if most is None or not is_int or value < least else f" and at most {most}"
        or_none = f", or None for {none}" if none else ""
        raise ValueError(
            f"{setting} is {value!r}; expected an integer of at least {least}{at_most}{or_none}. "
            f"Set {setting} to such a value."
        )
