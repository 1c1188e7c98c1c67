"""The memory and disk space that a run needs, computed without allocating weights."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from flax import linen as nn

from prompt_tuning import params as params_lib
from prompt_tuning.data.batches import batching
from prompt_tuning.distributed import collectives, compiled_step, partitioning
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import optimizers, reporting
from prompt_tuning.training import step as step_lib

ESTIMATE = """\
Compiled by XLA for simulated CPU devices: an estimate for a TPU or GPU, whose compilers fuse and
schedule operations and collectives differently. XLA for CPUs widens bfloat16 to float32, so activations
and their collectives are shown in float32; bfloat16 on a TPU or GPU needs down to half of that. It also
reduces the terms of a sum separately, where another compiler may add them before the reduction."""


def describe(
    *,
    model: model_lib.EncoderDecoderModel,
    trainable: Sequence[str],
    optimizer: Callable[..., optax.GradientTransformation],
    batch_size: int = 32,
    num_microbatches: int | None = 1,
    task_feature_lengths: Mapping[str, int] | None = None,
    mesh: tuple[int, int] | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """`prompt-tuning describe`: prints counts and bytes of a model and of training it.

    Args:
      model: network with its prompt.
      trainable: TRAINABLE.
      optimizer: called with start_step=.
      batch_size: BATCH_SIZE of the step that is compiled for `mesh`.
      num_microbatches: NUM_MICROBATCHES of that step; None for 1.
      task_feature_lengths: TASK_FEATURE_LENGTHS of that step.
      mesh: data × model, for as many devices as the process has; None compiles no step.
      as_json: prints a JSON object instead of a table.

    Returns:
      {"total_params", "trainable_params", "percent_trainable", "weights_bytes",
      "optimizer_bytes", "checkpoint_bytes"}; bytes in the dtypes held while training.
      With a mesh also "mesh": see `_on_mesh`.
    """
    params = nn.unbox(model.abstract_params())
    tuned, _ = params_lib.split(params, trainable)
    transformation = optimizers.for_trainable(optimizer(start_step=0), tuple(trainable))
    slots = jax.tree.leaves(jax.eval_shape(transformation.init, tuned))
    optimizer_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in slots)
    facts = {
        "total_params": params_lib.count(params),
        "trainable_params": params_lib.count(tuned),
        "percent_trainable": 100 * params_lib.count(tuned) / params_lib.count(params),
        "weights_bytes": params_lib.size_in_bytes(params),
        "optimizer_bytes": optimizer_bytes,
        "checkpoint_bytes": params_lib.size_in_bytes(tuned) + optimizer_bytes,
    }
    if mesh is not None:
        lengths = batching.MaxLengths.from_features(task_feature_lengths)
        parts = 1 if num_microbatches is None else num_microbatches
        facts["mesh"] = _on_mesh(model, trainable, transformation, mesh, batch_size, parts, lengths)
    print(json.dumps(facts) if as_json else _table(facts))
    return facts


def _on_mesh(
    model: model_lib.EncoderDecoderModel,
    trainable: Sequence[str],
    optimizer: optax.GradientTransformation,
    shape: tuple[int, int],
    batch_size: int,
    num_microbatches: int,
    lengths: batching.MaxLengths,
) -> dict[str, Any]:
    """Compiles a training step for a mesh and describes it.

    Returns:
      {"data", "model": devices along each axis, "batch_size", "num_microbatches", "lengths",
      "activation_dtype", "device_bytes": see `compiled_step.device_bytes`,
      "collectives": [{"kind", "axis", "count", "bytes", "largest"}], per step and device,
      "weights_exchanged": ["kind, array, source" per collective of a complete weight]}.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f"BATCH_SIZE is {batch_size!r}; expected a positive integer. Set BATCH_SIZE to the "
            "number of examples per step."
        )
    mesh = partitioning.make_mesh(shape[1])
    if mesh.shape[partitioning.DATA] != shape[0]:
        raise ValueError(
            f"--mesh is {shape[0]}x{shape[1]}; expected a mesh of the {mesh.size} devices that JAX "
            f"has started with. Pass a --mesh whose product is {mesh.size}."
        )
    step_lib.check_batch(batch_size, num_microbatches, mesh)
    arguments = compiled_step.abstract_arguments(
        model, trainable, optimizer, mesh, batch_size=batch_size, lengths=lengths
    )
    compiled = compiled_step.compile_step(model, optimizer, mesh, arguments, num_microbatches)
    exchanges = collectives.read(compiled, mesh)
    weights = compiled_step.sharded_weights(arguments)
    return {
        **mesh.shape,
        "batch_size": batch_size,
        "num_microbatches": num_microbatches,
        "lengths": dataclasses.asdict(lengths),
        "activation_dtype": model.config.dtype,
        "device_bytes": compiled_step.device_bytes(arguments, compiled),
        "collectives": collectives.summarize(exchanges),
        "weights_exchanged": [
            f"{exchange.kind}, {exchange.largest}, {exchange.source}"
            for exchange in collectives.weight_exchanges(exchanges, weights)
        ],
    }


def _table(facts: Mapping[str, Any]) -> str:
    rows = [
        ("total parameters", f"{facts['total_params']:,}"),
        ("trainable parameters", f"{facts['trainable_params']:,}"),
        ("percent trainable", f"{facts['percent_trainable']:.4f} %"),
        ("weights in memory", _mib(facts["weights_bytes"])),
        ("optimizer in memory", _mib(facts["optimizer_bytes"], 3)),
        ("state on disk, about", _mib(facts["checkpoint_bytes"], 3)),
    ]
    text = reporting.table(rows)
    return f"{text}\n\n{_mesh_table(facts['mesh'])}" if "mesh" in facts else text


def _mib(size: int, digits: int = 1) -> str:
    return f"{size / 2**20:,.{digits}f} MiB"


def _mesh_table(facts: Mapping[str, Any]) -> str:
    held, lengths, count = facts["device_bytes"], facts["lengths"], facts["num_microbatches"]
    parts = f" in {count} microbatches" if count > 1 else ""
    memory = [
        ("frozen weights", held["weights"]),
        ("trained, with optimizer", held["trained"]),
        ("batch", held["batch"]),
        ("temporary (activations)", held["temporary"]),
        ("total", held["total"]),
    ]
    exchanged = [
        (
            f"{row['kind']} over {row['axis']}",
            f"{row['count']:>6,} × {_mib(row['bytes'], 3):>18}   largest {row['largest']}",
        )
        for row in facts["collectives"]
    ]
    return "\n".join(
        [
            f"a training step of {facts['batch_size']} examples{parts} of {lengths['inputs']} input and "
            f"{lengths['targets']} target tokens, ACTIVATION_DTYPE {facts['activation_dtype']},",
            f"on a mesh of data {facts['data']} × model {facts['model']}; memory of each device",
            reporting.table((name, f"{_mib(size, 3):>18}") for name, size in memory),
            "collectives of each device: count × total bytes",
            reporting.table(exchanged or [("none", "")]),
            "frozen weights exchanged over model: "
            + ("none" if not facts["weights_exchanged"] else ""),
            *(f"  {line}" for line in facts["weights_exchanged"]),
            ESTIMATE,
        ]
    )
