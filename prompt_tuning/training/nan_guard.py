"""Steps whose numbers are not finite: told, their batches kept, the run stopped."""

import collections
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath

from prompt_tuning.checkpoints import atomic
from prompt_tuning.distributed import partitioning

# Steps that are not looked at yet: waiting for the last would keep the device from the next.
LATE = 2
PREFIX = "nan_step_"  # of the files of batches


class Guarded(Protocol):
    """A run: its folder, and its bad steps in a row up to the last that was looked at."""

    model_dir: epath.Path
    skipped: int


class NanGuard:
    """Looks at each step of a run, or of several that are taken together."""

    def __init__(self, runs: Sequence[Guarded], tolerance: int):
        """`tolerance` (NAN_TOLERANCE) is how many bad steps in a row pass; each run has its count."""
        self._runs, self._tolerance = runs, tolerance
        self._waiting: collections.deque[tuple[int, Any, Any]] = collections.deque()

    def add(self, step: int, batch: Any, sums: Any) -> None:
        """Takes the batch and the sums of the step that led to `step`; of several runs lists.

        Raises as `settle`, of a step that was taken before.
        """
        self._waiting.append((step, batch, sums))
        if len(self._waiting) > LATE:
            self._look(*self._waiting.popleft())

    def settle(self) -> None:
        """Looks at all steps so far, before what they led to is saved.

        Raises:
          ValueError: too many in a row have a loss, or a gradient, that is not finite.
        """
        while self._waiting:
            self._look(*self._waiting.popleft())

    def _look(self, step: int, batch: Any, sums: Any) -> None:
        if not isinstance(sums, list):
            batch, sums = [batch], [sums]
        for run, own, found in zip(self._runs, batch, jax.device_get(sums), strict=True):
            run.skipped = run.skipped + 1 if found["skipped"] else 0
            if found["skipped"]:
                self._tell(run, step, own, found)

    def _tell(
        self, run: Guarded, step: int, batch: Mapping[str, Any], sums: Mapping[str, Any]
    ) -> None:
        path = run.model_dir / f"{PREFIX}{step}.npz"
        content = io.BytesIO()
        np.savez(content, **partitioning.to_host(batch))
        atomic.write(path, content.getvalue())
        what = (
            f"non-finite loss or gradient (loss {sums['loss']}, gradient norm "
            f"{sums['gradient_norm']}); the batch is saved in {path}"
        )
        if run.skipped <= self._tolerance:
            logging.warning(
                "Skipped step %d in %s: %s (%d of at most NAN_TOLERANCE=%d steps in a row).",
                step, run.model_dir, what, run.skipped, self._tolerance,
            )  # fmt: skip
            return
        raise ValueError(
            f"step {step} in {run.model_dir}: {what}. Expected finite values; earlier checkpoints "
            "are unchanged. Lower LEARNING_RATE (and set ALLOW_CHANGED_SETTINGS=True to continue "
            f"this run with it), inspect the batch, or set NAN_TOLERANCE (now {self._tolerance}) "
            "to the number of consecutive steps to skip."
        )


def kept(folder: epath.PathLike) -> list[epath.Path]:
    """The batches that are kept in a run's folder."""
    return list(epath.Path(folder).glob(f"{PREFIX}*"))
