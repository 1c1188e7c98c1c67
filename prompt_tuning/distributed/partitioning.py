"""The device mesh, data × model, and the sharding of parameters and batches.

Parameters and activations have logical axis names, which T5X's rules map to mesh axes.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from prompt_tuning import annotations
from prompt_tuning import params as params_lib

DATA, MODEL = "data", "model"
RULES: tuple[tuple[str, str | None], ...] = (
    ("batch", DATA),
    ("vocab", MODEL),
    ("mlp", MODEL),
    ("heads", MODEL),
    ("joined_kv", MODEL),
    ("embed", None),
    ("kv", None),
    ("relpos_buckets", None),
    ("length", None),
    ("embed_activations", None),
    # Replicated, so that a prompt is always one small file.
    ("prompt", None),
    ("prompt_embed", None),
    ("tasks", None),
)


def make_mesh(num_partitions: int | None = 1) -> Mesh:
    """Returns a mesh of all devices, (devices / num_partitions) × num_partitions; None for 1.

    Raises:
      ValueError: `num_partitions` (NUM_PARTITIONS) does not divide the devices.
    """
    devices, num_partitions = jax.device_count(), 1 if num_partitions is None else num_partitions
    is_valid = isinstance(num_partitions, int) and num_partitions > 0
    if not is_valid or devices % num_partitions:
        raise ValueError(
            f"NUM_PARTITIONS is {num_partitions!r}; expected a divisor of the {devices} devices. "
            "Set NUM_PARTITIONS=1 where the weights fit on one device."
        )
    shape = (devices // num_partitions, num_partitions)
    # Linen's logical constraints need axes that the compiler may shard by itself.
    return jax.make_mesh(shape, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def activation_dtype() -> annotations.Dtype:
    """Returns the fastest dtype of the devices: float32 on a CPU, else bfloat16."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


@contextlib.contextmanager
def use(mesh: Mesh) -> Iterator[None]:
    """Maps the logical axis names of activations to axes of this mesh."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        yield


def shardings(boxed: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Returns the shardings of parameters.

    Args:
      boxed: abstract parameters with their logical axes (model.abstract_params()).
      mesh: the devices.

    Returns:
      The tree of NamedSharding. A dimension that the mesh does not divide is replicated.
    """
    specs = nn.logical_to_mesh(nn.get_partition_spec(boxed), RULES)

    def sharding(leaf, spec: PartitionSpec) -> NamedSharding:
        axes = [
            axis if axis is not None and leaf.shape[i] % mesh.shape[axis] == 0 else None
            for i, axis in enumerate(spec)
        ]
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(sharding, nn.unbox(boxed), specs)


def slot_shardings(slots: Any, params: Mapping[str, Any], mesh: Mesh) -> Any:
    """Returns the shardings of optimizer slots: those of parameters with the same path and shape.

    Args:
      slots: abstract optimizer state, whose paths end with those of parameters.
      params: parameters on the mesh.
      mesh: the devices; other slots are replicated.
    """
    placed = params_lib.flatten(params)

    def sharding(path, leaf) -> NamedSharding:
        keys = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
        for start in range(len(keys)):
            param = placed.get("/".join(keys[start:]))
            if param is not None and param.shape == leaf.shape:
                return param.sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, slots)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that is replicated on all devices."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(rows: int, mesh: Mesh, setting: str = "BATCH_SIZE") -> None:
    """Raises ValueError unless the data axis of the mesh divides a batch."""
    shards = mesh.shape[DATA]
    if rows % shards:
        raise ValueError(
            f"{setting} is {rows}; expected a multiple of the {shards} data-parallel shards of the "
            f"mesh {dict(mesh.shape)}. Set {setting} to a multiple, or change NUM_PARTITIONS."
        )


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Shards a batch over the data axis of the mesh. All processes have the complete batch."""
    where = NamedSharding(mesh, PartitionSpec(DATA))
    return {name: device_put(array, where) for name, array in batch.items()}


def to_host(tree: Any) -> Any:
    """Returns the tree with complete numpy arrays. All processes call it, with arrays that they share."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)


def device_put(array: Any, where: NamedSharding) -> jax.Array:
    """Shards an array over devices of all processes. All processes have the complete array."""
    if where.is_fully_addressable:
        return jax.device_put(array, where)
    # jax.device_put would compare the arrays of the processes, one exchange per array.
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, where, lambda box: array[box])
