"""Train state: the same types and bits come back, and only whole checkpoints count."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning import optimizers
from prompt_tuning.checkpoints import train_state


@pytest.fixture
def tree():
    """As the trainer makes it: NamedTuples, empty states, scalars, keys."""
    rng = np.random.default_rng(0)
    prompt = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    trainable = {"encoder": {"prompt": {"prompt": prompt}}}
    optimizer = optimizers.for_trainable(
        optax.chain(optax.clip(1.0), optimizers.adafactor(0.3, start_step=1_100_000)), (".*",)
    )
    rng_data = jax.random.key_data(jax.random.key(5))
    return {"trainable": trainable, "optimizer": optimizer.init(trainable), "rng": rng_data}


def abstract(tree):
    return jax.eval_shape(lambda: tree)


def folders(directory):
    return sorted(path.name for path in directory.iterdir())


def test_types_and_bits_come_back(tmp_path, tree):
    train_state.save(tmp_path, 7, tree, {"step": 7, "best": {"accuracy": 0.5}}, keep=1)
    restored, metadata = train_state.restore(tmp_path, 7, abstract(tree))
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    for have, want in zip(jax.tree.leaves(restored), jax.tree.leaves(tree), strict=True):
        assert isinstance(have, np.ndarray)
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)
    assert metadata == {"step": 7, "best": {"accuracy": 0.5}}
    assert train_state.read_metadata(tmp_path, 7) == metadata


def test_the_last_ones_are_kept(tmp_path, tree):
    directory = tmp_path / "new" / "model_dir"
    assert train_state.latest_step(directory) is None
    for step in (9, 10, 11):
        train_state.save(directory, step, tree, {}, keep=2)
    assert folders(directory) == ["checkpoint_10", "checkpoint_11"]
    assert train_state.latest_step(directory) == 11


def test_a_relative_directory_works(tmp_path, tree, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_state.save("run", 1, tree, {"step": 1}, keep=1)
    assert train_state.latest_step("run") == 1
    assert train_state.restore("run", 1, abstract(tree))[1] == {"step": 1}


def test_an_unfinished_checkpoint_does_not_count(tmp_path, tree):
    train_state.save(tmp_path, 1, tree, {}, keep=3)
    train_state.save(tmp_path, 2, tree, {}, keep=3)
    (tmp_path / "checkpoint_2").rename(tmp_path / "checkpoint_2.orbax-checkpoint-tmp")
    assert train_state.latest_step(tmp_path) == 1
    train_state.save(tmp_path, 2, tree, {"step": 2}, keep=3)
    assert train_state.read_metadata(tmp_path, 2) == {"step": 2}


def test_other_files_in_the_directory_do_not_matter(tmp_path, tree):
    (tmp_path / "config.gin").touch()
    (tmp_path / "train").mkdir()
    assert train_state.latest_step(tmp_path) is None
    train_state.save(tmp_path, 1, tree, {}, keep=1)
    assert folders(tmp_path) == ["checkpoint_1", "config.gin", "train"]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, tree):
    train_state.save(tmp_path, 1, tree, {}, keep=1)
    longer = abstract(tree)
    longer["trainable"] = {
        "encoder": {"prompt": {"prompt": jax.ShapeDtypeStruct((5, 4), jnp.float32)}}
    }
    with pytest.raises(ValueError, match=r"(?s)\(3, 4\).*\(5, 4\).*PROMPT_LENGTH"):
        train_state.restore(tmp_path, 1, longer)
    less = {"trainable": tree["trainable"]}
    with pytest.raises(ValueError, match=r"(?s)checkpoint_1 is damaged.*settings.*MODEL_DIR"):
        train_state.restore(tmp_path, 1, abstract(less))


def test_missing_damaged_and_foreign_folders_are_named(tmp_path):
    # One leaf: when several fail at once, asyncio complains about its closed loop.
    tree = {"rng": jnp.zeros(2, jnp.uint32)}
    with pytest.raises(FileNotFoundError, match="checkpoint_1; check MODEL_DIR"):
        train_state.restore(tmp_path, 1, abstract(tree))
    train_state.save(tmp_path, 1, tree, {}, keep=1)
    for file in (tmp_path / "checkpoint_1" / "state" / "d").iterdir():
        file.unlink()
    (tmp_path / "checkpoint_2").mkdir()
    (tmp_path / "checkpoint_2" / "checkpoint").touch()
    for step in (1, 2):
        with pytest.raises(ValueError, match=f"checkpoint_{step} is damaged or is not"):
            train_state.restore(tmp_path, step, abstract(tree))
    with pytest.raises(ValueError, match="checkpoint_2 is damaged or is not"):
        train_state.read_metadata(tmp_path, 2)


def test_a_step_is_not_overwritten(tmp_path, tree):
    train_state.save(tmp_path, 1, tree, {"first": True}, keep=1)
    with pytest.raises(ValueError, match="already exists"):
        train_state.save(tmp_path, 1, tree, {"first": False}, keep=1)
    assert train_state.read_metadata(tmp_path, 1) == {"first": True}


def test_saving_waits_and_leaves_no_thread(tmp_path, tree):
    before = set(threading.enumerate())
    train_state.save(tmp_path, 1, tree, {}, keep=1)
    assert folders(tmp_path) == ["checkpoint_1"]
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before
