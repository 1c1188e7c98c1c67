"""The step compiled from shapes is the step of a run; it leaves the frozen weights where they are."""

import dataclasses
import functools

import jax
import pytest

from prompt_tuning import params
from prompt_tuning.data.batches import batching
from prompt_tuning.distributed import collectives, compiled_step, partitioning
from prompt_tuning.models import model
from prompt_tuning.training import optimizers

PROMPT_ONLY = (".*/prompt/.*",)
LENGTHS = batching.MaxLengths(6, 3)  # Those of make_batches; the prompt makes it 10 and 3.


class Gathering(model.EncoderDecoderModel):
    """Has every weight whole on every device."""

    def loss(self, params, batch, dropout_rng=None):
        gathered = jax.lax.with_sharding_constraint(params, jax.sharding.PartitionSpec())
        return super().loss(gathered, batch, dropout_rng)


@pytest.fixture(scope="module")
def compiled(load):
    """(mesh shape, TRAINABLE, class of the model) -> arguments, compiled step, mesh."""

    @functools.cache
    def make(shape, trainable=PROMPT_ONLY, kind=model.EncoderDecoderModel):
        loaded = load(shape)
        settings = {f.name: getattr(loaded.model, f.name) for f in dataclasses.fields(loaded.model)}
        tuner = optimizers.for_trainable(optimizers.adafactor(0.3), trainable)
        arguments = compiled_step.abstract_arguments(
            kind(**settings), trainable, tuner, loaded.mesh, batch_size=8, lengths=LENGTHS
        )
        step = compiled_step.compile_step(kind(**settings), tuner, loaded.mesh, arguments)
        return arguments, step, loaded.mesh

    return make


def facts(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (x.shape, x.dtype, x.sharding) for path, x in leaves}


def on_first_device(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("trainable", [PROMPT_ONLY, (".*",)])
def test_arguments_and_bytes_are_those_of_a_run(load, make_run, make_batches, compiled, trainable):
    arguments, step, mesh = compiled((2, 4), trainable)
    run = make_run(load((2, 4)), trainable=trainable)
    batch = partitioning.place_batch(next(make_batches()), mesh)
    assert facts(arguments.state) == facts(run.state)
    assert facts(arguments.frozen) == facts(run.frozen)
    assert facts(arguments.batch) == facts(batch)
    assert arguments.rng.dtype == jax.random.key(3).dtype
    sizes, used = compiled_step.device_bytes(arguments, step), step.memory_analysis()
    assert sizes["weights"] == on_first_device(run.frozen)
    assert sizes["trained"] == on_first_device(run.state)
    arguments = sizes["weights"] + sizes["trained"] + sizes["batch"]
    assert arguments == used.argument_size_in_bytes
    # The state is reused; beside it come out six sums, and where each array lies.
    pointers = 8 * (6 + len(jax.tree.leaves(run.state)))
    assert sizes["temporary"] == used.temp_size_in_bytes + 6 * 4 + pointers
    assert sizes["total"] == arguments + sizes["temporary"]


class CompilingError(Exception):
    """A step is about to be made."""


def test_says_that_it_compiles(load, compiled, caplog, monkeypatch):
    def compiling(*_):
        raise CompilingError

    arguments, _, mesh = compiled((2, 4))
    monkeypatch.setattr(compiled_step.step_lib, "make_step", compiling)
    caplog.set_level("INFO")
    with pytest.raises(CompilingError):
        compiled_step.compile_step(load().model, None, mesh, arguments)
    count = params.count(load().params)
    assert (
        f"Compiling the training step of {count:,} parameters for 8 simulated devices"
        in caplog.text
    )


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (1, 8)])
def test_no_frozen_weight_is_gathered(compiled, shape):
    arguments, step, mesh = compiled(shape)
    weights = compiled_step.sharded_weights(arguments)
    assert len(weights) == 22 and (256, 16) in weights
    exchanges = collectives.read(step, mesh)
    assert {each.kind for each in exchanges if each.axis == "model"} >= {"all-reduce"}
    assert collectives.weight_exchanges(exchanges, weights) == []


def test_frozen_weights_that_are_gathered_are_noticed(compiled):
    arguments, step, mesh = compiled((2, 4), kind=Gathering)
    weights = compiled_step.sharded_weights(arguments)
    gathers = collectives.weight_exchanges(collectives.read(step, mesh), weights)
    assert {each.kind for each in gathers} == {"all-gather"}
    assert sum(len(each.arrays) for each in gathers) == len(weights)
