"""The loop around the training step: evaluate, save, stop, go on."""

import functools
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import jax

from prompt_tuning.data import pipeline
from prompt_tuning.distributed import interrupts, partitioning
from prompt_tuning.inference import evaluator as evaluator_lib
from prompt_tuning.training import background, optimizers, prefetch, reporting, stack
from prompt_tuning.training import run as run_lib
from prompt_tuning.training import step as step_lib


def train_loop(
    run: run_lib.Run | stack.Stack,
    batches: pipeline.Batches | stack.Batches,
    evaluator: evaluator_lib.Evaluator | stack.Evaluator,
    seed: int | tuple[int, ...],
    step: step_lib.Step,
    learning_rate: optimizers.Schedule | None = None,
    until: int | None = None,
) -> None:
    """Takes a run from where it is to its end, or to a step, or until a signal; each is saved.

    A stack of runs has a list where a run has one of something.

    Raises:
      KeyboardInterrupt: after Ctrl-C; after SIGTERM, interrupts.Terminated, which is one too.
      ValueError: the loss is no number; what it led to is not saved.
    """
    last = until or run.schedule.train_steps
    new = run.position is None
    if run.step == last and not new:
        return _evaluate_if_needed(run, evaluator)
    if new:
        run.position = batches.position
    batches.position = run.position
    place = functools.partial(_placed, mesh=run.loaded.mesh)
    rng = jax.tree.map(jax.random.key, seed)
    with run.log(learning_rate) as log, prefetch.Prefetch(batches, place) as ahead:
        first = next(ahead)
        compiling = background.Background(lambda: _compile(step, run, first[0], rng))
        _evaluate_if_needed(run, evaluator)
        compiling.result()
        log.restart()
        return _take_steps(run, step, itertools.chain([first], ahead), evaluator, log, rng, last)


def _evaluate_if_needed(
    run: run_lib.Run | stack.Stack, evaluator: evaluator_lib.Evaluator | stack.Evaluator
) -> None:
    """Before the first step, and where a run was stopped within an evaluation."""
    if run.needs_eval:
        run.record(evaluator.evaluate(run.params(), run.step), evaluator.loss)
        run.save(run.unlogged)


def _placed(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    if isinstance(batch, list):
        return [partitioning.place_batch(each, mesh) for each in batch]
    return partitioning.place_batch(batch, mesh)


def _compile(step: step_lib.Step, run: run_lib.Run | stack.Stack, batch: Any, rng: Any) -> None:
    """Compiles what the first step would wait for."""
    with partitioning.use(run.loaded.mesh):
        step.lower(run.state, run.frozen, batch, rng).compile()


def _take_steps(
    run: run_lib.Run | stack.Stack,
    step: step_lib.Step,
    batches: Iterator[tuple[Any, Any]],
    evaluator: evaluator_lib.Evaluator | stack.Evaluator,
    log: reporting.StepLog | stack.Logs,
    rng: Any,
    last: int,
) -> None:
    done, guard = run.step, run.guard()
    with interrupts.DeferredSignals() as signals:
        while done < last:
            batch, position = next(batches)
            run.state, sums = step(run.state, run.frozen, batch, rng)
            run.position, done = position, done + 1
            log.add(sums)
            guard.add(done, batch, sums)
            evaluates, stops = run.evaluates_at(done), signals.stops_at(done)
            logs, saves = evaluates or run.logs_at(done), evaluates or stops or done == last
            if logs or saves:
                guard.settle()
            if logs:
                run.training_loss = log.write(done, run.moved())
            if evaluates and not stops:
                _evaluate(run, evaluator, signals)
            if saves:
                run.save(log.unwritten())
                log.restart()
            if saves and signals.received:
                logging.warning(
                    "Interrupted: step %d is saved in %s, and the same command resumes from it.",
                    done, run.model_dir,
                )  # fmt: skip
                raise signals.received


def _evaluate(
    run: run_lib.Run | stack.Stack,
    evaluator: evaluator_lib.Evaluator | stack.Evaluator,
    signals: interrupts.DeferredSignals,
) -> None:
    """Evaluates, unless a signal comes: then the run owes it."""
    try:
        with signals.undeferred():
            results = evaluator.evaluate(run.params(), run.step)
    except KeyboardInterrupt:
        if not signals.received:
            raise
    else:
        run.record(results, evaluator.loss)
