"""Lazy arrays: which chunks are read, in which order, and how much memory it takes."""

import collections
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prompt_tuning import params
from prompt_tuning.checkpoints import lazy_arrays


def chunked(array, chunk, log=None):
    """Returns a LazyArray with these chunks, which appends its reads to `log`."""

    def read(box):
        if log is not None:
            log.append((array.shape, box))
        return array[box].copy()

    return lazy_arrays.LazyArray(array.shape, array.dtype, chunk, read)


def random_array(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "chunk", "region"),
    [
        ((7, 5), (3, 2), None),
        ((7, 5), (7, 5), None),
        ((7, 5), (3, 2), (slice(2, 6), slice(1, 5))),
        ((4,), (9,), None),
        ((), (), None),
    ],
)
def test_chunk_indices_cover_each_value_once_within_one_chunk(rng, shape, chunk, region):
    stored = chunked(random_array(rng, *shape), chunk)
    seen = np.zeros(shape, int)
    for index in lazy_arrays.chunk_indices(stored, region):
        seen[index] += 1
        for side, step in zip(index, chunk, strict=True):
            assert side.start // step == (side.stop - 1) // step
    expected = np.zeros(shape, int)
    expected[() if region is None else region] = 1
    np.testing.assert_array_equal(seen, expected)


def test_reads_all_values_in_the_requested_dtype(rng):
    array = random_array(rng, 7, 5)
    stored = chunked(array, (3, 2))
    np.testing.assert_array_equal(lazy_arrays.read(stored), array)
    halved = lazy_arrays.read(stored, jnp.bfloat16)
    np.testing.assert_array_equal(halved, array.astype(jnp.bfloat16), strict=True)


def test_loads_shards_to_their_devices_in_the_requested_dtype(rng):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    tree = {"a": {"kernel": random_array(rng, 8, 6)}, "scale": random_array(rng, 6)}
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), tree)
    where = {
        "a": {"kernel": NamedSharding(mesh, PartitionSpec("model", "data"))},
        "scale": NamedSharding(mesh, PartitionSpec()),
        "encoder": {"prompt": {"prompt": NamedSharding(mesh, PartitionSpec())}},
    }
    stored = {path: chunked(x, (3, 4)[: x.ndim]) for path, x in params.flatten(tree).items()}
    loaded = params.flatten(lazy_arrays.load(stored, abstract, "here", where))
    assert list(loaded) == ["a/kernel", "scale"]
    for path, array in loaded.items():
        assert array.sharding == params.flatten(where)[path]
        expected = params.flatten(tree)[path].astype(jnp.bfloat16)
        np.testing.assert_array_equal(np.asarray(array), expected, strict=True)
    assert loaded["a/kernel"].addressable_shards[0].data.shape == (2, 3)


def test_a_process_reads_only_the_shards_of_its_devices(rng, monkeypatch):
    class Second:
        """The right half of the lower half, as two devices of one of four processes hold it."""

        def addressable_devices_indices_map(self, shape):
            return {
                device: (slice(4, None), slice(start, start + 2))
                for device, start in (("a", 4), ("b", 6))
            }

    def make(shape, sharding, callback):
        assert shape == (8, 8)
        return [callback(x) for x in sharding.addressable_devices_indices_map(shape).values()]

    monkeypatch.setattr(jax, "make_array_from_callback", make)
    monkeypatch.setattr(jax, "block_until_ready", lambda x: x)
    array, log = random_array(rng, 8, 8), []
    abstract = {"a": jax.ShapeDtypeStruct((8, 8), np.float32)}
    loaded = lazy_arrays.load({"a": chunked(array, (3, 3), log)}, abstract, "here", {"a": Second()})
    np.testing.assert_array_equal(loaded["a"][0], array[4:, 4:6])
    np.testing.assert_array_equal(loaded["a"][1], array[4:, 6:])
    assert all(rows.start >= 4 and columns.start >= 4 for _, (rows, columns) in log)
    assert len(log) == 4


@pytest.mark.parametrize("chunk", [(4, 3, 5), (2, 2, 5), (3, 1, 2)])
def test_scanned_layers_are_split_and_each_chunk_is_read_once(rng, chunk):
    kernel, bias, norm = (
        random_array(rng, 4, 3, 5),
        random_array(rng, 2, 3, 6),
        random_array(rng, 4),
    )
    log = []
    stored = {
        "encoder/encoder/mlp/wo/kernel": chunked(kernel, chunk, log),
        "encoder/encoder/relpos_bias/rel_embedding": chunked(bias, (2, 3, 6)),
        "encoder/encoder_norm/scale": chunked(norm, (4,)),
    }
    expected = {"encoder/encoder_norm/scale": norm}
    for i in range(3):
        expected[f"encoder/layers_{i}/mlp/wo/kernel"] = kernel[:, i]
        expected[f"encoder/layers_{i}/relpos_bias/rel_embedding"] = bias[:, i]
    abstract = params.shapes(params.unflatten(expected))
    loaded = params.flatten(lazy_arrays.load(stored, abstract, "here"))
    assert loaded.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(loaded[path], array, strict=True)
    assert max(collections.Counter(map(str, log)).values()) == 1


def test_reports_a_missing_layer_of_scanned_layers(rng):
    stored = {"decoder/decoder/mlp/wo/kernel": chunked(random_array(rng, 4, 2, 5), (4, 2, 5))}
    shape = jax.ShapeDtypeStruct((4, 5), np.float32)
    abstract = {"decoder": {f"layers_{i}": {"mlp": {"wo": {"kernel": shape}}} for i in range(3)}}
    with pytest.raises(ValueError, match=r"missing: decoder/layers_2/mlp/wo/kernel \(4, 5\)"):
        lazy_arrays.load(stored, abstract, "here")


def test_ignores_a_prompt_in_the_checkpoint(rng):
    stored = {
        "encoder/prompt/prompt/prompt": chunked(random_array(rng, 2, 4), (2, 4)),
        "encoder/encoder_norm/scale": chunked(random_array(rng, 4), (4,)),
    }
    abstract = {"encoder": {"encoder_norm": {"scale": jax.ShapeDtypeStruct((4,), np.float32)}}}
    assert list(params.flatten(lazy_arrays.load(stored, abstract, "x"))) == [
        "encoder/encoder_norm/scale"
    ]


def test_rejects_integer_weights():
    stored = {"a": chunked(np.ones((2, 2), np.uint16), (2, 2))}
    with pytest.raises(ValueError, match=r"a is uint16 \(2, 2\); expected floats"):
        lazy_arrays.load(stored, {"a": jax.ShapeDtypeStruct((2, 2), np.float32)}, "here")


def test_reads_the_largest_array_first(rng, monkeypatch):
    monkeypatch.setattr(lazy_arrays, "READERS", 1)
    log = []
    stored = {
        name: chunked(random_array(rng, size), (9,), log)
        for name, size in zip("abc", (2, 9, 4), strict=True)
    }
    abstract = {
        name: jax.ShapeDtypeStruct(array.shape, np.float32) for name, array in stored.items()
    }
    lazy_arrays.load(stored, abstract, "here")
    assert [shape for shape, _ in log] == [(9,), (4,), (2,)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_is_close_to_the_size_of_the_result(dtype):
    def read(box):
        return np.ones([side.stop - side.start for side in box], np.float32)

    shapes = {"embedding": (4000, 100)} | {f"layer_{i}": (200, 100) for i in range(60)}
    shapes["encoder/encoder/kernel"] = (100, 20, 200)
    stored = {
        name: lazy_arrays.LazyArray(shape, np.dtype("float32"), (100, *shape[1:-1], 50), read)
        for name, shape in shapes.items()
    }
    flat = {name: jax.ShapeDtypeStruct(s, dtype) for name, s in shapes.items() if len(s) == 2}
    layer = jax.ShapeDtypeStruct((100, 200), dtype)
    flat |= {f"encoder/layers_{i}/kernel": layer for i in range(20)}
    abstract = params.unflatten(flat)
    tracemalloc.start()
    loaded = lazy_arrays.load(stored, abstract, "here")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 1.3 * params.size_in_bytes(loaded)
