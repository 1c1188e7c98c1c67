"""The loop around the training step: what it saves, and where it goes on from."""

import json
import os
import pathlib
import signal

import jax
import numpy as np
import pytest

from prompt_tuning import optimizers, partitioning
from prompt_tuning.checkpoints import train_state
from prompt_tuning.data import pipeline, sources
from prompt_tuning.prompts import module
from prompt_tuning.runtime import run as run_lib
from prompt_tuning.runtime import trainer


class NoValidation:
    """Nothing to evaluate; notes when it is asked."""

    def __init__(self):
        self.steps = []

    def evaluate(self, params, step):
        self.steps.append(step)
        return {}


def loop(run, step, batches, validation=None):
    with partitioning.use(run.loaded.mesh):
        trainer.loop(run, batches, validation or NoValidation(), 3, step)


@pytest.fixture(scope="module")
def shared_step(make_step):
    """One compiled step for the runs of this file that only differ in what is around it."""
    cache = []

    def of(run):
        if not cache:
            cache.append(make_step(run))
        return cache[0]

    return of


@pytest.mark.parametrize(("split", "count"), [("validation", 0), ("train", 1)])
def test_a_task_without_validation_is_trained_on(vocabulary, tmp_path, caplog, split, count):
    target = {"span1_text": "the cat", "span1_index": 0, "span2_text": "it", "span2_index": 3}
    row = {"text": "the cat saw it", "target": target, "idx": 0, "label": True}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    source = sources.TaskSource("super_glue_wsc_v102_simple_train", data_dir=str(tmp_path))
    config = pipeline.DatasetConfig(source, {"inputs": 40, "targets": 10}, split, 1)
    assert len(trainer.evaluated(config, vocabulary)) == count
    told = "nothing is evaluated while training: super_glue_wsc_v102_simple_train has no split"
    assert (told in caplog.text) == (count == 0)


def test_nothing_is_evaluated_where_nothing_is_asked_for(vocabulary):
    assert trainer.evaluated(None, vocabulary) == []


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
    whole = make_run(folder="whole", **settings)
    loop(whole, shared_step(whole), make_batches(pack=True))

    # Saved at 1,002, dead in 1,003.
    first = make_run(**settings)
    with pytest.raises(RuntimeError):
        loop(first, stopping(shared_step(None), 1003, crash), make_batches(pack=True))
    assert [line["step"] for line in lines(first)] == [1001, 1002, 1003]
    # Goes on; Ctrl-C within step 1,004 -> 1,005, which is no stop of the schedule.
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
    assert third.position == whole.position == {"epoch": 5, "examples": 6}
    np.testing.assert_array_equal(third.added()[module.PATH], whole.added()[module.PATH])
    jax.tree.map(np.testing.assert_array_equal, third.state, whole.state)
    same = ("step", "loss", "accuracy", "prompt_distance")
    ours, theirs = ([[line[k] for k in same] for line in lines(r)] for r in (third, whole))
    assert ours == theirs and [row[0] for row in ours] == list(range(1001, 1008))


def test_a_run_that_died_in_its_first_step_goes_on(make_run, make_batches, shared_step):
    run, validation = make_run(steps=2), NoValidation()
    with pytest.raises(RuntimeError):
        loop(run, stopping(shared_step(run), 1000, crash), make_batches(), validation)
    again = make_run(steps=2)
    again.resume()
    loop(again, shared_step(None), make_batches(), validation)
    assert validation.steps == [1000, 1002]


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


def test_a_loss_that_is_no_number_is_not_saved(make_run, make_batches, shared_step):
    def step(*arguments):
        new, sums = shared_step(None)(*arguments)
        return new, sums | {"loss": sums["loss"] * np.float32(np.nan)}

    run = make_run(eval_period=2, log_period=100)
    step.lower = shared_step(run).lower
    with pytest.raises(ValueError, match="not a finite number; lower LEARNING_RATE"):
        loop(run, step, make_batches())
    assert run.step == 1002
    assert train_state.latest_step(run.model_dir) == 1000
    assert not (run.model_dir / "prompts" / "prompt_1002.npy").exists()


@pytest.mark.parametrize(
    ("factors", "offset", "told"),
    [
        ("linear_decay", 0, True),
        # At its least at the start and from the 60th step on, but not in the middle.
        ("linear_decay", 1_100_000, False),
        ("constant", 0, False),
    ],
)
def test_a_schedule_that_is_over_before_the_run_is_told(factors, offset, told, caplog):
    schedule = run_lib.Schedule(1_100_100, 1_100_000)
    settings = {"warmup_steps": 10, "decay_factor": 0.02, "step_offset": offset}
    rate = optimizers.learning_rate_schedule(factors, **settings)
    trainer._tell_rate(rate, schedule)
    assert ("STEP_OFFSET: set it to 1100000" in caplog.text) == told
