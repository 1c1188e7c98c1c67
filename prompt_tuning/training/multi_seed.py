"""Runs of one model with several seeds, trained together by one loop.

The classes have the interfaces of a single run, with lists of one element per seed. The folder of
a seed has the same files as that of a single run.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from prompt_tuning.data import pipeline
from prompt_tuning.data.batches import batching
from prompt_tuning.inference import evaluator as evaluator_lib
from prompt_tuning.training import nan_guard, optimizers, reporting
from prompt_tuning.training import run as run_lib
from prompt_tuning.training import state as state_lib


class MultiSeedRun:
    """Runs of several seeds at the same step, with the interface of `run.Run`."""

    def __init__(self, runs: Sequence[run_lib.Run], model_dir: epath.PathLike):
        """`model_dir` is the parent of the folders of the runs."""
        self.runs, self.model_dir = runs, epath.Path(model_dir)
        self.loaded, self.schedule = runs[0].loaded, runs[0].schedule
        self.frozen = runs[0].frozen
        self.evaluates_at, self.logs_at = runs[0].evaluates_at, runs[0].logs_at

    @property
    def step(self) -> int:
        """The absolute number of steps done."""
        return self.runs[0].step

    @property
    def needs_eval(self) -> bool:
        """Whether an evaluation of the runs is due; see `run.Run`."""
        return self.runs[0].needs_eval

    @property
    def unlogged(self) -> list[Sequence[Mapping[str, float]]]:
        """Unlogged sums, per run."""
        return [run.unlogged for run in self.runs]

    @property
    def state(self) -> list[state_lib.TrainState]:
        """States, per run."""
        return [run.state for run in self.runs]

    @state.setter
    def state(self, states: Sequence[state_lib.TrainState]) -> None:
        for run, state in zip(self.runs, states, strict=True):
            run.state = state

    @property
    def position(self) -> list[Mapping[str, int]] | None:
        """Data positions, per run; None before the first batch."""
        positions = [run.position for run in self.runs]
        return None if None in positions else positions

    @position.setter
    def position(self, positions: Sequence[Mapping[str, int]]) -> None:
        for run, position in zip(self.runs, positions, strict=True):
            run.position = position

    def params(self) -> list[Any]:
        """Returns the parameters per run, which share the frozen arrays."""
        return [run.params() for run in self.runs]

    def prompt_drift(self) -> list[dict[str, float]]:
        """Returns `Run.prompt_drift` per run."""
        return [run.prompt_drift() for run in self.runs]

    def log(self, learning_rate: optimizers.Schedule | None) -> "Logs":
        """Returns the logs per run, with one progress bar."""
        bars = [True] + [False] * (len(self.runs) - 1)
        logs = [run.log(learning_rate, bar) for run, bar in zip(self.runs, bars, strict=True)]
        return Logs({run.model_dir.name: log for run, log in zip(self.runs, logs, strict=True)})

    @property
    def training_loss(self) -> list[float | None]:
        """Losses of the last log line, per run."""
        return [run.training_loss for run in self.runs]

    @training_loss.setter
    def training_loss(self, losses: Sequence[float | None]) -> None:
        for run, loss in zip(self.runs, losses, strict=True):
            run.training_loss = loss

    def record(
        self,
        results: Sequence[Mapping[str, Mapping[str, float]]],
        losses: Sequence[float | None],
    ) -> None:
        """Records one evaluation per run."""
        for run, result, loss in zip(self.runs, results, losses, strict=True):
            run.record(result, loss)

    def guard(self) -> nan_guard.NanGuard:
        """Returns one guard for all runs: an error of one stops all."""
        return nan_guard.NanGuard(self.runs, self.schedule.nan_tolerance)

    def save(self, unlogged: Sequence[Sequence[Mapping[str, float]]]) -> None:
        """Saves each run, one after the other."""
        for run, sums in zip(self.runs, unlogged, strict=True):
            run.save(sums)


class Batches:
    """Yields lists of batches, padded to one shape, with the interface of `pipeline.Batches`."""

    def __init__(self, members: Sequence[pipeline.Batches]):
        self._members = members

    @property
    def position(self) -> list[Mapping[str, int]]:
        """Positions of the next batches, per seed."""
        return [member.position for member in self._members]

    @position.setter
    def position(self, positions: Sequence[Mapping[str, int]]) -> None:
        for member, position in zip(self._members, positions, strict=True):
            member.position = position

    def __iter__(self) -> Iterator[list[batching.Batch]]:
        return self

    def __next__(self) -> list[batching.Batch]:
        batches = [next(member) for member in self._members]
        shapes = jax.tree.map(lambda *arrays: np.max([x.shape for x in arrays], axis=0), *batches)
        return [jax.tree.map(_padded, batch, shapes) for batch in batches]


def _padded(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Pads with zeros: the padding of ids, segments, positions and weights."""
    missing = shape - array.shape
    return np.pad(array, [(0, n) for n in missing]) if missing.any() else array


class Evaluator:
    """Evaluates one run after the other, with the interface of `evaluator.Evaluator`."""

    def __init__(self, members: Mapping[str, evaluator_lib.Evaluator]):
        """`members` is {name of the run: evaluator}."""
        self._members = members

    @property
    def loss(self) -> list[float | None]:
        """Losses of the evaluation targets, per run."""
        return [member.loss for member in self._members.values()]

    def evaluate(self, params: Sequence[Any], step: int) -> list[dict[str, dict[str, float]]]:
        """Returns the metrics per run."""
        results = []
        for (name, member), of_run in zip(self._members.items(), params, strict=True):
            logging.info("%s:", name)
            results.append(member.evaluate(of_run, step))
        return results

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *error) -> None:
        for member in self._members.values():
            member.__exit__(*error)


class Logs:
    """One log per run, with the interface of `reporting.StepLog`."""

    def __init__(self, members: Mapping[str, reporting.StepLog]):
        """`members` is {name of the run: log}."""
        self._members = members
        self._open = contextlib.ExitStack()

    def restart(self) -> None:
        """Restarts all clocks."""
        for member in self._members.values():
            member.restart()

    def add(self, sums: Sequence[Mapping[str, jax.Array]]) -> None:
        """Adds the sums of a step, per run."""
        for member, of_run in zip(self._members.values(), sums, strict=True):
            member.add(of_run)

    def unwritten(self) -> list[list[dict[str, float]]]:
        """Returns the unwritten sums per run."""
        return [member.unwritten() for member in self._members.values()]

    def write(self, step: int, others: Sequence[Mapping[str, float]]) -> list[float | None]:
        """Logs the means of each run; returns their losses."""
        losses = []
        for (name, member), metrics in zip(self._members.items(), others, strict=True):
            logging.info("%s:", name)
            losses.append(member.write(step, metrics))
        return losses

    def __enter__(self) -> "Logs":
        for member in self._members.values():
            self._open.enter_context(member)
        return self

    def __exit__(self, *error) -> None:
        self._open.close()
