"""Train state: the same types and bits come back, and only whole checkpoints count."""

import gc
import json
import resource
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning.checkpoints import train_state
from prompt_tuning.training import optimizers

# TensorStore reports reads that another failed read has stopped when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_failed_reads():
    """Reads that a damaged file stops are collected here, not within a later test."""
    yield
    gc.collect()


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
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def folders(directory):
    return sorted(path.name for path in directory.iterdir())


def test_types_and_bits_come_back(tmp_path, tree):
    train_state.save(tmp_path, 7, tree, {"step": 7, "best": {"accuracy": 0.5}}, keep=1)
    restored, metadata = train_state.restore(tmp_path, 7, abstract(tree))
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    for have, want in zip(jax.tree.leaves(restored), jax.tree.leaves(tree), strict=True):
        assert isinstance(have, jax.Array)
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


def test_on_gs_a_folder_without_its_last_file_does_not_count(tmp_path, tree, monkeypatch):
    for step in (1, 2):
        train_state.save(tmp_path, step, tree, {}, keep=3)
        (tmp_path / f"checkpoint_{step}" / train_state.COMMITTED).touch()
    monkeypatch.setattr(train_state, "_is_on_gcs", lambda path: True)
    assert train_state.steps(tmp_path) == [1, 2]
    (tmp_path / "checkpoint_2" / train_state.COMMITTED).unlink()
    assert train_state.steps(tmp_path) == [1]
    train_state.save(tmp_path, 2, tree, {"step": 2}, keep=3)
    assert train_state.read_metadata(tmp_path, 2) == {"step": 2}
    assert not list(tmp_path.glob(f"{train_state.DAMAGED}*"))


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
    with pytest.raises(ValueError, match=r"(?s)rng: uint32 \(2,\); expected none.*MODEL_DIR"):
        train_state.restore(tmp_path, 1, abstract(less))


def test_missing_damaged_and_foreign_folders_are_named(tmp_path, tree):
    with pytest.raises(FileNotFoundError, match=r"checkpoint_1 does not exist; .* Check MODEL_DIR"):
        train_state.restore(tmp_path, 1, abstract(tree))
    train_state.save(tmp_path, 1, tree, {}, keep=1)
    for file in (tmp_path / "checkpoint_1" / "state" / "d").iterdir():
        file.unlink()
    (tmp_path / "checkpoint_2").mkdir()
    (tmp_path / "checkpoint_2" / "checkpoint").touch()
    for step in (1, 2):
        for read in (lambda at: train_state.restore(tmp_path, at, abstract(tree)),
                     lambda at: train_state.open_trained(tmp_path, at)):  # fmt: skip
            with pytest.raises(train_state.DamagedError, match=f"checkpoint_{step} is damaged or"):
                read(step)
    with pytest.raises(
        train_state.DamagedError, match="checkpoint_2 is damaged or is not the state"
    ):
        train_state.read_metadata(tmp_path, 2)


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


# Orbax awaits not all of its coroutines and threads when one of them fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_gives_other_values(tmp_path, tree):
    """A short form of scripts/torture_damage.py."""
    metadata = {"best": 50.5, "metrics": {"a": {"f1": float("nan")}}}
    train_state.save(tmp_path, 1, tree, metadata, keep=1)
    found, rng = [], np.random.default_rng(0)
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        content = file.read_bytes()
        places = rng.choice(len(content), 3)
        for damaged in [content[: places[0]], b"", *(flipped(content, at) for at in places)]:
            file.write_bytes(damaged)
            try:
                values, told = train_state.restore(tmp_path, 1, abstract(tree))
            except train_state.DamagedError:
                found.append(file.relative_to(tmp_path).parts[1])
                continue
            jax.tree.map(np.testing.assert_array_equal, values, tree)
            assert json.dumps(told) == json.dumps(metadata)
        file.write_bytes(content)
    assert {"state", "_CHECKPOINT_METADATA"} <= set(found)


@pytest.mark.parametrize("swapped", ["values", "metadata"])
def test_what_another_state_has_in_the_same_place_is_not_taken(tmp_path, tree, swapped):
    """Every file is whole, and none is of this state."""
    other = jax.tree.map(lambda x: x + 1, tree)
    train_state.save(tmp_path / "a", 1, tree, {"best": 1}, keep=1)
    train_state.save(tmp_path / "b", 1, other, {"best": 2}, keep=1)
    ours, theirs = tmp_path / "a/checkpoint_1", tmp_path / "b/checkpoint_1"
    if swapped == "values":
        shutil.rmtree(ours / "state")
        shutil.copytree(theirs / "state", ours / "state")
    else:
        shutil.copy(theirs / "_CHECKPOINT_METADATA", ours)
    with pytest.raises(train_state.DamagedError, match="does not match its checksum"):
        train_state.restore(tmp_path / "a", 1, abstract(tree))
    with pytest.raises(train_state.DamagedError, match="does not match its checksum"):
        train_state.open_trained(tmp_path / "a", 1)


def test_a_state_of_another_format_is_refused(tmp_path, tree, monkeypatch):
    monkeypatch.setattr(train_state, "FORMAT", 1)
    train_state.save(tmp_path, 1, tree, {}, keep=1)
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=r"written by another version .* another MODEL_DIR"
    ) as caught:
        train_state.read_metadata(tmp_path, 1)
    assert not isinstance(caught.value, train_state.DamagedError)


def test_a_state_is_restored_to_another_sharding(tmp_path):
    """NUM_PARTITIONS may change."""
    mesh = jax.make_mesh((8,), ("model",), (jax.sharding.AxisType.Auto,))
    rows, columns = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (("model", None), (None, "model"))
    )
    array = jax.device_put(jnp.arange(128, dtype=jnp.bfloat16).reshape(8, 16), rows)
    train_state.save(tmp_path, 1, {"trainable": array}, {}, keep=1)
    wanted = jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=columns)
    restored, _ = train_state.restore(tmp_path, 1, {"trainable": wanted})
    assert restored["trainable"].sharding == columns
    np.testing.assert_array_equal(restored["trainable"], array)
    # Two values that are exchanged, and a single bit.
    for other in (array.at[0, 0].set(1).at[0, 1].set(0), array.at[0, 0].set(-0.0)):
        assert (train_state._checksum(other) != train_state._checksum(array)).any()


def test_edited_metadata_is_not_taken(tmp_path, tree):
    train_state.save(tmp_path, 1, tree, {"best": 50}, keep=1)
    file = tmp_path / "checkpoint_1/_CHECKPOINT_METADATA"
    file.write_text(file.read_text().replace('"best": 50', '"best": 60'))
    with pytest.raises(train_state.DamagedError, match="its metadata does not match"):
        train_state.read_metadata(tmp_path, 1)


def test_what_stands_where_a_step_is_saved_is_put_aside(tmp_path, tree):
    for step in (1, 2, 4):
        train_state.save(tmp_path, step, tree, {"first": True}, keep=None)
    (tmp_path / "checkpoint_3.orbax-checkpoint-tmp").mkdir()  # a save was killed
    for _ in range(2):
        train_state.save(tmp_path, 2, tree, {"first": False}, keep=2)
        aside = ["damaged_checkpoint_2", "damaged_checkpoint_4"]
        assert folders(tmp_path) == ["checkpoint_1", "checkpoint_2", *aside]
        assert train_state.read_metadata(tmp_path, 2) == {"first": False}


@pytest.mark.parametrize("size", [0, 8, 100, 300, 700])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_leaves_the_last_state(tmp_path, tree, size):
    """A short form of scripts/torture_disk.py: no file may grow beyond `size`."""
    train_state.save(tmp_path, 1, tree, {"step": 1}, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*checkpoint_2"):
            train_state.save(tmp_path, 2, tree, {"step": 2}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert train_state.latest_step(tmp_path) == 1
    values, told = train_state.restore(tmp_path, 1, abstract(tree))
    jax.tree.map(np.testing.assert_array_equal, values, tree)
    train_state.save(tmp_path, 2, tree, {"step": 2}, keep=1)
    assert (folders(tmp_path), told) == (["checkpoint_2"], {"step": 1})


def test_saving_waits_and_leaves_no_thread(tmp_path, tree):
    before = set(threading.enumerate())
    train_state.save(tmp_path, 1, tree, {}, keep=1)
    assert folders(tmp_path) == ["checkpoint_1"]
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before
