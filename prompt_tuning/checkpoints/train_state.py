"""What a run needs to go on: the trained leaves, optimizer state and data position.

Orbax writes `checkpoint_<step>` folders of kilobytes; the frozen weights are read
again from where they came from. Beside the metadata stand checksums, of every array and of
the metadata itself: what is read is what was saved, or an error.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax import checkpoint as orbax

from prompt_tuning.checkpoints import atomic, leaves
from prompt_tuning.checkpoints.formats import orbax as orbax_format
from prompt_tuning.checkpoints.formats import zarr

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
    """Writes `checkpoint_<step>`, whole or not at all, and waits for it.

    States of this step or a later one are put aside first: a run that has gone on from one
    before could not read them. Earlier ones go when the new one is whole.

    Args:
      directory: MODEL_DIR.
      step: of the run.
      tree: any pytree of arrays; NamedTuples are allowed.
      metadata: JSON values.
      keep: how many of the latest checkpoints stay; None for all.

    Raises:
      OSError: it cannot be written, as the disk is full; what was there is as it was.
    """
    flat = _flat(tree)
    content = {
        "metadata": metadata,
        "arrays": {name: _described(jax.device_get(leaf)) for name, leaf in flat.items()},
    }
    try:
        if atomic.is_writer():
            _clear(directory, step)
        with orbax.Checkpointer(_Arrays()) as checkpointer:
            checkpointer.save(
                _folder(directory, step),
                args=_Save(flat),
                custom_metadata={**content, "checksum": _checksum(content)},
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
    """Reads a checkpoint.

    Args:
      directory: MODEL_DIR.
      step: of the run.
      abstract: the tree that was saved, with jax.ShapeDtypeStruct leaves.

    Returns:
      A tree of the same types with numpy arrays, and the metadata.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      DamagedError: a value of it is not what was saved.
      ValueError: it is of other settings.
    """
    content = _content(directory, step)
    kept, wanted = content["arrays"], _flat(abstract)
    lines = [
        f"{name}: {_shape(kept.get(name))}; expected {_shape(wanted.get(name))}"
        for name in sorted(kept.keys() | wanted.keys())
        if _shape(kept.get(name)) != _shape(wanted.get(name))
    ]
    if lines:
        raise ValueError(
            f"checkpoint_{step} of {directory} does not match the settings:\n  "
            + "\n  ".join(lines)
            + "\n"
            "Set PROMPT_LENGTH, the model gin file and the optimizer as in that run, or set another MODEL_DIR."
        )
    path = _folder(directory, step)
    with _reading(path):
        found = orbax_format.open_arrays(path, wanted)
        arrays = [_verified(path, name, found[name], kept[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(abstract), arrays), content["metadata"]


def read_metadata(directory: epath.PathLike, step: int) -> dict[str, Any]:
    """The metadata that `save` was given. Raises as `restore`."""
    return _content(directory, step)["metadata"]


def trained(directory: epath.PathLike, step: int) -> dict[str, leaves.Leaf]:
    """{path: leaf} of what the run trains; the optimizer's slots are not read. Raises as `restore`.

    Each is read once to be verified, and again where it is used: weights need not all be in memory.
    """
    path, kept = _folder(directory, step), _content(directory, step)["arrays"]
    names = [name for name in kept if name.startswith(TRAINED)]
    with _reading(path):
        found = orbax_format.open_arrays(path, names)
        for name, leaf in found.items():
            _verified(path, name, leaf, kept[name])
    return {name.removeprefix(TRAINED).replace(".", "/"): leaf for name, leaf in found.items()}


class _Arrays(orbax.CheckpointHandler):
    """Writes arrays one after the other, where Orbax's own handler has threads and event loops.

    There, where a disk is full, several fail at once: one is raised, and the others, which nobody
    waits for, tell their tracebacks and go on writing.
    """

    def save(self, directory: epath.Path, args: "_Save") -> None:
        """Into the folder that Orbax renames when this is done."""
        for name, leaf in args.arrays.items() if atomic.is_writer() else ():
            array = np.asarray(jax.device_get(leaf))
            zarr.write(orbax_format.kvstore(directory, name), leaves.of_array(array), array.dtype)

    def restore(self, directory: epath.Path, args: Any = None) -> None:
        """Is not asked for: see `restore` and `trained` below."""
        raise NotImplementedError


@orbax.args.register_with_handler(_Arrays, for_save=True, for_restore=True)
@dataclasses.dataclass
class _Save(orbax.args.CheckpointArgs):
    """{dotted path: array}."""

    arrays: Mapping[str, Any]


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
        half.rmtree()
    for later in steps(directory):
        if later >= step:
            aside = directory / f"{DAMAGED}checkpoint_{later}"
            aside.rmtree(missing_ok=True)
            _folder(directory, later).rename(aside)


def _flat(tree: Any) -> dict[str, Any]:
    """{dotted path: leaf}: the names of the arrays do not hang on how Orbax names nodes."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="."): leaf for k, leaf in found}


def _described(array: Any) -> dict[str, Any]:
    array = np.asarray(array)
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest}


def _shape(array: Mapping[str, Any] | jax.ShapeDtypeStruct | None) -> str:
    """As a person reads it, of what `_described` gives or of a leaf."""
    if array is None:
        return "none"
    if isinstance(array, Mapping):
        return f"{array['dtype']} {tuple(array['shape'])}"
    return f"{array.dtype} {tuple(array.shape)}"


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(directory: epath.PathLike, step: int) -> dict[str, Any]:
    """{"metadata", "arrays": {name: what `_described` gives}}, verified. Raises as `restore`."""
    path = _folder(directory, step)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; expected the state of a run. Check MODEL_DIR."
        )
    with _reading(path):
        content = json.loads((path / orbax_format.METADATA).read_text())["custom_metadata"]
        if content.pop("checksum") != _checksum(content):
            raise DamagedError(path, "its metadata does not match its checksum")
    return content


def _verified(
    path: epath.Path, name: str, leaf: leaves.Leaf, kept: Mapping[str, Any]
) -> np.ndarray:
    """The values of an array. Raises DamagedError where they are not those that were saved."""
    # Of what is to be larger nothing is allocated.
    if _shape(leaf) == _shape(kept):
        values = leaves.read(leaf)
        if _described(values) == kept:
            return values
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
