"""The frozen model, from whichever format INITIAL_CHECKPOINT_PATH points to."""

import types

from etils import epath

from prompt_tuning import params
from prompt_tuning.checkpoints import huggingface, t5x
from prompt_tuning.models import config as config_lib

FORMATS = (t5x, huggingface)
ORBAX_FILES = ("_CHECKPOINT_METADATA", "_METADATA", "commit_success.txt", "state")


def load(path: epath.PathLike, abstract: params.Tree) -> tuple[dict, int | None]:
    """Reads the weights that `abstract` lists, in its dtypes.

    Args:
      path: a folder in T5X's or Hugging Face's format.
      abstract: nested dicts of jax.ShapeDtypeStruct.

    Returns:
      Nested dicts of numpy arrays, and the step where the format tells it.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the format is not known, or the weights do not fit.
    """
    return _format(path).load(path, abstract), read_step(path)


def read_step(path: epath.PathLike) -> int | None:
    """The step of the checkpoint, where the format tells it. Raises as `load`."""
    return _format(path).read_step(path)


def check_config(path: epath.PathLike, config: config_lib.T5Config) -> None:
    """Raises ValueError where the checkpoint says that it is another network than `config`.

    Only Hugging Face's format says so; of T5X's the shapes are all there is.
    """
    if _format(path) is huggingface:
        huggingface.check_config(path, config)


def digest(path: epath.PathLike, abstract: params.Tree) -> str:
    """Identity of the model: its folder's name, step, paths, shapes and dtypes.

    The same wherever the folder lies. T5X names the model by the folder above checkpoint_<step>.
    """
    names = epath.Path(path).parts[-2:]
    name = "/".join(names) if names[-1].startswith("checkpoint_") else names[-1]
    return params.structure_digest(abstract, f"{name} {read_step(path)}")


def _format(path: epath.PathLike) -> types.ModuleType:
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check INITIAL_CHECKPOINT_PATH")
    for checkpoint in FORMATS:
        if checkpoint.is_checkpoint(path):
            return checkpoint
    if any((path / name).exists() for name in ORBAX_FILES):
        raise ValueError(
            f"{path} is an Orbax checkpoint, which is not read yet; INITIAL_CHECKPOINT_PATH can be "
            "a Hugging Face model or a T5X checkpoint written with use_orbax=False"
        )
    raise ValueError(
        f"{path} has neither a file `checkpoint` (T5X) nor `config.json` (Hugging Face); check "
        "INITIAL_CHECKPOINT_PATH: T5X's folders are named checkpoint_<step>"
    )
