"""Warnings of predictions that are truncated at the maximum length."""

import logging
from collections import Counter

SETTING = "TASK_FEATURE_LENGTHS['targets']"


def report(
    name: str,
    is_truncated: Counter[bool],
    max_length: int,
    setting: str = SETTING,
    longest_target: int = 0,
) -> None:
    """Warns of predictions that reach the maximum length without an end token.

    Args:
      name: of the task.
      is_truncated: counts of truncated (True) and other (False) predictions.
      max_length: maximum number of tokens.
      setting: that sets the maximum length.
      longest_target: tokens of the longest target; 0 without targets.
    """
    hint = f" (the longest target has {longest_target})" if longest_target else ""
    if is_truncated[True]:
        logging.warning(
            "%s: %d of %d predictions are truncated: they reach the maximum length, %s = %d tokens, "
            "without an end token. Increase it if you expect longer predictions%s.",
            name, is_truncated[True], is_truncated.total(), setting, max_length, hint,
        )  # fmt: skip
