"""The training step on any mesh: losses, gradients, what moves and what does not."""

import dataclasses
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning import params
from prompt_tuning.distributed import partitioning
from prompt_tuning.methods import base, combination
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.training import step as step_lib

MESHES = [(1, 1), (8, 1), (2, 4), (1, 8)]
STILL = {"dropout_rate": 0.0}


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


@pytest.fixture(scope="module")
def reference():
    """The losses of the first mesh."""
    return []


@pytest.mark.parametrize("shape", MESHES)
def test_any_mesh_gives_the_same_losses(load, make_run, make_step, make_batches, reference, shape):
    run = make_run(load(shape))
    model, traces = run.loaded.model, []

    class Counting(type(model)):
        def loss(self, *arguments):
            traces.append(1)
            return super().loss(*arguments)

    counting = Counting(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})
    run.loaded = dataclasses.replace(run.loaded, model=counting)
    frozen, prompt = jax.device_get(run.frozen), run.adapter_params()[prompt_method.PATH]
    step = make_step(run)
    losses = go(run, step, make_batches())
    reference.append(losses)
    np.testing.assert_allclose(losses, reference[0], rtol=1e-5)
    assert len(traces) == step._cache_size() == 1  # neither traced nor compiled again
    after = params.flatten(jax.device_get(run.frozen))
    for path, leaf in params.flatten(frozen).items():
        np.testing.assert_array_equal(after[path], leaf, err_msg=path)
    # Each step moves the prompt by an RMS of 0.3.
    assert 0.3 < np.sqrt(np.mean((run.adapter_params()[prompt_method.PATH] - prompt) ** 2)) <= 1.5
    assert run.step == 1005


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (1, 8)])
def test_weights_are_shared_out_over_the_model_axis(load, shape):
    for path, leaf in params.flatten(load(shape).params).items():
        part, size = leaf.addressable_shards[0].data.size, leaf.size
        is_shared = path.rsplit("/")[-1] in ("kernel", "embedding", "rel_embedding")
        assert part * shape[1] == size if is_shared else part == size, path


def gradient(load, make_run, make_step, make_batches, factor, num_microbatches, method=None):
    """What a step subtracts from the prompt, and its loss."""
    loaded = load((2, 1), **STILL)
    method = combination.combine([loaded.model.method, method])
    model = dataclasses.replace(loaded.model, loss_normalizing_factor=factor, method=method)
    run = make_run(dataclasses.replace(loaded, model=model), optimizer=sgd)
    before = run.adapter_params()[prompt_method.PATH]
    losses = go(run, make_step(run, num_microbatches), make_batches(), 1)
    return before - run.adapter_params()[prompt_method.PATH], losses


def test_microbatches_give_the_gradient_of_the_whole_batch(load, make_run, make_step, make_batches):
    expected, loss = gradient(load, make_run, make_step, make_batches, None, 1)
    tokens = next(make_batches())["decoder_loss_weights"].sum()
    for factor, divisor, count in ((None, 1, 4), ("NUM_REAL_TARGET_TOKENS", tokens, 2)):
        part, part_loss = gradient(load, make_run, make_step, make_batches, factor, count)
        np.testing.assert_allclose(part, expected / divisor, rtol=0, atol=1e-6)
        np.testing.assert_allclose(part_loss, loss, rtol=1e-6)


class Square(base.Method):
    """A penalty whose gradient is the prompt."""

    def penalty(self, params):
        return jnp.sum(params["encoder"]["prompt"]["prompt"] ** 2) / 2


def test_a_penalty_is_added_once_a_step(load, make_run, make_step, make_batches):
    settings = load, make_run, make_step, make_batches, "NUM_REAL_TARGET_TOKENS", 2
    (plain, loss), (held, same) = gradient(*settings), gradient(*settings, method=Square())
    prompt = load().params["encoder"]["prompt"]["prompt"]
    np.testing.assert_allclose(held, plain + prompt, rtol=0, atol=1e-5)
    assert loss == same


@pytest.mark.parametrize("where", ["loss", "update"])
def test_a_step_without_numbers_moves_nothing(make_run, make_step, make_batches, where):
    """But counts."""
    run = make_run(
        optimizer=lambda start_step: optax.sgd(3e38 if where == "update" else 1.0, momentum=0.5)
    )
    step, batch = make_step(run), next(make_batches())
    before = jax.device_get(run.state)
    frozen = run.frozen
    if where == "loss":
        frozen = jax.tree.map(lambda x: x * np.float32("inf"), frozen)
    with partitioning.use(run.loaded.mesh):
        after, sums = step(run.state, frozen, batch, jax.random.key(0))
    assert (sums["skipped"], after.step) == (1, 1001)
    jax.tree.map(np.testing.assert_array_equal, after[1:], before[1:])


def test_each_step_has_its_own_dropout(make_run, make_step, make_batches):
    run = make_run(optimizer=lambda start_step: optax.set_to_zero())
    losses = go(run, make_step(run), itertools.repeat(next(make_batches())), 3)
    assert len(set(losses)) == 3


def test_packed_examples_give_the_loss_and_gradient_of_rows_of_their_own(
    load, make_run, make_step, make_batches
):
    results = []
    for pack in (False, True):
        run = make_run(load(**STILL), optimizer=sgd)
        batches = make_batches(pack)
        losses = go(run, make_step(run), batches, 1)
        results.append((run.adapter_params()[prompt_method.PATH], losses))
    rows = make_batches(True).__next__()["encoder_segment_ids"]
    assert rows.max() > 1 and (rows.max(axis=1) > 0).sum() < 8
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-5)
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["in one program", "on threads"])
def test_runs_that_are_taken_together_move_as_alone(load, make_run, make_step, make_batches, how):
    """With dropout; the second batch has other shapes than the first has alone."""
    starts = [make_run(), make_run()]
    starts[1].state = starts[1].state._replace(
        trainable=jax.tree.map(lambda x: x + 1, starts[1].state.trainable)
    )
    batches = [next(make_batches(pack=True)), next(make_batches(pack=True))]
    long = jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, 8))), batches)
    rngs = [jax.random.key(1), jax.random.key(2)]
    run = starts[0]
    where = [jax.tree.map(lambda x: x.sharding, each.state) for each in starts]
    with partitioning.use(run.loaded.mesh):
        alone = [
            make_step(run)(jax.tree.map(jnp.array, each.state), run.frozen, batch, rng)
            for each, batch, rng in zip(starts, batches, rngs, strict=True)
        ]
        stacked = step_lib.ThreadedStep(make_step(run), run.loaded.mesh)
        if how != "on threads":
            stacked = step_lib.make_stacked_step(run.loaded.model, run.optimizer, where)
        states, sums = stacked([each.state for each in starts], run.frozen, long, rngs)
    for state, run_sums, (other, others) in zip(states, sums, alone, strict=True):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), state, other
        )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), run_sums, others)
    assert sums[0]["loss"] != sums[1]["loss"]


def test_steps_on_threads_are_two_at_a_time_and_in_their_order():
    meeting = threading.Barrier(2, timeout=60)  # an error where a step waits for the one before
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))

    def one(state, frozen, batch, rng):
        meeting.wait()
        assert jax.sharding.get_abstract_mesh().axis_names == mesh.axis_names
        return state + batch, {"loss": frozen * rng}

    step = step_lib.ThreadedStep(one, mesh)
    states, sums = step([10, 20, 30, 40], 2, [1, 2, 3, 4], [5, 6, 7, 8])
    assert states == [11, 22, 33, 44]
    assert sums == [{"loss": x} for x in (10, 12, 14, 16)]
