"""Files of safetensors: rows are read, and no file stays in memory. See also huggingface_test.py."""

import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning.checkpoints import leaves, weight_files


@pytest.fixture
def tensors(rng):
    wide = rng.normal(size=(50, 4)).astype(np.float32)
    return {
        "wide": wide,
        "half": wide.astype(ml_dtypes.bfloat16),
        "scale": wide[:, 0].copy(),
        "number": np.asarray(3, np.float32),
    }


def test_tensors_are_read_in_rows(tmp_path, tensors, monkeypatch):
    monkeypatch.setattr(weight_files, "LARGEST_CHUNK", 16 * 7)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    with weight_files.opened(tmp_path) as found:
        assert found["wide"].chunk == (7, 4)
        assert found["half"].chunk == (14, 4)
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            np.testing.assert_array_equal(leaves.read(found[name]), tensor, strict=True)
        part = found["wide"].read((slice(3, 5), slice(1, 3)))
        np.testing.assert_array_equal(part, tensors["wide"][3:5, 1:3])


def test_no_file_stays_mapped(tmp_path, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    maps = pathlib.Path("/proc/self/maps")
    with weight_files.opened(tmp_path) as found:
        array = leaves.read(found["wide"])
        assert str(tmp_path) not in (maps.read_text() if maps.exists() else "")
    np.testing.assert_array_equal(array, tensors["wide"])
