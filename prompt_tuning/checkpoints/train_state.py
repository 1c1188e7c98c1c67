"""What a run needs to go on: the trained leaves, optimizer state and data position.

Orbax writes `checkpoint_<step>` folders of kilobytes; the frozen weights are read
again from where they came from.
"""

from typing import Any

import jax
import numpy as np
from etils import epath
from orbax import checkpoint as orbax

from prompt_tuning.checkpoints import leaves
from prompt_tuning.checkpoints import orbax as orbax_format

STATE, METADATA = "state", "metadata"
TRAINED = "trainable."


def save(
    directory: epath.PathLike, step: int, tree: Any, metadata: dict[str, Any], *, keep: int
) -> None:
    """Writes `checkpoint_<step>`, whole or not at all, and waits for it.

    Args:
      directory: MODEL_DIR.
      step: of the run.
      tree: any pytree of arrays; NamedTuples are allowed.
      metadata: JSON values.
      keep: how many of the latest checkpoints stay.
    """
    with _manager(directory, keep) as manager:
        manager.save(
            step,
            args=orbax.args.Composite(
                **{
                    STATE: orbax.args.StandardSave(tree),
                    METADATA: orbax.args.JsonSave(metadata),
                }
            ),
            force=True,
        )


def latest_step(directory: epath.PathLike) -> int | None:
    """The last step with a whole checkpoint, None where there is none."""
    if not epath.Path(directory).exists():
        return None
    with _manager(directory) as manager:
        return manager.latest_step()


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
      ValueError: it is damaged, foreign or of another shape.
    """
    as_numpy = jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), abstract)
    args = orbax.args.PyTreeRestore(item=abstract, restore_args=as_numpy)
    tree = _read(directory, step, STATE, args)
    found, wanted = (jax.tree_util.tree_leaves_with_path(each) for each in (tree, abstract))
    lines = [
        f"{jax.tree_util.keystr(path)} is {have.dtype} {have.shape}, the run's settings need "
        f"{want.dtype} {want.shape}"
        for (path, have), (_, want) in zip(found, wanted, strict=True)
        if (have.shape, have.dtype) != (want.shape, want.dtype)
    ]
    if lines:
        raise ValueError(
            f"checkpoint_{step} of {directory} does not fit:\n  " + "\n  ".join(lines) + "\n"
            "use the settings that it was trained with (PROMPT_LENGTH, the model gin file), or "
            "another MODEL_DIR"
        )
    return tree, read_metadata(directory, step)


def read_metadata(directory: epath.PathLike, step: int) -> dict[str, Any]:
    """The metadata that `save` was given. Raises as `restore`."""
    return _read(directory, step, METADATA, orbax.args.JsonRestore())


def trained(directory: epath.PathLike, step: int) -> dict[str, leaves.Leaf]:
    """{path: leaf} of what the run trains; the optimizer's slots are not read. Raises as `restore`."""
    path = epath.Path(directory) / f"checkpoint_{step}"
    names = [name for name in orbax_format.names(path) if name.startswith(TRAINED)]
    found = orbax_format.open_arrays(path, names)
    return {name.removeprefix(TRAINED).replace(".", "/"): leaf for name, leaf in found.items()}


def _read(directory: epath.PathLike, step: int, name: str, args: Any) -> Any:
    path = epath.Path(directory) / f"checkpoint_{step}"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; check MODEL_DIR")
    try:
        with _manager(directory) as manager:
            return manager.restore(step, args=orbax.args.Composite(**{name: args}))[name]
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or is not a checkpoint of this run's settings: {error}; remove it "
            "to go on from the one before, or choose another MODEL_DIR"
        ) from error


def _manager(directory: epath.PathLike, keep: int | None = None) -> orbax.CheckpointManager:
    options = orbax.CheckpointManagerOptions(
        max_to_keep=keep,
        step_prefix="checkpoint",
        enable_async_checkpointing=False,
    )
    directory = epath.Path(directory)
    if not directory.is_absolute():  # Orbax wants it; resolve() would spoil gs:// paths
        directory = directory.resolve()
    return orbax.CheckpointManager(directory, options=options)
