"""The training loop: what it saves, and where it resumes."""

import json
import os
import pathlib
import signal

import jax
import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files, train_state
from prompt_tuning.distributed import partitioning
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.training import loop as loop_lib


class NoEvaluator:
    """Nothing to evaluate; notes when it is asked."""

    def __init__(self):
        self.steps, self.loss = [], None

    def evaluate(self, params, step):
        self.steps.append(step)
        return {}


def loop(run, step, batches, evaluator=None):
    with partitioning.use(run.loaded.mesh):
        loop_lib.train_loop(run, batches, evaluator or NoEvaluator(), 3, step)


@pytest.fixture(scope="module")
def shared_step(make_step):
    """One compiled step for the runs of this file that only differ in what is around it."""
    cache = []

    def of(run):
        if not cache:
            cache.append(make_step(run))
        return cache[0]

    return of


def lines(run, name="train/metrics.jsonl"):
    return [json.loads(line) for line in (run.model_dir / name).read_text().splitlines()]


def stopping(step, at, how):
    """The step, in which something happens when it is taken from `at`."""

    def stopped(old, *arguments):
        if int(old.step) == at:
            how()
        return step(old, *arguments)

    stopped.lower = step.lower
    return stopped


def crash():
    raise RuntimeError("power cut")


def control_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(
    make_run, make_batches, shared_step, caplog
):
    settings = {"steps": 7, "eval_period": 2, "log_period": 1}
    uninterrupted = make_run(folder="whole", **settings)
    loop(uninterrupted, shared_step(uninterrupted), make_batches(pack=True))

    # Saved at 1,002, dead in 1,003.
    first = make_run(**settings)
    with pytest.raises(RuntimeError):
        loop(first, stopping(shared_step(None), 1003, crash), make_batches(pack=True))
    assert [line["step"] for line in lines(first)] == [1001, 1002, 1003]
    # Resumes; Ctrl-C within step 1,004 -> 1,005, which is no stop of the schedule.
    second = make_run(**settings)
    second.resume()
    assert (second.step, second.first_step) == (1002, 1000)
    with pytest.raises(KeyboardInterrupt):
        loop(second, stopping(shared_step(None), 1004, control_c), make_batches(pack=True))
    assert "step 1005 is saved" in caplog.text
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    third = make_run(**settings)
    third.resume()
    assert third.step == 1005
    loop(third, shared_step(None), make_batches(pack=True))
    assert third.position == uninterrupted.position == {"epoch": 5, "examples": 6}
    np.testing.assert_array_equal(
        third.adapter_params()[prompt_method.PATH],
        uninterrupted.adapter_params()[prompt_method.PATH],
    )
    jax.tree.map(np.testing.assert_array_equal, third.state, uninterrupted.state)
    same = ("step", "loss", "accuracy", "prompt_distance")
    ours, theirs = ([[line[k] for k in same] for line in lines(r)] for r in (third, uninterrupted))
    assert ours == theirs and [row[0] for row in ours] == list(range(1001, 1008))


def test_a_run_that_died_in_its_first_step_goes_on(make_run, make_batches, shared_step):
    run, evaluator = make_run(steps=2), NoEvaluator()
    with pytest.raises(RuntimeError):
        loop(run, stopping(shared_step(run), 1000, crash), make_batches(), evaluator)
    again = make_run(steps=2)
    again.resume()
    loop(again, shared_step(None), make_batches(), evaluator)
    assert evaluator.steps == [1000, 1002]


def test_a_run_that_ended_is_left_as_it_is(make_run, make_batches, shared_step):
    run = make_run(steps=1)
    loop(run, shared_step(run), make_batches())
    again = make_run(steps=1)
    again.resume()
    files = list(pathlib.Path(run.model_dir).rglob("*"))
    written = [path.stat().st_mtime_ns for path in files]
    loop(again, None, make_batches())
    assert list(pathlib.Path(run.model_dir).rglob("*")) == files
    assert [path.stat().st_mtime_ns for path in files] == written


def poisoned(step, bad):
    """A step whose loss is NaN if it leads to one of `bad`."""

    def taken(old, frozen, batch, rng):
        now = int(old.step) + 1
        if now in bad:
            frozen = jax.tree.map(lambda x: x * np.float32("nan"), frozen)
        return step(old, frozen, batch, rng)

    taken.lower = step.lower
    return taken


def test_a_loss_that_is_no_number_stops_and_is_not_saved(make_run, make_batches, shared_step):
    run = make_run(eval_period=2, log_period=100)
    with pytest.raises(ValueError, match=r"step 1002 in .*NAN_TOLERANCE \(now 0\)") as caught:
        loop(run, poisoned(shared_step(run), {1002}), make_batches())
    assert train_state.latest_step(run.model_dir) == 1000
    assert not (run.model_dir / "prompts" / "prompt_1002.npy").exists()
    batches = make_batches()
    second = [next(batches) for _ in range(2)][1]
    path = run.model_dir / "nan_step_1002.npz"
    assert str(path) in str(caught.value)
    with np.load(path) as kept:
        assert set(kept.files) == set(second)
        np.testing.assert_array_equal(kept["encoder_input_tokens"], second["encoder_input_tokens"])


def test_steps_without_numbers_are_left_out_up_to_a_tolerance(
    make_run, make_batches, shared_step, caplog
):
    run = make_run(steps=6, log_period=2, eval_period=6, nan_tolerance=2)
    loop(run, poisoned(shared_step(run), {1002, 1004, 1005}), make_batches())
    assert "Skipped step 1004 in" in caplog.text and "of at most NAN_TOLERANCE=2" in caplog.text
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.state))
    assert [np.isfinite(line["loss"]) for line in lines(run)] == [True] * 3
    again = make_run(folder="again", steps=6, nan_tolerance=2)
    with pytest.raises(ValueError, match=r"step 1004 in .*: non-finite loss"):
        loop(again, poisoned(shared_step(run), {1002, 1003, 1004}), make_batches())


def test_a_resumed_run_has_its_steps_in_a_row(make_run, make_batches, shared_step):
    settings, bad = {"steps": 6, "eval_period": 3, "nan_tolerance": 2}, {1002, 1003, 1004}
    run = make_run(**settings)
    with pytest.raises(ValueError, match=r"step 1004 in .*: non-finite loss"):
        loop(run, poisoned(shared_step(run), bad), make_batches())
    again = make_run(**settings)
    again.resume()
    assert (again.step, again.skipped) == (1003, 2)
    with pytest.raises(ValueError, match=r"step 1004 in .*: non-finite loss"):
        loop(again, poisoned(shared_step(run), bad), make_batches())


class StoppedEvaluator(NoEvaluator):
    """SIGINT within the evaluation after a step, the first time."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def evaluate(self, params, step):
        super().evaluate(params, step)
        if step == self.at and self.steps.count(step) == 1:
            control_c()
        return {"task": {"accuracy": float(step)}}


def test_an_interrupted_evaluation_is_repeated(make_run, make_batches, shared_step):
    """The state is saved at once, and the resumed run evaluates first."""
    for at in (1002, 1004):
        settings = {"folder": str(at), "steps": 4, "eval_period": 2}
        run, evaluator = make_run(**settings), StoppedEvaluator(at)
        with pytest.raises(KeyboardInterrupt):
            loop(run, shared_step(run), make_batches(), evaluator)
        assert train_state.latest_step(run.model_dir) == at
        again = make_run(**settings)
        again.resume()
        assert again.needs_eval and again.best.metric == at - 2
        loop(again, shared_step(run), make_batches(), evaluator)
        assert evaluator.steps == sorted([1000, 1002, 1004, at])
        assert again.best.metric == 1004 and not again.needs_eval
        card = prompt_files.read_card(run.model_dir / f"prompts/prompt_{at}.npy")
        assert card["metrics"] == {"task": {"accuracy": float(at)}}


def test_a_signal_before_an_evaluation_does_not_wait_for_it(make_run, make_batches, shared_step):
    run, evaluator = make_run(eval_period=2), NoEvaluator()
    with pytest.raises(KeyboardInterrupt):
        loop(run, stopping(shared_step(run), 1001, control_c), make_batches(), evaluator)
    assert evaluator.steps == [1000] and train_state.latest_step(run.model_dir) == 1002


@pytest.mark.parametrize("at", [1001, 1002, 1004])
def test_log_lines_are_those_of_a_run_without_stops(make_run, make_batches, shared_step, at):
    """A window is logged once, when it is complete, wherever the run was stopped."""
    settings = {"steps": 7, "eval_period": 6, "log_period": 3}
    uninterrupted, run = make_run(folder="whole", **settings), make_run(**settings)
    loop(uninterrupted, shared_step(uninterrupted), make_batches())
    with pytest.raises(KeyboardInterrupt):
        loop(run, stopping(shared_step(run), at, control_c), make_batches())
    again = make_run(**settings)
    again.resume()
    assert len(again.unlogged) == (at + 1 - 1000) % 3
    loop(again, shared_step(run), make_batches())
    ours, theirs = (
        [{k: v for k, v in line.items() if "timing" not in k} for line in lines(r)]
        for r in (again, uninterrupted)
    )
    assert ours == theirs and [line["step"] for line in ours] == [1003, 1006, 1007]
