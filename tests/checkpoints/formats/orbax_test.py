"""T5X under Orbax: what its trainer wrote is read, and only that of it which is asked for."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.checkpoints import base_model, train_state
from prompt_tuning.checkpoints.formats import orbax, zarr

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


@pytest.fixture(scope="session")
def written(tmp_path_factory, write_orbax):
    return write_orbax(tmp_path_factory.mktemp("orbax"), TREE)


@pytest.fixture
def folder(written, tmp_path):
    """A copy to be spoiled."""
    return shutil.copytree(written, tmp_path / "checkpoint_3")


def assert_equal(left, right):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), left, right)


def test_weights_and_step_are_read(written):
    assert orbax.is_checkpoint(written)
    assert orbax.read_step(written) == 3
    assert_equal(load(written, ABSTRACT), TREE)
    halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16), TREE)
    assert_equal(load(written, params.shapes(halved)), halved)


def test_the_optimizer_is_not_opened(written, monkeypatch):
    opened, open_leaves = [], zarr.open_leaves
    monkeypatch.setattr(
        zarr, "open_leaves", lambda arrays, path: opened.extend(arrays) or open_leaves(arrays, path)
    )
    with orbax.opened(written):
        pass
    assert sorted(opened) == sorted(
        "target." + path.replace("/", ".") for path in params.flatten(TREE)
    )


def test_an_array_on_gs_is_named_for_the_libraries_driver():
    assert orbax.kvstore("gs://bucket/model/checkpoint_3", "target.a.b") == {
        "driver": "ocdbt",
        "base": {"driver": "gcs", "bucket": "bucket", "path": "model/checkpoint_3/state/"},
        "path": "target.a.b/",
    }


def test_what_does_not_fit_is_told(written):
    wider = {**ABSTRACT, "token_embedder": {"embedding": jax.ShapeDtypeStruct((7, 4), np.float32)}}
    with pytest.raises(ValueError, match=r"embedding is \(6, 4\), the model has \(7, 4\)"):
        load(written, wider)


def test_a_checkpoint_without_its_marker_is_incomplete(folder):
    (folder / "commit_success.txt").unlink(missing_ok=True)
    # Finished all the same, says the metadata, as where no marker is written.
    assert orbax.read_step(folder) == 3
    file = folder / "_CHECKPOINT_METADATA"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"commit_timestamp_nsecs": None}))
    for call in (orbax.read_step, lambda path: load(path, ABSTRACT)):
        with pytest.raises(ValueError, match="checkpoint_3 is incomplete"):
            call(folder)
    file.unlink()
    with pytest.raises(ValueError, match="checkpoint_3 is incomplete"):
        orbax.read_step(folder)
    (folder / "commit_success.txt").touch()
    assert orbax.read_step(folder) == 3


@pytest.mark.parametrize("kind", ["data is lost", "manifest is cut", "manifest is lost"])
def test_damage_is_told(folder, kind):
    manifest = folder / "state" / "manifest.ocdbt"
    if kind == "data is lost":
        for file in (folder / "state").rglob("d/*"):
            file.unlink()
    elif kind == "manifest is cut":
        manifest.write_bytes(manifest.read_bytes()[:-7])
    else:
        manifest.unlink()
    message = "has no manifest.ocdbt" if kind == "manifest is lost" else "damaged or incomplete"
    with pytest.raises(ValueError, match=message):
        load(folder, ABSTRACT)


def test_other_checkpoints_of_orbax_are_told(tmp_path, write_orbax):
    train_state.save(tmp_path / "run", 1, {"trainable": {"a": jnp.ones(2)}}, {}, keep=1)
    for call in (orbax.read_step, lambda path: load(path, ABSTRACT)):
        with pytest.raises(ValueError, match=r"without a T5X model.*prompt-tuning export"):
            call(tmp_path / "run" / "checkpoint_1")
    older = write_orbax(tmp_path / "older", TREE, use_ocdbt=False)
    with pytest.raises(ValueError, match="expected an Orbax checkpoint with OCDBT"):
        load(older, ABSTRACT)
