"""Guard against non-finite steps: logs them, saves their batches, stops the run."""

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

# Steps that are checked later: waiting for the latest would leave the device idle.
DELAY_STEPS = 2
PREFIX = "nan_step_"  # prefix of the files of saved batches


class Guarded(Protocol):
    """A run: its folder, and its number of consecutive non-finite steps."""

    model_dir: epath.Path
    skipped: int


class NanGuard:
    """Checks each step of one run, or of several runs that are trained together."""

    def __init__(self, runs: Sequence[Guarded], tolerance: int):
        """`tolerance` (NAN_TOLERANCE) consecutive non-finite steps of a run are skipped."""
        self._runs, self._tolerance = runs, tolerance
        self._waiting: collections.deque[tuple[int, Any, Any]] = collections.deque()

    def add(self, step: int, batch: Any, sums: Any) -> None:
        """Adds the batch and the sums of the step that led to `step`; lists for several runs.

        Raises as `flush`, for an earlier step.
        """
        self._waiting.append((step, batch, sums))
        if len(self._waiting) > DELAY_STEPS:
            self._check(*self._waiting.popleft())

    def flush(self) -> None:
        """Checks all steps so far; to be called before their result is saved.

        Raises:
          ValueError: more than `tolerance` consecutive steps have a non-finite loss or gradient.
        """
        while self._waiting:
            self._check(*self._waiting.popleft())

    def _check(self, step: int, batch: Any, sums: Any) -> None:
        if not isinstance(sums, list):
            batch, sums = [batch], [sums]
        for run, run_batch, run_sums in zip(self._runs, batch, jax.device_get(sums), strict=True):
            run.skipped = run.skipped + 1 if run_sums["skipped"] else 0
            if run_sums["skipped"]:
                self._report(run, step, run_batch, run_sums)

    def _report(
        self, run: Guarded, step: int, batch: Mapping[str, Any], sums: Mapping[str, Any]
    ) -> None:
        path = run.model_dir / f"{PREFIX}{step}.npz"
        content = io.BytesIO()
        np.savez(content, **partitioning.to_host(batch))
        atomic.write(path, content.getvalue())
        problem = (
            f"non-finite loss or gradient (loss {sums['loss']}, gradient norm "
            f"{sums['gradient_norm']}); the batch is saved in {path}"
        )
        if run.skipped <= self._tolerance:
            logging.warning(
                "Skipped step %d in %s: %s (%d of at most NAN_TOLERANCE=%d steps in a row).",
                step, run.model_dir, problem, run.skipped, self._tolerance,
            )  # fmt: skip
            return
        raise ValueError(
            f"step {step} in {run.model_dir}: {problem}. Expected finite values; earlier checkpoints "
            "are unchanged. Lower LEARNING_RATE (and set ALLOW_CHANGED_SETTINGS=True to continue "
            f"this run with it), inspect the batch, or set NAN_TOLERANCE (now {self._tolerance}) "
            "to the number of consecutive steps to skip."
        )


def saved_batches(folder: epath.PathLike) -> list[epath.Path]:
    """Returns the files of saved batches in the folder of a run."""
    return list(epath.Path(folder).glob(f"{PREFIX}*"))
