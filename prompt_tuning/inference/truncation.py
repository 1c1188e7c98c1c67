"""Predictions that are cut off at the maximum length."""

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
    """Logs how many predictions reach the maximum length without an end token, if any.

    Args:
      name: of the task.
      is_truncated: how many predictions are truncated, and how many are not.
      max_length: tokens of a prediction at most.
      setting: of that length.
      longest_target: tokens of the longest target; 0 where there are no targets.
    """
    known = f" (the longest target has {longest_target})" if longest_target else ""
    if is_truncated[True]:
        logging.warning(
            "%s: %d of %d predictions are truncated: they reach the maximum length, %s = %d tokens, "
            "without an end token. Increase it if you expect longer predictions%s.",
            name, is_truncated[True], is_truncated.total(), setting, max_length, known,
        )  # fmt: skip
