"""The training step compiled for devices that need not be there: no weight is allocated."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_tuning import params as params_lib
from prompt_tuning.data.batches import batching
from prompt_tuning.distributed import partitioning
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import state
from prompt_tuning.training import step as step_lib

Tree = Mapping[str, Any]
# What the processor's instructions look like changes neither memory nor collectives.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Arguments(NamedTuple):
    """What a step takes, as shapes with shardings."""

    state: state.TrainState
    frozen: Tree
    batch: Tree
    rng: jax.ShapeDtypeStruct


def arguments(
    model: model_lib.EncoderDecoderModel,
    trainable: Sequence[str],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    batch_size: int,
    lengths: batching.MaxLengths,
) -> Arguments:
    """The arguments of the step that a run on `mesh` would take.

    Args:
      model: network with its prompt.
      trainable: TRAINABLE.
      optimizer: of the trainable tree.
      mesh: data × model.
      batch_size: examples of a step, one a row; the data axis divides it.
      lengths: of an example; the prompt comes on top of the inputs.
    """
    boxed = model.abstract_params()
    params = _placed(nn.unbox(boxed), partitioning.shardings(boxed, mesh))
    tuned, frozen = params_lib.split(params, trainable)
    slots = jax.eval_shape(optimizer.init, tuned)
    slots = _placed(slots, partitioning.slot_shardings(slots, tuned, mesh))
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=partitioning.replicated(mesh))
    inputs = len(state.soft_tokens(model)) + lengths.inputs
    rows = NamedSharding(mesh, PartitionSpec(partitioning.DATA))
    batch = batching.pad([], batch_size, inputs, lengths.targets)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    return Arguments(
        state.TrainState(number, tuned, slots),
        frozen,
        _placed(batch, dict.fromkeys(batch, rows)),
        jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=partitioning.replicated(mesh)),
    )


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, shardings
    )


def compile_step(
    model: model_lib.EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    given: Arguments,
    num_microbatches: int = 1,
) -> jax.stages.Compiled:
    """The step of the trainer, compiled for these arguments. Tells that it will take a while."""
    where = jax.tree.map(lambda x: x.sharding, given.state)
    count = params_lib.count(given.frozen) + params_lib.count(given.state.trainable)
    logging.info(
        "Compiling the training step of %s parameters for %d simulated devices.",
        f"{count:,}",
        mesh.size,
    )
    with partitioning.use(mesh):
        lowered = step_lib.make_step(model, optimizer, where, num_microbatches).lower(*given)
        return lowered.compile(compiler_options=QUICKLY)


def device_bytes(given: Arguments, compiled: jax.stages.Compiled) -> dict[str, int]:
    """What one device holds while the step runs.

    Returns:
      {"weights": frozen, "trained": what is trained with its optimizer, "batch",
      "temporary": activations and all else that is gone after the step, "total"}.
      Only "temporary" is the compiler's to decide.
    """
    used = compiled.memory_analysis()
    parts = {
        "weights": _bytes(given.frozen),
        "trained": _bytes(given.state),
        "batch": _bytes((given.batch, given.rng)),
        # The new state takes the old one's place.
        "temporary": used.temp_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes,
    }
    return {**parts, "total": sum(parts.values())}


def _bytes(tree: Any) -> int:
    """Of the shards of one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def sharded_weights(given: Arguments) -> list[tuple[int, ...]]:
    """Whole shapes of the frozen weights that the model axis shares out."""
    return [x.shape for x in jax.tree.leaves(given.frozen) if partitioning.MODEL in x.sharding.spec]
