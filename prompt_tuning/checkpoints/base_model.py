"""Reads the frozen model from a checkpoint in any of the supported formats."""

import contextlib
import dataclasses
import difflib
import os
import types
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from jaxtyping import Float

from prompt_tuning import params
from prompt_tuning.checkpoints import digests, hub, lazy_arrays
from prompt_tuning.checkpoints.formats import huggingface, orbax, peft, t5x, weight_files
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoder_only_model, model

FORMATS = (t5x, orbax, huggingface)
EMBEDDINGS = tuple(
    of.EMBEDDING_PATH for of in (model.EncoderDecoderModel, decoder_only_model.DecoderOnlyModel)
)


def load(
    path: epath.PathLike, abstract: params.Tree, shardings: params.Tree | None = None
) -> tuple[dict, int | None]:
    """Reads the weights that `abstract` lists, in its dtypes, straight to their devices.

    Args:
      path: a folder in T5X's format (native or Orbax) or Hugging Face's, or the name of a model on
        the Hugging Face hub (see `hub`).
      abstract: nested dicts of jax.ShapeDtypeStruct.
      shardings: the sharding of each array; None for numpy arrays.

    Returns:
      Nested dicts of jax arrays (or numpy arrays), and the step, None if the format has none.

    Raises:
      FileNotFoundError: the folder does not exist.
      ValueError: the format is unknown, a file is damaged, or weights are missing, unexpected or of
        another shape.
    """
    checkpoint, folder = _resolve(path)
    if checkpoint is huggingface:
        weight_files.warn_of_index(folder)
    with _open(checkpoint, folder, abstract) as stored:
        tree = lazy_arrays.load(stored, abstract, str(folder), shardings)
    return tree, checkpoint.read_step(folder)


@contextlib.contextmanager
def opened(path: epath.PathLike) -> Iterator[dict[str, lazy_arrays.LazyArray]]:
    """Yields {path: LazyArray} of all stored parameters, with a prompt and scanned layers as stored.

    Raises as `load`.
    """
    checkpoint, folder = _resolve(path)
    abstract = None
    if checkpoint is huggingface:
        network = model.EncoderDecoderModel(huggingface.read_config(folder))
        abstract = nn.unbox(network.abstract_params())
    with _open(checkpoint, folder, abstract) as stored:
        yield stored


def _open(
    checkpoint: types.ModuleType, folder: epath.Path, abstract: params.Tree | None
) -> contextlib.AbstractContextManager[dict[str, lazy_arrays.LazyArray]]:
    """Opens the parameters; Hugging Face's format needs `abstract` for the parameter paths."""
    if checkpoint is huggingface:
        return huggingface.opened(folder, params.flatten(abstract))
    return checkpoint.opened(folder)


def read_variable(path: epath.PathLike, name: str, dtype: str | None = None) -> np.ndarray:
    """Reads a single parameter, as stored or in `dtype`.

    Args:
      path: as for `load`.
      name: path of the parameter; the prefix `target/` of T5X is optional.
      dtype: dtype of the result; None for the stored one.

    Raises:
      ValueError: the checkpoint has no such parameter; the message lists similar names.
    """
    name = name.removeprefix("/").removeprefix("target/")
    with opened(path) as stored:
        if name not in stored:
            similar = difflib.get_close_matches(name, stored, n=3, cutoff=0.3)
            raise ValueError(
                f"{path} has no parameter {name!r}; expected one of its parameters, such as "
                f"{', '.join(similar or sorted(stored)[:5])}. Correct the name."
            )
        return lazy_arrays.read(stored[name], None if dtype is None else jnp.dtype(dtype))


def read_embedding(path: epath.PathLike) -> Float[np.ndarray, "V D"]:
    """Reads the token embedding as float32. Raises as `read_variable`."""
    with opened(path) as stored:
        name = next((name for name in EMBEDDINGS if name in stored), EMBEDDINGS[0])
    return read_variable(path, name, "float32")


def read_step(path: epath.PathLike) -> int | None:
    """Reads the step of the checkpoint, None if the format has none. Raises as `load`."""
    checkpoint, folder = _resolve(path)
    return checkpoint.read_step(folder)


def read_config(path: epath.PathLike) -> config_lib.T5Config | None:
    """Reads the network's config from a Hugging Face folder, None for T5X. Raises as `load`."""
    checkpoint, folder = _resolve(path)
    return huggingface.read_config(folder) if checkpoint is huggingface else None


def tokenizer_folder(path: epath.PathLike) -> str | None:
    """Returns the folder of the tokenizer files, None for T5X. Raises as `load`."""
    checkpoint, folder = _resolve(path)
    return os.fspath(folder) if checkpoint is huggingface else None


def check_config(path: epath.PathLike, config: config_lib.T5Config) -> None:
    """Raises ValueError if a Hugging Face checkpoint describes another network than `config`.

    T5X checkpoints have no config; `load` compares their shapes.
    """
    checkpoint, folder = _resolve(path)
    if checkpoint is huggingface:
        huggingface.check_config(folder, config)


def configure(path: epath.PathLike | None, **settings: Any) -> config_lib.T5Config:
    """Returns the config of a Hugging Face folder, for models/hugging_face.gin.

    Args:
      path: INITIAL_CHECKPOINT_PATH.
      **settings: fields of T5Config; None for the value in config.json.

    Raises:
      ValueError: the folder has no config.json, or a size differs from config.json.
    """
    config = None if path is None else read_config(path)
    if config is None:
        raise ValueError(
            f"INITIAL_CHECKPOINT_PATH={path} has no config.json, from which "
            "models/hugging_face.gin reads the sizes; expected a Hugging Face folder. Set "
            "INITIAL_CHECKPOINT_PATH to one, or include the gin file of the model's size instead."
        )
    values = {
        name: tuple(value) if isinstance(value, list) else value  # gin gives lists
        for name, value in settings.items()
        if value is not None
    }
    lines = [
        f"{config_lib.MACROS.get(name, name.upper())}={value!r}, but config.json has "
        f"{huggingface.SIZES.get(name, name)} {getattr(config, name)!r}"
        for name, value in sorted(values.items())
        if name not in huggingface.HOW_TO_RUN and value != getattr(config, name)
    ]
    if lines:
        raise ValueError(
            f"the sizes differ from those of INITIAL_CHECKPOINT_PATH {path}:\n  "
            + "\n  ".join(lines)
            + "\n"
            "Expected the sizes in config.json. Remove these settings, or the gin file of the other model: "
            "models/hugging_face.gin reads the sizes from config.json."
        )
    return dataclasses.replace(config, **values)


def digest(path: epath.PathLike, abstract: params.Tree) -> str:
    """Returns the digest of the weights; see `digests.digest_weights`. Raises as `load`."""
    checkpoint, folder = _resolve(path)
    with _open(checkpoint, folder, abstract) as stored:
        return digests.digest_weights(lazy_arrays.split_layers(stored), abstract)


def _resolve(path: epath.PathLike) -> tuple[types.ModuleType, epath.Path]:
    """Returns the module of the checkpoint's format and its folder, downloaded if necessary."""
    name, path = path, epath.Path(path)
    if not path.exists():
        if (path.parent / f"{path.name}.index").exists():
            raise _mesh_tensorflow(path)
        if not hub.is_name(name):
            raise FileNotFoundError(
                f"{path} does not exist; expected a checkpoint folder. Set INITIAL_CHECKPOINT_PATH "
                "to one."
            )
        path = hub.folder(os.fspath(name))
    if any(path.glob("model.ckpt-*.index")):
        raise _mesh_tensorflow(path)
    checkpoint = next((format for format in FORMATS if format.is_checkpoint(path)), None)
    if peft.is_adapter(path) and checkpoint in (None, huggingface):
        _check_no_adapter(path, has_model=checkpoint is not None)
    if checkpoint is not None:
        return checkpoint, path
    raise _unknown_format(path)


def _unknown_format(path: epath.Path) -> ValueError:
    advice = (
        "Set INITIAL_CHECKPOINT_PATH to a checkpoint's folder; T5X's are named checkpoint_<step>"
    )
    inside = (x for x in path.glob("*") if any(f.is_checkpoint(x) for f in FORMATS))
    if names := [folder.name for folder in sorted(inside)]:
        more = f" (and {len(names) - 3} more)" if names[3:] else ""
        advice = (
            f"It contains the checkpoints {', '.join(names[:3])}{more}; set "
            "INITIAL_CHECKPOINT_PATH to one of them"
        )
    return ValueError(
        f"{path} has neither a file `checkpoint` (T5X), a folder `state` (T5X with Orbax) nor "
        f"`config.json` (Hugging Face); expected a checkpoint in one of these formats. {advice}."
    )


def _check_no_adapter(path: epath.Path, has_model: bool) -> None:
    """Raises ValueError if the folder has an adapter but no model, or one that modifies the model."""
    content = weight_files.read_json(path / peft.CONFIG)
    kind = content.get("peft_type")
    if has_model and kind in peft.BESIDE_MODEL:
        return
    kind, base = (weight_files.shown(x) for x in (kind, content.get("base_model_name_or_path")))
    if has_model:
        raise ValueError(
            f"{path} contains a model and a PEFT adapter of {kind}, which transformers applies to "
            "the model; expected a model only. Merge them with PEFT (merge_and_unload), or remove "
            f"{peft.CONFIG}."
        )
    raise ValueError(
        f"{path} is a PEFT adapter of {kind}, not a model; expected its base model {base}. Set "
        "INITIAL_CHECKPOINT_PATH to the base model, and PROMPT_FILE to the adapter."
    )


def _mesh_tensorflow(path: epath.Path) -> ValueError:
    return ValueError(
        f"{path} is a Mesh TensorFlow checkpoint (it has an .index file); expected T5X's or "
        "Hugging Face's format. Set INITIAL_CHECKPOINT_PATH to the same model in one of these "
        "formats; T5X checkpoints of the public models are in gs://t5-data/pretrained_models/t5x."
    )
