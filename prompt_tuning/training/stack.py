"""Several runs of one model, each with its own seed, as one: the loop takes them for a run.

What each gives to the loop, and gets from it, is a list with an element for each run; its
folder holds what it would hold if it ran alone.
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


class Stack:
    """Runs that are at the same step, with the interface of `run.Run`."""

    def __init__(self, runs: Sequence[run_lib.Run], model_dir: epath.PathLike):
        """`model_dir` holds the folders of the runs."""
        self.runs, self.model_dir = runs, epath.Path(model_dir)
        self.loaded, self.schedule = runs[0].loaded, runs[0].schedule
        self.frozen = runs[0].frozen
        self.evaluates_at, self.logs_at = runs[0].evaluates_at, runs[0].logs_at

    @property
    def step(self) -> int:
        """Steps done, absolute."""
        return self.runs[0].step

    @property
    def needs_eval(self) -> bool:
        """Whether the runs are to be evaluated now; see `run.Run`."""
        return self.runs[0].needs_eval

    @property
    def unlogged(self) -> list[Sequence[Mapping[str, float]]]:
        """Of each run."""
        return [run.unlogged for run in self.runs]

    @property
    def state(self) -> list[state_lib.TrainState]:
        """Of each run."""
        return [run.state for run in self.runs]

    @state.setter
    def state(self, states: Sequence[state_lib.TrainState]) -> None:
        for run, own in zip(self.runs, states, strict=True):
            run.state = own

    @property
    def position(self) -> list[Mapping[str, int]] | None:
        """Of each run in its data; None before the first batch."""
        positions = [run.position for run in self.runs]
        return None if None in positions else positions

    @position.setter
    def position(self, positions: Sequence[Mapping[str, int]]) -> None:
        for run, own in zip(self.runs, positions, strict=True):
            run.position = own

    def params(self) -> list[Any]:
        """Of each run; the frozen ones are the same arrays."""
        return [run.params() for run in self.runs]

    def moved(self) -> list[dict[str, float]]:
        """Of each run."""
        return [run.moved() for run in self.runs]

    def log(self, learning_rate: optimizers.Schedule | None) -> "Logs":
        """Of each run; one bar for all."""
        bars = [True] + [False] * (len(self.runs) - 1)
        logs = [run.log(learning_rate, bar) for run, bar in zip(self.runs, bars, strict=True)]
        return Logs({run.model_dir.name: log for run, log in zip(self.runs, logs, strict=True)})

    @property
    def training_loss(self) -> list[float | None]:
        """Of each run."""
        return [run.training_loss for run in self.runs]

    @training_loss.setter
    def training_loss(self, losses: Sequence[float | None]) -> None:
        for run, own in zip(self.runs, losses, strict=True):
            run.training_loss = own

    def record(
        self,
        results: Sequence[Mapping[str, Mapping[str, float]]],
        losses: Sequence[float | None],
    ) -> None:
        """Takes an evaluation of each run."""
        for run, own, loss in zip(self.runs, results, losses, strict=True):
            run.record(own, loss)

    def guard(self) -> nan_guard.NanGuard:
        """Of all runs: one that stops stops the others."""
        return nan_guard.NanGuard(self.runs, self.schedule.nan_tolerance)

    def save(self, unlogged: Sequence[Sequence[Mapping[str, float]]]) -> None:
        """Saves each run, one after the other."""
        for run, own in zip(self.runs, unlogged, strict=True):
            run.save(own)


class Batches:
    """A list of batches at a time, padded to one shape. Use as `pipeline.Batches`."""

    def __init__(self, members: Sequence[pipeline.Batches]):
        self._members = members

    @property
    def position(self) -> list[Mapping[str, int]]:
        """Where the next batch of each begins."""
        return [member.position for member in self._members]

    @position.setter
    def position(self, positions: Sequence[Mapping[str, int]]) -> None:
        for member, own in zip(self._members, positions, strict=True):
            member.position = own

    def __iter__(self) -> Iterator[list[batching.Batch]]:
        return self

    def __next__(self) -> list[batching.Batch]:
        batches = [next(member) for member in self._members]
        shapes = jax.tree.map(lambda *arrays: np.max([x.shape for x in arrays], axis=0), *batches)
        return [jax.tree.map(_padded, batch, shapes) for batch in batches]


def _padded(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """With zeros behind: padding of ids, segments, positions and weights alike."""
    missing = shape - array.shape
    return np.pad(array, [(0, n) for n in missing]) if missing.any() else array


class Evaluator:
    """Evaluates one run after the other, with the interface of `evaluator.Evaluator`."""

    def __init__(self, members: Mapping[str, evaluator_lib.Evaluator]):
        """{name of the run: its own}."""
        self._members = members

    @property
    def loss(self) -> list[float | None]:
        """Of each run."""
        return [member.loss for member in self._members.values()]

    def evaluate(self, params: Sequence[Any], step: int) -> list[dict[str, dict[str, float]]]:
        """Metrics of each run."""
        results = []
        for (name, member), own in zip(self._members.items(), params, strict=True):
            logging.info("%s:", name)
            results.append(member.evaluate(own, step))
        return results

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *error) -> None:
        for member in self._members.values():
            member.__exit__(*error)


class Logs:
    """The log of each run, with the interface of `reporting.StepLog`."""

    def __init__(self, members: Mapping[str, reporting.StepLog]):
        """{name of the run: its own}."""
        self._members = members
        self._open = contextlib.ExitStack()

    def restart(self) -> None:
        """Starts all clocks."""
        for member in self._members.values():
            member.restart()

    def add(self, sums: Sequence[Mapping[str, jax.Array]]) -> None:
        """Takes the sums of a step of each run."""
        for member, own in zip(self._members.values(), sums, strict=True):
            member.add(own)

    def unwritten(self) -> list[list[dict[str, float]]]:
        """Of each run."""
        return [member.unwritten() for member in self._members.values()]

    def write(self, step: int, others: Sequence[Mapping[str, float]]) -> list[float | None]:
        """Tells the means of each run; returns their losses."""
        losses = []
        for (name, member), own in zip(self._members.items(), others, strict=True):
            logging.info("%s:", name)
            losses.append(member.write(step, own))
        return losses

    def __enter__(self) -> "Logs":
        for member in self._members.values():
            self._open.enter_context(member)
        return self

    def __exit__(self, *error) -> None:
        self._open.close()
