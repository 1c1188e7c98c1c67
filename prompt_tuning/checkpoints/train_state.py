"""The state of a run: trainable parameters, optimizer state and position in the data.

Orbax writes `checkpoint_<step>` folders, each process its own shards; the frozen weights are read again
from their checkpoint. The metadata has checksums of every array and of itself: what is read is what was
saved, or an error.
"""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from orbax import checkpoint as orbax

from prompt_tuning.checkpoints import atomic, lazy_arrays
from prompt_tuning.checkpoints.formats import orbax as orbax_format

FORMAT = 2  # 1 had a handler of this package, and other checksums
TRAINED = "trainable."
# What cannot be read is put aside under this name where its step is saved again.
DAMAGED = "damaged_"
COMMITTED = "commit_success.txt"  # Orbax's


class DamagedError(ValueError):
    """A folder does not hold the state that was saved in it."""

    def __init__(self, path: epath.PathLike, why: str):
        super().__init__(
            f"{path} is damaged or is not the state of a run ({why}); expected the state as it was "
            "saved. Copy it again, or remove it."
        )


def save(
    directory: epath.PathLike, step: int, tree: Any, metadata: dict[str, Any], *, keep: int | None
) -> None:
    """Writes `checkpoint_<step>` atomically and waits for it. All processes of a run call it.

    States of this step or a later one are renamed first: a run that resumed from an earlier one could not
    read them. Earlier ones are removed when the new one is complete.

    Args:
      directory: MODEL_DIR, which all processes see.
      step: of the run.
      tree: any pytree of jax.Array; NamedTuples are allowed.
      metadata: JSON values.
      keep: how many of the latest checkpoints stay; None for all.

    Raises:
      OSError: it cannot be written, for example to a full disk; earlier states are unchanged.
    """
    flat = _flatten(tree)
    content = {
        "format": FORMAT,
        "metadata": metadata,
        "arrays": {name: _describe(array) for name, array in flat.items()},
    }
    try:
        if atomic.is_writer():
            _clear(directory, step)
        atomic.wait_for_writer(f"save step {step} in {directory}")
        with orbax.Checkpointer(orbax.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(
                _folder(directory, step),
                args=orbax.args.Composite(state=orbax.args.PyTreeSave(flat)),
                custom_metadata={**content, "checksum": _digest(content)},
            )
        if atomic.is_writer():
            for old in steps(directory)[: -keep if keep else 0]:
                _folder(directory, old).rmtree()
    # A full disk has several types: Orbax's own, TensorStore's, the system's.
    except Exception as error:
        raise OSError(f"cannot write {_folder(directory, step)}: {error}") from error


def steps(directory: epath.PathLike) -> list[int]:
    """Steps with a folder that was written to its end, the last one last."""
    return sorted(int(path.name[11:]) for path in _folders(directory) if _is_whole(path))


def latest_step(directory: epath.PathLike) -> int | None:
    """The last of `steps`, None where there is none."""
    return max(steps(directory), default=None)


def restore(directory: epath.PathLike, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint onto the devices, each process its own shards.

    Args:
      directory: MODEL_DIR.
      step: of the run.
      abstract: the tree that was saved, with jax.ShapeDtypeStruct leaves that have shardings.

    Returns:
      A tree of the same types with jax.Array leaves, and the metadata.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      DamagedError: a value of it is not what was saved.
      ValueError: it is of other settings, or of an earlier version of this package.
    """
    content = _read_content(directory, step)
    saved, expected = content["arrays"], _flatten(abstract)
    lines = [
        f"{name}: {_shape(saved.get(name))}; expected {_shape(expected.get(name))}"
        for name in sorted(saved.keys() | expected.keys())
        if _shape(saved.get(name)) != _shape(expected.get(name))
    ]
    if lines:
        raise ValueError(
            f"checkpoint_{step} of {directory} does not match the settings:\n  "
            + "\n  ".join(lines)
            + "\n"
            "Set PROMPT_LENGTH, the model gin file and the optimizer as in that run, or set another MODEL_DIR."
        )
    path = _folder(directory, step)
    with _reading(path), orbax.Checkpointer(orbax.CompositeCheckpointHandler()) as checkpointer:
        arguments = orbax.args.PyTreeRestore(
            expected, restore_args=orbax.checkpoint_utils.construct_restore_args(expected)
        )
        arrays = checkpointer.restore(path, orbax.args.Composite(state=arguments))["state"]
        for name in expected:
            _verify(path, name, arrays[name], saved[name])
    ordered = [arrays[name] for name in expected]
    return jax.tree.unflatten(jax.tree.structure(abstract), ordered), content["metadata"]


def read_metadata(directory: epath.PathLike, step: int) -> dict[str, Any]:
    """Reads the metadata alone. Raises as `restore`."""
    return _read_content(directory, step)["metadata"]


def open_trained(directory: epath.PathLike, step: int) -> dict[str, lazy_arrays.LazyArray]:
    """{path: LazyArray} of the trainable parameters, without the optimizer state. Raises as `restore`.

    Each is read once to be verified, and again where it is used: weights need not all be in memory.
    """
    path, saved = _folder(directory, step), _read_content(directory, step)["arrays"]
    with _reading(path):
        stored = orbax_format.open_arrays(path, (x for x in saved if x.startswith(TRAINED)))
        for name, leaf in stored.items():
            # Nothing is allocated for a shape that was not saved.
            if _shape(leaf) != _shape(saved[name]):
                raise DamagedError(path, f"{name} does not match its checksum")
            _verify(path, name, lazy_arrays.read(leaf), saved[name])
    return {name.removeprefix(TRAINED).replace(".", "/"): leaf for name, leaf in stored.items()}


def _folder(directory: epath.PathLike, step: int) -> epath.Path:
    directory = epath.Path(directory)
    if not directory.is_absolute():  # Orbax wants it; resolve() would spoil gs:// paths
        directory = directory.resolve()
    return directory / f"checkpoint_{step}"


def _folders(directory: epath.PathLike) -> list[epath.Path]:
    """What has a state's name."""
    directory = epath.Path(directory)
    inside = directory.iterdir() if directory.exists() else ()
    return [path for path in inside if re.fullmatch(r"checkpoint_\d+", path.name)]


def _is_whole(path: epath.Path) -> bool:
    """Orbax renames what it has written; on gs:// it writes under the final name, and this file last."""
    return not _is_on_gcs(path) or (path / COMMITTED).exists()


def _is_on_gcs(path: epath.Path) -> bool:
    return f"{path}".startswith("gs://")


def _clear(directory: epath.PathLike, step: int) -> None:
    """Removes what a save was stopped in, and puts aside what stands where steps are to come."""
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    halves = [path for path in _folders(directory) if not _is_whole(path)]
    for half in [*halves, *directory.glob("checkpoint_*.orbax-checkpoint-tmp*")]:
        _remove(half)
    for later in steps(directory):
        if later >= step:
            aside = directory / f"{DAMAGED}checkpoint_{later}"
            aside.rmtree(missing_ok=True)
            _folder(directory, later).rename(aside)


def _remove(folder: epath.Path, seconds: float = 5.0) -> None:
    """Removes a folder into which Orbax's threads may still write after a failed save."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return folder.rmtree(missing_ok=True)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _flatten(tree: Any) -> dict[str, Any]:
    """{dotted path: leaf}: the names of the arrays do not depend on how Orbax names nodes."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="."): leaf for k, leaf in flat}


def _describe(array: Any) -> dict[str, Any]:
    sums = np.asarray(_checksum(array)).tolist()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "checksum": sums}


@jax.jit
def _checksum(array: jax.Array) -> jax.Array:
    """64 bits, [2] uint32, of all values and their positions: the same however an array is sharded."""

    def mix(x):  # lowbias32 of Chris Wellons: a bijection, so a single wrong value changes the sum
        x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
        return x ^ (x >> 16)

    bits = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
    values = jax.lax.bitcast_convert_type(array, bits).astype(jnp.uint32)
    position = jnp.zeros(array.shape, jnp.uint32)
    for axis, size in enumerate(array.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        position = position * np.uint32(size) + index
    mixed = mix(mix(position + np.uint32(1)) ^ values)
    return jnp.stack([jnp.sum(mixed), jnp.sum(mix(mixed ^ np.uint32(1)))])


def _shape(array: Any) -> str:
    """Dtype and shape of an array, or of what `_describe` returns for one."""
    if array is None:
        return "none"
    if isinstance(array, Mapping):
        return f"{array['dtype']} {tuple(array['shape'])}"
    return f"{array.dtype} {tuple(array.shape)}"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_content(directory: epath.PathLike, step: int) -> dict[str, Any]:
    """{"metadata", "arrays": {name: what `_describe` returns}}, verified. Raises as `restore`."""
    path = _folder(directory, step)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; expected the state of a run. Check MODEL_DIR."
        )
    with _reading(path):
        content = json.loads((path / orbax_format.METADATA).read_text())["custom_metadata"]
        if content.pop("checksum") != _digest(content):
            raise DamagedError(path, "its metadata does not match its checksum")
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path} was written by another version of prompt_tuning, whose states are not read; expected "
            f"format {FORMAT}. Finish the run with that version, or set another MODEL_DIR."
        )
    return content


def _verify(path: epath.Path, name: str, array: Any, saved: Mapping[str, Any]) -> None:
    """Raises DamagedError unless an array is the one that was saved."""
    if _describe(array) != saved:
        raise DamagedError(path, f"{name} does not match its checksum")


@contextlib.contextmanager
def _reading(path: epath.Path) -> Iterator[None]:
    """Whatever a damaged file makes a reader raise is a DamagedError."""
    try:
        yield
    except DamagedError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise DamagedError(path, why) from error
