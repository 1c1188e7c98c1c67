"""T5X's native format: each kind of leaf, each place it was written to, and damage."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax import serialization

from prompt_tuning import params
from prompt_tuning.checkpoints import base_model, lazy_arrays
from prompt_tuning.checkpoints.formats import t5x, zarr

RNG = np.random.default_rng(0)
TREE = {
    "token_embedder": {"embedding": RNG.normal(size=(6, 4)).astype(np.float32)},
    "encoder": {
        "encoder_norm": {"scale": RNG.normal(size=4).astype(np.float32)},
        "layers_0": {"mlp": {"wo": {"kernel": RNG.normal(size=(4, 3)).astype(np.float32)}}},
    },
}
ABSTRACT = params.shapes(TREE)


def load(path, abstract):
    return base_model.load(path, abstract)[0]


def write_zarr(folder, array, dtype):
    chunks = [2, array.shape[1]] if array.ndim == 2 else list(array.shape)
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "metadata": {
            "shape": array.shape,
            "chunks": chunks,
            "dtype": dtype,
            "compressor": {"id": "gzip", "level": 1},
        },
    }
    tensorstore.open(spec, create=True).result().write(array).result()


def spec_of(name, array, driver="gfile"):
    spec = {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {"driver": driver, "path": name},
        "metadata": {"shape": list(array.shape), "chunks": list(array.shape)},
    }
    if driver == "gcs":
        spec["kvstore"]["bucket"] = "t5x-dummy-bucket"
    return spec


def write_index(folder, target, step=3, version=3):
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    step = step if isinstance(step, dict) else np.asarray(step)
    optimizer = {"target": target, "state": {"step": step, "param_states": {}}}
    content = serialization.msgpack_serialize({"version": version, "optimizer": optimizer})
    (folder / "checkpoint").write_bytes(content)


def write(folder, tree=TREE, *, driver="gfile", dtype="<f4", slash=""):
    """Matrices beside the index, vectors inside it, as T5X writes them."""
    target = {}
    for path, array in params.flatten(tree).items():
        if array.ndim < 2:
            target[path] = array
            continue
        name = "target." + path.replace("/", ".")
        write_zarr(folder / name, array, dtype)
        target[path] = spec_of(name + slash, array, driver)
    write_index(folder, params.unflatten(target))
    return folder


def assert_equal(left, right):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), left, right)


def test_what_is_saved_is_read_again(tmp_path):
    path = tmp_path / "run" / "checkpoint_7"
    stored = {name: lazy_arrays.from_numpy(array) for name, array in params.flatten(TREE).items()}
    t5x.save(path, stored, step=7, dtype="float32")
    assert t5x.read_step(path) == 7
    assert_equal(load(path, ABSTRACT), TREE)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint_7"]
    # Vectors lie beside the index too, as T5X writes them now.
    assert (path / "target.encoder.encoder_norm.scale" / ".zarray").exists()
    with pytest.raises(FileExistsError, match="checkpoint_7 exists"):
        t5x.save(path, stored, step=7, dtype="float32")


@pytest.mark.parametrize("driver", ["file", "gfile", "gcs"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_arrays_are_found_where_they_lie_now(tmp_path, driver, slash):
    folder = write(tmp_path / "checkpoint_3", driver=driver, slash=slash)
    assert t5x.is_checkpoint(folder)
    assert t5x.read_step(folder) == 3
    loaded = load(folder, ABSTRACT)
    assert_equal(loaded, TREE)


def write_external_step(folder, step=3, driver="gfile"):
    """As T5X saves now: every entry is a spec, `state.step` too."""
    write(folder, driver=driver)
    target = serialization.msgpack_restore((folder / "checkpoint").read_bytes())["optimizer"]
    array = np.asarray(step)
    write_zarr(folder / "state.step", array, array.dtype.str)
    spec = spec_of("state.step", array, driver) | {"dtype": array.dtype.name}
    write_index(folder, target["target"], spec)
    return folder


@pytest.mark.parametrize("driver", ["file", "gfile", "gcs"])
def test_the_step_may_be_beside_the_index(tmp_path, driver):
    folder = write_external_step(tmp_path / "checkpoint_3", np.int32(3), driver)
    assert t5x.read_step(folder) == 3
    assert_equal(load(folder, ABSTRACT), TREE)


@pytest.mark.parametrize("step", [np.int32(-3), np.arange(2, dtype=np.int32), np.float32("nan")])
def test_a_step_beside_the_index_is_checked(tmp_path, step):
    folder = write_external_step(tmp_path / "checkpoint_3", step)
    with pytest.raises(ValueError, match="not a T5X checkpoint or is damaged"):
        t5x.read_step(folder)


def test_a_lost_step_is_an_error(tmp_path):
    folder = write_external_step(tmp_path / "checkpoint_3", np.int32(3))
    shutil.rmtree(folder / "state.step")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        t5x.read_step(folder)
    with t5x.opened(folder) as stored:
        assert_equal(lazy_arrays.load(stored, ABSTRACT, f"{folder}"), TREE)


def test_a_path_beside_the_kvstore_is_read(tmp_path):
    folder = tmp_path / "checkpoint_3"
    array = np.ones((2, 2), np.float32)
    spec = spec_of("target.a", array) | {"path": "target.a", "kvstore": {"driver": "file"}}
    write_index(folder, {"a": spec})
    write_zarr(folder / "target.a", array, "<f4")
    assert_equal(load(folder, params.shapes({"a": array})), {"a": array})


def test_another_driver_is_named(tmp_path):
    array = np.ones((2, 2), np.float32)
    write_index(tmp_path / "c", {"a": spec_of("target.a", array) | {"driver": "zarr3"}})
    with pytest.raises(
        ValueError, match=r"a of .* the TensorStore driver 'zarr3'; expected 'zarr'"
    ):
        load(tmp_path / "c", params.shapes({"a": array}))


def test_a_relative_path_is_read(tmp_path, monkeypatch):
    write(tmp_path / "checkpoint_3")
    monkeypatch.chdir(tmp_path)
    assert_equal(load("checkpoint_3", ABSTRACT), TREE)


def test_stored_and_wanted_dtypes_may_differ(tmp_path):
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), TREE)
    folder = write(tmp_path / "checkpoint_3", rounded, dtype="bfloat16")
    assert_equal(load(folder, ABSTRACT), jax.tree.map(lambda x: x.astype(np.float32), rounded))
    assert_equal(load(folder, params.shapes(rounded)), rounded)


def test_a_prompt_in_the_checkpoint_is_left_out(tmp_path):
    prompt = {"encoder": {"prompt": {"prompt": {"prompt": np.ones((2, 4), np.float32)}}}}
    folder = write(tmp_path / "checkpoint_3", params.merge(TREE, prompt))
    assert_equal(load(folder, ABSTRACT), TREE)


def test_one_error_lists_all_that_does_not_fit(tmp_path):
    folder = write(tmp_path / "checkpoint_3")
    shape = jax.ShapeDtypeStruct
    other = {
        "token_embedder": {"embedding": shape((7, 4), np.float32)},
        "decoder": {"decoder_norm": {"scale": shape((4,), np.float32)}},
        "encoder": {"encoder_norm": ABSTRACT["encoder"]["encoder_norm"]},
    }
    with pytest.raises(ValueError, match="INITIAL_CHECKPOINT_PATH") as error:
        load(folder, other)
    assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == [
        "missing: decoder/decoder_norm/scale (4,)",
        "shape: token_embedder/embedding is (6, 4), the model has (7, 4)",
        "surplus: encoder/layers_0/mlp/wo/kernel (4, 3)",
    ]


@pytest.mark.parametrize("name", ["/elsewhere", "../elsewhere", "..", "", "a/../../b"])
def test_a_path_out_of_the_folder_is_refused(tmp_path, name):
    write_zarr(tmp_path / "elsewhere", np.ones((2, 2), np.float32), "<f4")
    write_index(tmp_path / "c", {"a": spec_of(name, np.ones((2, 2)))})
    with pytest.raises(ValueError, match="refers to a path outside its folder"):
        load(tmp_path / "c", {"a": jax.ShapeDtypeStruct((2, 2), np.float32)})


@pytest.mark.parametrize("kvstore", [{"driver": "gfile"}, {"path": 3}, "target.a"])
def test_an_array_without_a_place_is_an_error(tmp_path, kvstore):
    write_index(tmp_path / "c", {"a": spec_of("target.a", np.ones((2, 2))) | {"kvstore": kvstore}})
    with pytest.raises(ValueError, match=r"the index of .* refers to a path outside its folder"):
        load(tmp_path / "c", {"a": jax.ShapeDtypeStruct((2, 2), np.float32)})


@pytest.mark.parametrize("lost", ["0.0", "2.0", ".zarray"])
def test_a_lost_file_is_an_error_not_zeros(tmp_path, lost):
    folder = write(tmp_path / "checkpoint_3")
    (folder / "target.token_embedder.embedding" / lost).unlink()
    with pytest.raises(ValueError, match="damaged or incomplete"):
        load(folder, ABSTRACT)


def test_a_cut_file_is_an_error(tmp_path):
    folder = write(tmp_path / "checkpoint_3")
    chunk = folder / "target.token_embedder.embedding" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        load(folder, ABSTRACT)


def test_an_array_unlike_its_index_is_an_error(tmp_path):
    abstract = {"a": jax.ShapeDtypeStruct((2, 2), np.float32)}
    write_index(tmp_path / "c", {"a": spec_of("target.a", np.ones((2, 2)))})
    write_zarr(tmp_path / "c" / "target.a", np.ones((3, 2), np.float32), "<f4")
    with pytest.raises(ValueError, match=r"a is \(3, 2\), the model has \(2, 2\)"):
        load(tmp_path / "c", abstract)
    shutil.rmtree(tmp_path / "c" / "target.a")
    write_zarr(tmp_path / "c" / "target.a", np.ones((2, 2), np.uint16), "<u2")
    with pytest.raises(ValueError, match=r"a is uint16 \(2, 2\); expected floats"):
        load(tmp_path / "c", abstract)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'model_checkpoint_path: "model.ckpt-1000000"\n',  # TensorFlow's file of that name
        serialization.msgpack_serialize({"version": 3}),
        serialization.msgpack_serialize(
            {"version": None, "optimizer": {"target": {}, "state": {"step": 3}}}
        ),
        serialization.msgpack_serialize(
            {"version": 3, "optimizer": {"target": 5, "state": {"step": 3}}}
        ),
        serialization.msgpack_serialize(
            {"version": 3, "optimizer": {"target": {}, "state": {"step": "x"}}}
        ),
        serialization.msgpack_serialize([1, 2]),
    ],
)
def test_another_file_of_that_name_is_an_error(tmp_path, content):
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(ValueError, match="not a T5X checkpoint or is damaged"):
        t5x.read_step(tmp_path)


def test_a_cut_index_and_an_old_version_are_errors(tmp_path):
    folder = write(tmp_path / "checkpoint_3")
    index = folder / "checkpoint"
    index.write_bytes(index.read_bytes()[:-5])
    with pytest.raises(ValueError, match="damaged"):
        load(folder, ABSTRACT)
    write_index(folder, {}, version=1)
    with pytest.raises(ValueError, match="version 1"):
        load(folder, {})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_saved_is_what_t5x_reads(tmp_path, monkeypatch, dtype):
    """As its load_t5x_checkpoint does: specs of the index, their paths put behind the folder's."""
    monkeypatch.setattr(zarr, "LARGEST_CHUNK", 50)
    stored = {path: lazy_arrays.from_numpy(array) for path, array in params.flatten(TREE).items()}
    folder = tmp_path / "checkpoint_3"
    t5x.save(folder, stored, step=3, dtype=dtype)
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    assert content["version"] == 3
    state = content["optimizer"]["state"]
    assert state["step"] == 3 and state["step"].dtype == np.int32 and state["step"].shape == ()
    assert state["param_states"] == {}
    for path, array in params.flatten(TREE).items():
        spec = content["optimizer"]["target"]
        for key in path.split("/"):
            spec = spec[key]
        assert {"driver", "kvstore", "metadata"} <= spec.keys()
        assert spec["kvstore"]["driver"] == "file"
        json = tensorstore.Spec(spec).to_json()
        assert json["metadata"]["shape"] == list(array.shape)
        name = "target." + path.replace("/", ".")
        assert spec["kvstore"]["path"] == name
        spec["kvstore"]["path"] = str(folder / name)
        values = tensorstore.open(tensorstore.Spec(spec), open=True).result().read().result()
        np.testing.assert_array_equal(values, array.astype(dtype), strict=True)


def test_save_leaves_nothing_half_written(tmp_path):
    def fail(box):
        raise OSError("no such disk")

    stored = {path: lazy_arrays.from_numpy(array) for path, array in params.flatten(TREE).items()}
    lost = lazy_arrays.LazyArray((2, 2), np.dtype("float32"), (2, 2), fail)
    with pytest.raises(OSError, match="no such disk"):
        t5x.save(tmp_path / "checkpoint_3", {**stored, "z": lost}, step=3, dtype="float32")
    assert not list(tmp_path.iterdir())
