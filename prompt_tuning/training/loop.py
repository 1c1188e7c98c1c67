"""The training loop: steps, evaluations, checkpoints and signals."""

import functools
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import jax

from prompt_tuning.data import pipeline
from prompt_tuning.distributed import interrupts, partitioning
from prompt_tuning.inference import evaluator as evaluator_lib
from prompt_tuning.training import background, multi_seed, optimizers, prefetch, reporting
from prompt_tuning.training import run as run_lib
from prompt_tuning.training import step as step_lib


def train_loop(
    run: run_lib.Run | multi_seed.MultiSeedRun,
    batches: pipeline.Batches | multi_seed.Batches,
    evaluator: evaluator_lib.Evaluator | multi_seed.Evaluator,
    seed: int | tuple[int, ...],
    step: step_lib.Step,
    learning_rate: optimizers.Schedule | None = None,
    until: int | None = None,
) -> None:
    """Trains a run to its last step, to `until`, or until a signal, and saves its state.

    For a MultiSeedRun, batches, sums and results are lists with one element per seed.

    Raises:
      KeyboardInterrupt: after Ctrl-C; after SIGTERM its subclass interrupts.Terminated.
      ValueError: non-finite loss; the state after it is not saved.
    """
    last = until or run.schedule.train_steps
    new = run.position is None
    if run.step == last and not new:
        return _evaluate_if_needed(run, evaluator)
    if new:
        run.position = batches.position
    batches.position = run.position
    put = functools.partial(_put_on_mesh, mesh=run.loaded.mesh)
    rng = jax.tree.map(jax.random.key, seed)
    with run.log(learning_rate) as log, prefetch.Prefetch(batches, put) as ahead:
        first = next(ahead)
        compiling = background.Background(lambda: _compile(step, run, first[0], rng))
        _evaluate_if_needed(run, evaluator)
        compiling.result()
        log.restart()
        return _take_steps(run, step, itertools.chain([first], ahead), evaluator, log, rng, last)


def _evaluate_if_needed(
    run: run_lib.Run | multi_seed.MultiSeedRun,
    evaluator: evaluator_lib.Evaluator | multi_seed.Evaluator,
) -> None:
    """Evaluates before the first step, or if a signal stopped the last evaluation."""
    if run.needs_eval:
        run.record(evaluator.evaluate(run.params(), run.step), evaluator.loss)
        run.save(run.unlogged)


def _put_on_mesh(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    if isinstance(batch, list):
        return [partitioning.place_batch(member, mesh) for member in batch]
    return partitioning.place_batch(batch, mesh)


def _compile(
    step: step_lib.Step, run: run_lib.Run | multi_seed.MultiSeedRun, batch: Any, rng: Any
) -> None:
    """Compiles the step while the first evaluation runs."""
    with partitioning.use(run.loaded.mesh):
        step.lower(run.state, run.frozen, batch, rng).compile()


def _take_steps(
    run: run_lib.Run | multi_seed.MultiSeedRun,
    step: step_lib.Step,
    batches: Iterator[tuple[Any, Any]],
    evaluator: evaluator_lib.Evaluator | multi_seed.Evaluator,
    log: reporting.StepLog | multi_seed.Logs,
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
                guard.flush()
            if logs:
                run.training_loss = log.write(done, run.prompt_drift())
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
    run: run_lib.Run | multi_seed.MultiSeedRun,
    evaluator: evaluator_lib.Evaluator | multi_seed.Evaluator,
    signals: interrupts.DeferredSignals,
) -> None:
    """Evaluates, unless a signal is received: the evaluation is repeated on resume then."""
    try:
        with signals.undeferred():
            results = evaluator.evaluate(run.params(), run.step)
    except KeyboardInterrupt:
        if not signals.received:
            raise
    else:
        run.record(results, evaluator.loss)
