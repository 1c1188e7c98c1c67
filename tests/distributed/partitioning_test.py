"""The mesh, and where parameters, slots and batches lie on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from prompt_tuning.distributed import partitioning


@pytest.mark.parametrize(("partitions", "shape"), [(1, (8, 1)), (2, (4, 2)), (8, (1, 8))])
def test_mesh_is_data_times_model(partitions, shape):
    mesh = partitioning.make_mesh(partitions)
    assert dict(mesh.shape) == {"data": shape[0], "model": shape[1]}


@pytest.mark.parametrize("partitions", [0, 3, 16, -2])
def test_partitions_divide_the_devices(partitions):
    with pytest.raises(ValueError, match=f"NUM_PARTITIONS is {partitions}; .* the 8 devices"):
        partitioning.make_mesh(partitions)


def boxed(shape, names):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)


@pytest.mark.parametrize(
    ("shape", "names", "spec"),
    [
        ((64, 16), ("vocab", "embed"), P("model", None)),
        ((16, 32), ("embed", "mlp"), P(None, "model")),
        ((16, 32), ("embed", "joined_kv"), P(None, "model")),
        ((8, 32), ("heads", "relpos_buckets"), P("model", None)),
        ((16,), ("embed",), P(None)),
        ((100, 16), ("prompt", "prompt_embed"), P(None, None)),
        # 6 rows cannot be shared by 4 devices.
        ((6, 16), ("vocab", "embed"), P(None, None)),
    ],
)
def test_rules(shape, names, spec):
    mesh = partitioning.make_mesh(4)
    found = partitioning.shardings({"layer": {"kernel": boxed(shape, names)}}, mesh)
    assert found["layer"]["kernel"].spec == spec
    assert found["layer"]["kernel"].mesh == mesh


def test_activations_are_sharded_by_name_within_use():
    mesh = partitioning.make_mesh(2)

    def double(x):
        return nn.with_logical_constraint(2 * x, ("batch", "length", "mlp"))

    with partitioning.use(mesh):
        y = jax.jit(double)(np.ones((8, 3, 4), np.float32))
    assert y.sharding.spec == P("data", None, "model")
    assert y.addressable_shards[0].data.shape == (2, 3, 2)
    assert isinstance(
        jax.jit(double)(np.ones((8, 3, 4))).sharding, jax.sharding.SingleDeviceSharding
    )


def test_slots_lie_where_their_parameter_lies():
    mesh = partitioning.make_mesh(2)
    kernel = boxed((4, 8), ("embed", "mlp"))
    where = partitioning.shardings({"a": {"kernel": kernel}, "b": {"kernel": kernel}}, mesh)
    weights = jax.device_put(jax.tree.map(lambda _: np.zeros((4, 8)), where), where)
    same, row = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
    slots = (
        row,
        {"outer": {"a": {"kernel": same}, "b": {"kernel": {"row": row}}}},
        {"kernel": same},
    )
    found = partitioning.slot_shardings(slots, weights, mesh)
    assert found[1]["outer"]["a"]["kernel"] == where["a"]["kernel"]
    others = (found[0], found[1]["outer"]["b"]["kernel"]["row"], found[2]["kernel"])
    assert others == (partitioning.replicated(mesh),) * 3


def test_rows_of_a_batch_lie_along_the_data_axis():
    mesh = partitioning.make_mesh(2)
    batch = {"ids": np.arange(16).reshape(8, 2)}
    placed = partitioning.place_batch(batch, mesh)["ids"]
    assert placed.addressable_shards[0].data.shape == (2, 2)
    np.testing.assert_array_equal(placed, batch["ids"])


def test_batches_divide_over_the_data_axis():
    mesh = partitioning.make_mesh(2)
    partitioning.check_batch_size(12, mesh)
    with pytest.raises(ValueError, match="ROWS is 10; expected a multiple of the 4 data-parallel"):
        partitioning.check_batch_size(10, mesh, "ROWS")


def test_devices_without_bfloat16_compute_in_float32(monkeypatch):
    assert partitioning.activation_dtype() == "float32"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert partitioning.activation_dtype() == "bfloat16"


def test_no_number_of_partitions_is_one():
    assert dict(partitioning.make_mesh(None).shape) == {"data": 8, "model": 1}
