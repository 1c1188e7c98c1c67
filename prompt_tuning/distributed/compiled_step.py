"""The training step, compiled for simulated devices without allocating weights."""

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
# Code generation options, which change neither memory nor collectives.
FAST_COMPILATION = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Arguments(NamedTuple):
    """The arguments of a step, as shapes with shardings."""

    state: state.TrainState
    frozen: Tree
    batch: Tree
    rng: jax.ShapeDtypeStruct


def abstract_arguments(
    model: model_lib.EncoderDecoderModel,
    trainable: Sequence[str],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    batch_size: int,
    lengths: batching.MaxLengths,
) -> Arguments:
    """Returns the arguments of the training step of a run on `mesh`.

    Args:
      model: network with its prompt.
      trainable: TRAINABLE.
      optimizer: optimizer of the trainable tree.
      mesh: data × model.
      batch_size: examples per step; a multiple of the data axis.
      lengths: maximum lengths of an example, without the prompt.
    """
    boxed = model.abstract_params()
    params = _with_shardings(nn.unbox(boxed), partitioning.shardings(boxed, mesh))
    tuned, frozen = params_lib.split(params, trainable)
    slots = jax.eval_shape(optimizer.init, tuned)
    slots = _with_shardings(slots, partitioning.slot_shardings(slots, tuned, mesh))
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=partitioning.replicated(mesh))
    inputs = len(state.soft_tokens(model)) + lengths.inputs
    rows = NamedSharding(mesh, PartitionSpec(partitioning.DATA))
    batch = batching.pad([], batch_size, inputs, lengths.targets)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    return Arguments(
        state.TrainState(number, tuned, slots),
        frozen,
        _with_shardings(batch, dict.fromkeys(batch, rows)),
        jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=partitioning.replicated(mesh)),
    )


def _with_shardings(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, shardings
    )


def compile_step(
    model: model_lib.EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    arguments: Arguments,
    num_microbatches: int = 1,
) -> jax.stages.Compiled:
    """Compiles the training step for these arguments."""
    where = jax.tree.map(lambda x: x.sharding, arguments.state)
    count = params_lib.count(arguments.frozen) + params_lib.count(arguments.state.trainable)
    logging.info(
        "Compiling the training step of %s parameters for %d simulated devices.",
        f"{count:,}",
        mesh.size,
    )
    with partitioning.use(mesh):
        lowered = step_lib.make_step(model, optimizer, where, num_microbatches).lower(*arguments)
        return lowered.compile(compiler_options=FAST_COMPILATION)


def device_bytes(arguments: Arguments, compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the memory of one device during the step, in bytes.

    Returns:
      {"weights": frozen weights, "trained": trainable parameters and optimizer state, "batch",
      "temporary": activations and other buffers of the step, "total"}. Only "temporary" depends
      on the compiler.
    """
    used = compiled.memory_analysis()
    parts = {
        "weights": _bytes(arguments.frozen),
        "trained": _bytes(arguments.state),
        "batch": _bytes((arguments.batch, arguments.rng)),
        # The new state reuses the buffers of the old one.
        "temporary": used.temp_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes,
    }
    return {**parts, "total": sum(parts.values())}


def _bytes(tree: Any) -> int:
    """Returns the bytes of the shards of one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def sharded_weights(arguments: Arguments) -> list[tuple[int, ...]]:
    """Returns the complete shapes of the frozen weights that are sharded over the model axis."""
    return [
        x.shape for x in jax.tree.leaves(arguments.frozen) if partitioning.MODEL in x.sharding.spec
    ]
