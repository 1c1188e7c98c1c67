"""The training step on any mesh, and the loop around it."""

import dataclasses
import itertools
import json
import os
import pathlib
import signal

import jax
import numpy as np
import optax
import pytest

from prompt_tuning import params, partitioning
from prompt_tuning.checkpoints import train_state
from prompt_tuning.runtime import trainer

MESHES = [(1, 1), (8, 1), (4, 2), (2, 4), (1, 8)]
STILL = {"dropout_rate": 0.0}


class NoValidation:
    """Nothing to evaluate; notes when it is asked."""

    def __init__(self):
        self.steps = []

    def evaluate(self, params, step):
        self.steps.append(step)
        return {}


def sgd(start_step):
    """Moves by the gradient."""
    return optax.sgd(1.0)


def go(run, step, batches, count=5):
    """Steps without the loop: the losses."""
    losses = []
    with partitioning.use(run.loaded.mesh):
        for _ in range(count):
            batch = partitioning.place_batch(next(batches), run.loaded.mesh)
            run.state, sums = step(run.state, run.frozen, batch, jax.random.key(3))
            losses.append(float(sums["loss"]))
    return losses


def loop(run, step, batches, validation=None):
    with partitioning.use(run.loaded.mesh):
        trainer.loop(run, step, batches, validation or NoValidation(), seed=3)


@pytest.fixture(scope="module")
def reference():
    """The losses of the first mesh."""
    return []


@pytest.mark.parametrize("shape", MESHES)
def test_any_mesh_gives_the_same_losses(load, make_run, make_batches, reference, shape):
    run = make_run(load(shape))
    model, traces = run.loaded.model, []

    class Counting(type(model)):
        def loss(self, *arguments):
            traces.append(1)
            return super().loss(*arguments)

    counting = Counting(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})
    run.loaded = dataclasses.replace(run.loaded, model=counting)
    frozen, prompt = jax.device_get(run.frozen), run.prompt()
    step = trainer.make_step(run)
    losses = go(run, step, make_batches())
    reference.append(losses)
    np.testing.assert_allclose(losses, reference[0], rtol=1e-5)
    assert len(traces) == step._cache_size() == 1  # neither traced nor compiled again
    after = params.flatten(jax.device_get(run.frozen))
    for path, leaf in params.flatten(frozen).items():
        np.testing.assert_array_equal(after[path], leaf, err_msg=path)
    # Each step moves the prompt by an RMS of 0.3.
    assert 0.3 < np.sqrt(np.mean((run.prompt() - prompt) ** 2)) <= 1.5
    assert run.step == 1005


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (1, 8)])
def test_weights_are_shared_out_over_the_model_axis(load, shape):
    for path, leaf in params.flatten(load(shape).params).items():
        part, whole = leaf.addressable_shards[0].data.size, leaf.size
        is_shared = path.rsplit("/")[-1] in ("kernel", "embedding", "rel_embedding")
        assert part * shape[1] == whole if is_shared else part == whole, path


def gradient(load, make_run, make_batches, factor, num_microbatches):
    """What a step subtracts from the prompt, and its loss."""
    loaded = load((2, 1), **STILL)
    model = dataclasses.replace(loaded.model, loss_normalizing_factor=factor)
    run = make_run(dataclasses.replace(loaded, model=model), optimizer=sgd)
    before = run.prompt()
    losses = go(run, trainer.make_step(run, num_microbatches), make_batches(), 1)
    return before - run.prompt(), losses


def test_microbatches_give_the_gradient_of_the_whole_batch(load, make_run, make_batches):
    whole, loss = gradient(load, make_run, make_batches, None, 1)
    tokens = next(make_batches())["decoder_loss_weights"].sum()
    for factor, divisor, counts in ((None, 1, (2, 4)), ("NUM_REAL_TARGET_TOKENS", tokens, (1, 2))):
        for count in counts:
            part, part_loss = gradient(load, make_run, make_batches, factor, count)
            np.testing.assert_allclose(part, whole / divisor, rtol=0, atol=1e-6)
            np.testing.assert_allclose(part_loss, loss, rtol=1e-6)


def test_each_step_has_its_own_dropout(make_run, make_batches):
    run = make_run(optimizer=lambda start_step: optax.set_to_zero())
    losses = go(run, trainer.make_step(run), itertools.repeat(next(make_batches())), 3)
    assert len(set(losses)) == 3


def test_packed_examples_give_the_loss_and_gradient_of_rows_of_their_own(
    load, make_run, make_batches
):
    found = []
    for pack in (False, True):
        run = make_run(load(**STILL), optimizer=sgd)
        batches = make_batches(pack)
        losses = go(run, trainer.make_step(run), batches, 1)
        found.append((run.prompt(), losses))
    rows = make_batches(True).__next__()["encoder_segment_ids"]
    assert rows.max() > 1 and (rows.max(axis=1) > 0).sum() < 8
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-5)
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def shared_step():
    """One compiled step for the runs of this file that only differ in what is around it."""
    cache = []

    def of(run):
        if not cache:
            cache.append(trainer.make_step(run))
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

    return stopped


def crash():
    raise RuntimeError("power cut")


def control_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("pack", [False, True])
def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(
    make_run, make_batches, shared_step, pack, caplog
):
    settings = {"steps": 7, "eval_period": 2, "log_period": 1}
    whole = make_run(folder="whole", **settings)
    loop(whole, shared_step(whole), make_batches(pack))

    # Saved at 1,002, dead in 1,003.
    first = make_run(**settings)
    with pytest.raises(RuntimeError):
        loop(first, stopping(shared_step(None), 1003, crash), make_batches(pack))
    assert [line["step"] for line in lines(first)] == [1001, 1002, 1003]
    # Goes on; Ctrl-C within step 1,004 -> 1,005, which is no stop of the schedule.
    second = make_run(**settings)
    second.resume()
    assert (second.step, second.first_step) == (1002, 1000)
    with pytest.raises(KeyboardInterrupt):
        loop(second, stopping(shared_step(None), 1004, control_c), make_batches(pack))
    assert "step 1005 is saved" in caplog.text
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    third = make_run(**settings)
    third.resume()
    assert third.step == 1005
    loop(third, shared_step(None), make_batches(pack))
    assert third.position == whole.position == {"epoch": 5, "examples": 6}
    np.testing.assert_array_equal(third.prompt(), whole.prompt())
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
    shared_step(run)
    with pytest.raises(ValueError, match="not a finite number; lower LEARNING_RATE"):
        loop(run, step, make_batches())
    assert run.step == 1002
    assert train_state.latest_step(run.model_dir) == 1000
    assert not (run.model_dir / "prompts" / "prompt_1002.npy").exists()
