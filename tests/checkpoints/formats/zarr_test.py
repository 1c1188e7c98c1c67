"""Arrays in zarr: names of folders, what is written is read, damage."""

import ml_dtypes
import numpy as np
import pytest

from prompt_tuning.checkpoints import lazy_arrays
from prompt_tuning.checkpoints.formats import zarr


def test_folders_on_disk_and_on_gs():
    assert zarr.kvstore("/a/b") == {"driver": "file", "path": "/a/b/"}
    expected = {"driver": "gcs", "bucket": "t5-data", "path": "pretrained/checkpoint_3/target.a/"}
    assert zarr.kvstore("gs://t5-data/pretrained/checkpoint_3/target.a") == expected
    assert zarr.kvstore("gs://t5-data/pretrained/checkpoint_3/target.a/") == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(40, 3), (5,), ()])
def test_what_is_written_is_read(tmp_path, rng, monkeypatch, shape, dtype):
    monkeypatch.setattr(zarr, "LARGEST_CHUNK", 100)
    array = np.asarray(rng.normal(size=shape), np.float32)
    metadata = zarr.write(
        zarr.kvstore(tmp_path / "a"), lazy_arrays.from_numpy(array), np.dtype(dtype)
    )
    leaf = zarr.open_leaves({"a": zarr.kvstore(tmp_path / "a")}, tmp_path)["a"]
    assert leaf.shape == shape and leaf.dtype == np.dtype(dtype)
    assert list(leaf.chunk) == metadata["chunks"]
    assert np.prod(leaf.chunk, initial=1) * leaf.dtype.itemsize <= 100
    np.testing.assert_array_equal(lazy_arrays.read(leaf), array.astype(dtype), strict=True)


def test_damage_is_told_with_the_checkpoint(tmp_path):
    zarr.write(
        zarr.kvstore(tmp_path / "a"), lazy_arrays.from_numpy(np.ones((4, 4))), ml_dtypes.bfloat16
    )
    store = {"a": zarr.kvstore(tmp_path / "a")}
    leaf = zarr.open_leaves(store, "checkpoint_3")["a"]
    (tmp_path / "a" / "0.0").unlink()
    with pytest.raises(ValueError, match="checkpoint_3 is damaged or incomplete"):
        lazy_arrays.read(leaf)
    (tmp_path / "a" / ".zarray").write_text("{")
    with pytest.raises(ValueError, match="checkpoint_3 is damaged or incomplete"):
        zarr.open_leaves(store, "checkpoint_3")
