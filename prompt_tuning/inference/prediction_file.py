"""Prediction files that are written in windows, and resumed after the last complete window."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator

from etils import epath

from prompt_tuning.checkpoints import atomic
from prompt_tuning.training import reporting
from prompt_tuning.training import settings as settings_lib


class PredictionFile:
    """A prediction file, `<name>.partial` until it is complete.

    Only the first process writes. `<name>.settings.json` records the inputs of the predictions.

    Attributes:
      path: of the complete file.
      is_complete: whether the complete file existed at the start.
      num_kept: lines in complete windows of the partial file at the start.
    """

    def __init__(self, path: epath.PathLike, settings: settings_lib.Settings, window: int):
        """Reads the existing files; a window has `window` lines.

        Raises:
          ValueError: the file or its partial file has predictions of other settings.
        """
        path = epath.Path(path)
        self.path, self.settings = path, settings
        self._partial = path.with_name(f"{path.name}.partial")
        self._record = path.with_name(f"{path.name}.settings.json")
        self.is_complete = path.exists()
        self._check_settings()
        self.num_kept, self._kept_size = self._find_complete_windows(window)
        if self.is_complete:
            logging.info(
                "%s is complete and has the same inputs: its predictions are kept. Delete it to "
                "predict again.",
                path,
            )

    def _check_settings(self) -> None:
        if not (self.is_complete or self._partial.exists()):
            return
        advice = "Delete it, or set another INFER_OUTPUT_DIR."
        recorded = settings_lib.read_file(self._record).get("settings")
        if recorded is None:
            raise ValueError(
                f"{self.path} has no record {self._record.name} of its inputs, for example because "
                f"an earlier version wrote it; expected a record, to compare the inputs. {advice}"
            )
        if lines := settings_lib.differences(recorded, self.settings):
            differences = "\n  ".join(lines)
            raise ValueError(
                f"{self.path} has predictions of other inputs (old -> new):\n  {differences}\n"
                f"Expected the same inputs. {advice}"
            )

    def _find_complete_windows(self, window: int) -> tuple[int, int]:
        """Returns the numbers of lines and bytes in complete windows of the partial file."""
        count = size = kept = kept_size = 0
        if self._partial.exists():
            with self._partial.open("rb") as file:
                for line in file:
                    count, size = count + line.endswith(b"\n"), size + len(line)
                    if count == kept + window:
                        kept, kept_size = count, size
        return kept, kept_size

    @contextlib.contextmanager
    def append(self) -> Iterator[Callable[[str], None]]:
        """Yields a function that appends text; renames the file after the block."""
        if not atomic.is_writer():
            yield lambda text: None
            return
        settings_lib.write(self._record, self.settings)
        self._drop_incomplete_window()
        with self._partial.open("ab") as out:

            def write(text: str) -> None:
                out.write(text.encode())
                out.flush()

            yield write
            if os.path.isfile(self._partial):  # Durable before it has its final name.
                os.fsync(out.fileno())
        self._partial.replace(self.path)

    def _drop_incomplete_window(self) -> None:
        if not self._partial.exists() or self._partial.stat().length == self._kept_size:
            return
        if os.path.isfile(self._partial):
            os.truncate(self._partial, self._kept_size)
        else:  # Files in a bucket cannot be truncated.
            self._partial.write_bytes(self._partial.read_bytes()[: self._kept_size])

    def mark_completed(self) -> None:
        """Writes `<name>.COMPLETED`, as T5X does."""
        reporting.write_text(self.path.with_name(f"{self.path.name}.COMPLETED"), "")
