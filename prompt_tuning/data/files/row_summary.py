"""What the rows of a file hold: one log line, warnings, and errors for what cannot be trained on."""

import collections
import logging
from collections.abc import Mapping
from typing import Any

SHOWN_LINES = 5  # line numbers in a message
SHOWN_TARGETS = 10
# More distinct targets are free text, which is not counted: memory does not grow with the file.
COUNTED_TARGETS = 1000


class RowSummary:
    """Counts the rows of one file while they are read."""

    def __init__(self, place: str, target_column: str | None, blank_inputs: str):
        """Counts nothing yet.

        Args:
          place: the file and its setting, for messages.
          target_column: TARGET_COLUMN; None where the file has no targets.
          blank_inputs: the inputs of a row whose fields are empty.
        """
        self._place, self._target_column, self._blank_inputs = place, target_column, blank_inputs
        self._rows = 0
        self._skipped, self._without_inputs, self._without_target = Lines(), Lines(), Lines()
        self._targets: collections.Counter[str] | None = None
        if target_column is not None:
            self._targets = collections.Counter()

    def add(self, number: int, example: Mapping[str, Any] | None) -> None:
        """Counts the example of line `number`; None for a row that is skipped."""
        if example is None:
            self._skipped.add(number)
            return
        self._rows += 1
        if example["inputs"] == self._blank_inputs:
            self._without_inputs.add(number)
        target = example["targets"]
        if not target and self._target_column is not None:
            self._without_target.add(number)
        if self._targets is not None:
            self._targets[target] += 1
            if len(self._targets) > COUNTED_TARGETS:
                self._targets = None

    def report(self, *, allow_empty_targets: bool) -> None:
        """Logs the counts.

        Raises:
          ValueError: no row is left, or rows without target, unless `allow_empty_targets`.
        """
        if not self._rows:
            raise ValueError(
                f"{self._place} has no row of data, because all fields are empty; expected at least one. Add "
                "rows, or correct the path."
            )
        missing = self._without_target
        if missing.count and not allow_empty_targets:
            raise ValueError(
                f"{self._place}: column {self._target_column!r} (TARGET_COLUMN) is empty, null or NaN in "
                f"{missing.count} of {self._rows} rows ({missing}); expected a target in each. Fill in "
                "or delete these rows, or set ALLOW_EMPTY_TARGETS = True to train the model to predict an "
                "empty text."
            )
        skipped = f", {self._skipped.count} empty skipped ({self._skipped})"
        logging.info(
            "%s: rows read: %d%s%s",
            self._place, self._rows, skipped if self._skipped.count else "", self._describe_targets(),
        )  # fmt: skip
        if self._without_inputs.count:
            logging.warning(
                "%s: the fields of INPUT_TEMPLATE are empty in %d of %d rows (%s), which are kept. Correct or "
                "delete these rows.",
                self._place, self._without_inputs.count, self._rows, self._without_inputs,
            )  # fmt: skip

    def _describe_targets(self) -> str:
        if self._target_column is None:
            return ""
        if self._targets is None:
            return f"; over {COUNTED_TARGETS:,} distinct targets"
        common = self._targets.most_common(SHOWN_TARGETS)
        shown = ", ".join(f"{target[:40]!r} {count}" for target, count in common)
        others = len(self._targets) - len(common)
        return f"; targets: {shown}" + (f" and {others} more" if others else "")


class Lines:
    """How many lines there are of a kind, and which are the first.

    Attributes:
      count: of all of them.
    """

    def __init__(self):
        """None yet."""
        self.count = 0
        self._first: list[int] = []

    def add(self, number: int) -> None:
        """One more line."""
        self.count += 1
        if len(self._first) < SHOWN_LINES:
            self._first.append(number)

    def __str__(self) -> str:
        noun = "line" if self.count == 1 else "lines"
        return f"{noun} {', '.join(map(str, self._first))}" + (
            ", …" if self.count > SHOWN_LINES else ""
        )
