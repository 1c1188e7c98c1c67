"""Predictions that are cut off at the maximum length."""

import logging

import numpy as np
from jaxtyping import Int

from prompt_tuning.models import decoding

SETTING = "TASK_FEATURE_LENGTHS['targets']"


class TruncationCounter:
    """Counts predictions that have no end token, as they reach the maximum length."""

    def __init__(self) -> None:
        self.total = self.truncated = 0

    def add(self, tokens: Int[np.ndarray, "n L"]) -> None:
        """Counts predictions, a row each; those of a LabelRanking have their end token."""
        self.total += len(tokens)
        self.truncated += int(np.sum(~np.any(tokens == decoding.EOS_ID, axis=-1)))

    def report(
        self, name: str, max_length: int, setting: str = SETTING, longest_target: int = 0
    ) -> None:
        """Logs how many predictions are cut off, if any.

        Args:
          name: of the task.
          max_length: tokens of a prediction at most.
          setting: of that length.
          longest_target: tokens of the longest target; 0 where there are no targets.
        """
        known = f" (the longest target has {longest_target})" if longest_target else ""
        if self.truncated:
            logging.warning(
                "%s: %d of %d predictions are truncated: they reach the maximum length, %s = %d "
                "tokens, without an end token. Increase it if you expect longer predictions%s.",
                name, self.truncated, self.total, setting, max_length, known,
            )  # fmt: skip
