"""Files of safetensors: rows are read, and no file stays in memory. See also huggingface_test.py."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning.checkpoints import lazy_arrays
from prompt_tuning.checkpoints.formats import weight_files


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
    with weight_files.opened(tmp_path) as arrays:
        assert arrays["wide"].chunk == (7, 4)
        assert arrays["half"].chunk == (14, 4)
        for name, tensor in tensors.items():
            assert arrays[name].dtype == tensor.dtype
            np.testing.assert_array_equal(lazy_arrays.read(arrays[name]), tensor, strict=True)
        part = arrays["wide"].read((slice(3, 5), slice(1, 3)))
        np.testing.assert_array_equal(part, tensors["wide"][3:5, 1:3])


def test_no_file_stays_mapped(tmp_path, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    maps = pathlib.Path("/proc/self/maps")
    with weight_files.opened(tmp_path) as arrays:
        array = lazy_arrays.read(arrays["wide"])
        assert str(tmp_path) not in (maps.read_text() if maps.exists() else "")
    np.testing.assert_array_equal(array, tensors["wide"])


def test_names_and_shapes_are_those_of_the_headers(tmp_path, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    expected = {name: tensor.shape for name, tensor in tensors.items()}
    assert weight_files.shapes(tmp_path) == expected
    content = (tmp_path / "model.safetensors").read_bytes()
    for damage in (b"", b"short", bytes(20), b"\xff" * 20, content[:-1], content + b"0"):
        (tmp_path / "model.safetensors").write_bytes(damage)
        with pytest.raises(ValueError, match=r"model.safetensors is damaged .* Copy it again"):
            weight_files.shapes(tmp_path)


def write_index(folder, *files):
    weight_map = {f"tensor {number}": name for number, name in enumerate(files)}
    (folder / weight_files.INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("has_shards", [True, False])
def test_the_single_file_precedes_an_index(tmp_path, tensors, caplog, has_shards):
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    write_index(tmp_path, "a.safetensors", "b.safetensors")
    if has_shards:
        for name in ("a", "b"):
            old = {f"{name} old": np.zeros(2, np.float32)}
            safetensors.numpy.save_file(old, tmp_path / f"{name}.safetensors")
    assert weight_files.shapes(tmp_path).keys() == tensors.keys()
    with weight_files.opened(tmp_path) as stored:
        assert stored.keys() == tensors.keys()
    weight_files.warn_of_index(tmp_path)
    assert "reading the former, as transformers does. Delete the one" in caplog.text
    caplog.clear()
    (tmp_path / weight_files.INDEX).unlink()
    weight_files.warn_of_index(tmp_path)
    assert not caplog.text


def test_missing_shards_are_named(tmp_path, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / "b.safetensors")
    write_index(tmp_path, "a.safetensors", "b.safetensors", "c.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"lacks a\.safetensors, c\.safetensors, which .*index"
    ):
        weight_files.shapes(tmp_path)


def test_a_file_of_a_variant_is_named(tmp_path):
    (tmp_path / "model.fp16.safetensors").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"has model\.fp16\.safetensors: rename .* variant="
    ):
        weight_files.shapes(tmp_path)


@pytest.mark.parametrize("name", weight_files.UNREAD)
def test_weights_of_another_format_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=rf"{name} is not read, .* save_pretrained"):
        weight_files.shapes(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map, or an empty one"),
        ('{"weight_map": ["a"]}', "has no weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "outside its folder"),
        ('{"weight_map": {"a": "/model.safetensors"}}', "outside its folder"),
        ('{"weight_map": {"a": ".."}}', "outside its folder"),
        ('{"weight_map": {"a": 3}}', "outside its folder"),
    ],
)
def test_a_damaged_or_foreign_index_is_told(tmp_path, tensors, content, message):
    folder = tmp_path / "model"
    folder.mkdir()
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    (folder / weight_files.INDEX).write_text(content)
    for read in (weight_files.shapes, lambda path: weight_files.opened(path).__enter__()):
        with pytest.raises(ValueError, match=message):
            read(folder)


def test_what_is_not_local_is_copied_while_it_is_needed(tmp_path, tensors, monkeypatch):
    monkeypatch.setattr(weight_files, "_is_remote", lambda path: True)
    monkeypatch.setattr(weight_files.tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with weight_files.opened(folder) as arrays:
        (copy,) = {*tmp_path.glob("*/model.safetensors")} - {folder / "model.safetensors"}
        (folder / "model.safetensors").unlink()
        np.testing.assert_array_equal(lazy_arrays.read(arrays["wide"]), tensors["wide"])
    assert not copy.parent.exists()
