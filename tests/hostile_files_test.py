"""Hostile files: a corrupted file is read or refused with a message of this package, and allocates
little memory. FINDINGS are earlier results of fuzzing.
"""

import dataclasses
import functools
import gzip
import importlib
import io
import json
import pathlib
import re
import struct
import sys
import tracemalloc
import zipfile

import hypothesis
import jax
import numpy as np
import pytest
import tensorstore
from flax import serialization
from hypothesis import strategies as st

from prompt_tuning.checkpoints import base_model, lazy_arrays, prompt_files
from prompt_tuning.checkpoints.formats import orbax, t5x
from prompt_tuning.data.files import lines

sys.path.append(str(pathlib.Path(__file__).parents[1] / "scripts"))
hostile_files, hostile_checkpoints, hostile_data = map(
    importlib.import_module, ("hostile_files", "hostile_checkpoints", "hostile_data")
)
TARGETS = hostile_checkpoints.TARGETS | hostile_data.TARGETS
DEEP = b"[" * 100_000
VALUES = (
    *(b"null", b"true", b"NaN", b"-1", b"0", b"1e999", b"[]", b"{}", b'""', b'"\\ud800"', DEEP),
    *(b"1000000000000", b"9" * 25, b"9" * 5000, b"1.5", b'"/etc/passwd"', b"\0", b"\xff", b"a\tb"),
)
# A value in a header or a JSON file.
VALUE = re.compile(rb'-?\d+(?:\.\d+)?|"[^"]*"|true|null|\[[^\[\]]*\]|\{[^{}]*\}')


@functools.cache
def value_spans(content):
    return [match.span() for match in VALUE.finditer(content[:20_000])] or [(0, 1)]


@st.composite
def corrupted(draw, valid):
    """`valid` with up to three changes: a value, bits, a truncation, an insertion, a deletion, a copy."""
    content = valid
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 2, 4, 8, 64])))
        match draw(st.integers(0, 5)):
            case 0 | 1:
                start, end = draw(st.sampled_from(value_spans(content)))
                new = draw(st.sampled_from(VALUES))
            case 2:
                new = bytes(byte ^ draw(st.integers(0, 255)) for byte in content[start:end])
            case 3:
                new = draw(st.binary(max_size=8))
            case 4:
                new, end = b"", len(content) if draw(st.booleans()) else end
            case _:
                new = content[start:end] * 2
        content = content[:start] + new + content[end:]
    return content


@pytest.mark.parametrize("name", TARGETS)
def test_a_corrupted_file_is_read_or_refused(tmp_path, name):
    trial = hostile_files.Trial(TARGETS[name], tmp_path)

    @hypothesis.given(content=corrupted(trial.valid))
    @hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
    def check(content):
        trial.try_content(content)

    check()


def changed(**settings):
    """Changes values of a JSON object."""
    return lambda valid: json.dumps(json.loads(valid) | settings).encode()


def array(**settings):
    """Changes the header of a .npy file."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (2, 4)} | settings
    return lambda valid: header_of(repr(header)) + valid[128:]


def header_of(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(118).encode()[:118]


def t5x_target(leaf):
    def change(valid):
        index = serialization.msgpack_restore(valid)
        index["optimizer"]["target"]["a"] = leaf
        return serialization.msgpack_serialize(index)

    return change


def member(name, **settings):
    """Changes the entry of a tensor in a safetensors header."""
    return lambda valid: json.dumps({**json.loads(valid), name: settings}).encode()


# Earlier findings of fuzzing and of reviews: (reader, change, pattern of the message).
FINDINGS = [
    ("safetensors header", lambda _: DEEP, "is damaged"),
    (
        "safetensors header",
        member("shared.weight", dtype="F32", shape=[2**62, 0], data_offsets=[0, 0]),
        "damaged|does not fit",
    ),
    ("config.json", changed(model_type=["t5"]), "has model_type"),
    ("config.json", changed(feed_forward_proj={}), "another model"),
    ("config.json", changed(num_layers=10**9), "num_layers 1000000000, but"),
    ("config.json", changed(num_decoder_layers=10**9), "num_decoder_layers 1000000000, but"),
    ("config.json", changed(vocab_size="8"), "has vocab_size '8'; expected an integer"),
    ("config.json", changed(layer_norm_epsilon="x"), "has layer_norm_epsilon 'x'"),
    ("config.json", changed(training_steps=[]), "has training_steps"),
    ("T5X index", t5x_target(None), "is damaged"),
    ("T5X index", t5x_target("text"), "is damaged"),
    (
        "T5X index",
        t5x_target({"driver": "zarr", "kvstore": {"driver": "http"}}),
        "outside its folder",
    ),
    ("T5X index", t5x_target({"driver": "zarr", "kvstore": {"path": "\0"}}), "damaged"),
    ("zarr metadata", changed(shape=[10**12, 4]), "does not match the model"),
    ("zarr metadata", changed(chunks=[10**6, 10**6]), "in larger chunks of"),
    ("zarr metadata", changed(dtype="|O"), "damaged"),
    ("Orbax metadata", lambda _: DEEP, "is incomplete"),
    ("npy", array(shape=(10**12, 4)), "is not a .npy file of numbers"),
    ("npy", array(shape=(0, 10**30)), "is not a .npy file of numbers"),
    ("npy", array(descr="|O"), "is not a .npy file of numbers"),
    ("npy", lambda _: header_of("{'descr': ("), "is not a .npy file of numbers"),
    ("npz", lambda valid: valid.replace(b"PK\x01\x02-\x03-\0", b"PK\x01\x02-\x03\x63\0"), "npz"),
    ("npz member", array(shape=(10**12, 4)), "is not a .npz file of numbers"),
    ("card", lambda _: DEEP, "is not a JSON object"),
    ("card", changed(length="2"), "has length '2', which is not a valid value"),
    ("card", changed(place=[[1]]), "has place"),
    ("JSONL", lambda _: DEEP, "TRAIN_FILE .*, line 1: not JSON"),
    ("JSONL", lambda _: b'{"text": ' + b"9" * 5000 + b"}", "line 1: not JSON"),
    ("JSONL", lambda _: b'{"text": "\\ud800", "label": 1}', "line 1: not JSON .*surrogates"),
    ("GLUE JSON", lambda _: b"[1]", "expected a JSON object of rows"),
    ("GLUE JSON", lambda _: b'{"0": 5}', "does not have the values of glue"),
    ("SuperGLUE", changed(idx=10**25), "does not have the values of glue"),
    ("SuperGLUE", changed(label=float("nan")), "label 'nan'"),
    ("MultiRC", changed(passage={"text": "t", "questions": [{}]}), "does not have the values"),
    ("ReCoRD", changed(passage={"text": "t", "entities": [{}]}), "does not have the values"),
    ("SQuAD", lambda _: DEEP, "TASK_DATA_DIR .*not JSON"),
    ("C4", lambda _: b'{"text": 5}', "line 1: text is 5; expected a string"),
]


@pytest.mark.parametrize("number", range(len(FINDINGS)))
def test_an_earlier_finding_is_refused(tmp_path, number):
    name, change, message = FINDINGS[number]
    trial = hostile_files.Trial(TARGETS[name], tmp_path)
    content = change(trial.valid)
    assert content != trial.valid
    assert re.search(message, trial.try_content(content) or "it was read", re.DOTALL)


def test_a_tokenizer_of_a_billion_sentinels_is_refused(tmp_path):
    trial = hostile_files.Trial(TARGETS["tokenizer: tokenizer_config.json"], tmp_path)
    message = trial.try_content(changed(extra_ids=10**9)(trial.valid))
    assert "extra_ids 1000000000; expected an integer from 0 to 10000" in message


@pytest.fixture
def peak():
    """(call, message) -> peak memory of a refused call, in bytes."""

    def measure(call, message):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=message):
                call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


def test_a_header_does_not_allocate_memory(tmp_path, peak):
    (tmp_path / "p.npy").write_bytes(array(shape=(2**28, 4))(bytes(200)))
    load = functools.partial(prompt_files.load, tmp_path / "p.npy")
    assert peak(load, "not a .npy file") < 2**20
    with zipfile.ZipFile(tmp_path / "p.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", array(shape=(2**22, 4))(bytes(128)) + bytes(2**26))
    load = functools.partial(prompt_files.load_leaves, tmp_path / "p.npz")
    assert peak(load, r"67108992 bytes compressed to") < 2**20
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(bytes(2**26)))
    read = functools.partial(lines.read_text, str(tmp_path / "a.tsv.gz"), "TRAIN_FILE")
    assert (
        peak(read, "it decompresses to over 200 times its size; decompress it with gunzip") < 2**26
    )


def test_a_repetitive_file_is_decompressed(tmp_path):
    text = "text\tlabel\n" + "good film\tgood\n" * 500_000
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(text.encode()))
    assert lines.read_text(str(tmp_path / "a.tsv.gz"), "TRAIN_FILE") == text


def test_a_missing_array_does_not_allocate_memory(tmp_path, peak):
    trial = hostile_files.Trial(TARGETS["zarr metadata"], tmp_path)
    trial.file.write_bytes(changed(shape=[2**26, 4])(trial.valid))
    name = "encoder/layers_0/mlp/wo/kernel"
    read = functools.partial(base_model.read_variable, tmp_path / "model", name)
    assert peak(read, "damaged or incomplete") < 2**22


def test_a_hostile_shape_is_not_split_into_layers():
    def read(_):
        raise AssertionError("nothing is read")

    shape = (4, 10**12)
    leaf = lazy_arrays.LazyArray(shape, np.dtype(np.float32), shape, read)
    with pytest.raises(
        ValueError, match=r"surplus: encoder/encoder/norm/scale \(4, 1000000000000\)"
    ):
        lazy_arrays.load({"encoder/encoder/norm/scale": leaf}, {"encoder": {}}, "here")


def test_a_name_below_another_name_is_refused():
    stored = {name: lazy_arrays.from_numpy(np.ones(2, np.float32)) for name in ("a", "a/b")}
    with pytest.raises(ValueError, match="surplus: a/b"):
        lazy_arrays.load(stored, {"a": jax.ShapeDtypeStruct((2,), np.float32)}, "here")


def test_the_step_of_orbax_is_a_scalar(tmp_path):
    TARGETS["Orbax metadata"].write(tmp_path)
    path = tmp_path / "model"
    spec = {"driver": "zarr", "kvstore": orbax.kvstore(path, orbax.STEP)}
    metadata = {"shape": [2**40], "chunks": [1], "dtype": "<i4", "compressor": None}
    tensorstore.open(spec | {"metadata": metadata}, create=True, delete_existing=True).result()
    with pytest.raises(ValueError, match=r"state.step is int32 \(1099511627776,\)"):
        orbax.read_step(path)


def test_blosc_compression_is_refused(tmp_path):
    TARGETS["T5X index"].write(tmp_path)
    spec = {"driver": "zarr", "kvstore": t5x.zarr.kvstore(tmp_path / hostile_checkpoints._KERNEL)}
    metadata = {"shape": [4, 4], "chunks": [4, 4], "dtype": "<f4", "compressor": {"id": "blosc"}}
    tensorstore.open(spec | {"metadata": metadata}, create=True, delete_existing=True).result()
    with pytest.raises(
        ValueError, match=r"wo.kernel of the checkpoint .* is compressed with blosc"
    ):
        hostile_checkpoints._read_model(tmp_path)


def test_no_file_outside_the_folder_is_read(tmp_path):
    """Files of OCDBT and zarr are keys of TensorStore's driver `file`, which refuses "..\"."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").write_bytes(b"secret")
    store = tensorstore.KvStore.open(t5x.zarr.kvstore(tmp_path / "inside")).result()
    with pytest.raises(ValueError, match="Invalid key"):
        store.read("../outside").result()
    with pytest.raises(ValueError, match="Invalid key"):
        store.read("/outside").result()


def test_links_are_followed_since_the_cache_of_the_hub_has_links(tmp_path):
    trial = hostile_files.Trial(TARGETS["safetensors"], tmp_path)
    trial.file.rename(tmp_path / "blob")
    trial.file.symlink_to(tmp_path / "blob")
    trial.target.read(tmp_path)
    # The target of a link is read as weights, or refused.
    (tmp_path / "blob").write_bytes(b"root:x:0:0:root:/root:/bin/bash\n")
    assert "is damaged" in trial.try_content(trial.file.read_bytes())


def test_errors_of_libraries_are_findings(tmp_path, monkeypatch):
    trial = hostile_files.Trial(TARGETS["card"], tmp_path)
    for error in (KeyError("x"), ValueError("no file is named"), MemoryError()):

        def fail(_, error=error):
            raise error

        monkeypatch.setattr(trial, "target", dataclasses.replace(trial.target, read=fail))
        with pytest.raises(AssertionError):
            trial.try_content(b"")


def test_a_zip_file_is_corrupted_below_its_checksum(tmp_path):
    trial = hostile_files.Trial(TARGETS["npz member"], tmp_path)
    assert trial.valid.startswith(b"\x93NUMPY")
    assert zipfile.ZipFile(io.BytesIO(trial.target.pack(trial.valid))).testzip() is None
