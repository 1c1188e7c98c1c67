"""The frozen model, from whichever format INITIAL_CHECKPOINT_PATH points to."""

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
from prompt_tuning.checkpoints import digests, hub, leaves
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
      path: a folder in T5X's format, native or under Orbax, or in Hugging Face's; or the name of
        the latter on the hub (see `hub`).
      abstract: nested dicts of jax.ShapeDtypeStruct.
      shardings: where each goes; None for numpy arrays.

    Returns:
      Nested dicts of jax arrays (or numpy arrays), and the step where the format tells it.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the format is not known, or the weights do not fit.
    """
    checkpoint, place = _found(path)
    return checkpoint.load(place, abstract, shardings), checkpoint.read_step(place)


@contextlib.contextmanager
def opened(path: epath.PathLike) -> Iterator[dict[str, leaves.Leaf]]:
    """{path: leaf} of all that is stored of the model, a prompt and scanned layers as they are.

    Raises as `load`.
    """
    checkpoint, place = _found(path)
    if checkpoint is huggingface:
        network = model.EncoderDecoderModel(huggingface.read_config(place))
        names = params.flatten(nn.unbox(network.abstract_params()))
        with huggingface.opened(place, names) as found:
            yield found
    else:
        with checkpoint.opened(place) as found:
            yield found


def read_variable(path: epath.PathLike, name: str, dtype: str | None = None) -> np.ndarray:
    """Reads one parameter and nothing else, as it is stored or in `dtype`.

    Args:
      path: as `load`.
      name: its path; `target/` before it, as in T5X, may be there.

    Raises:
      ValueError: there is no such parameter; the nearest names are told.
    """
    wanted = name.removeprefix("/").removeprefix("target/")
    with opened(path) as found:
        if wanted not in found:
            near = difflib.get_close_matches(wanted, found, n=3, cutoff=0.3)
            raise ValueError(
                f"{path} has no parameter {wanted!r}; expected one of its parameters, such as "
                f"{', '.join(near or sorted(found)[:5])}. Correct the name."
            )
        return leaves.read(found[wanted], None if dtype is None else jnp.dtype(dtype))


def read_embedding(path: epath.PathLike) -> Float[np.ndarray, "V D"]:
    """Reads the token embedding and nothing else, as float32. Raises as `read_variable`."""
    with opened(path) as found:
        name = next((name for name in EMBEDDINGS if name in found), EMBEDDINGS[0])
    return read_variable(path, name, "float32")


def read_step(path: epath.PathLike) -> int | None:
    """The step of the checkpoint, where the format tells it. Raises as `load`."""
    checkpoint, place = _found(path)
    return checkpoint.read_step(place)


def read_config(path: epath.PathLike) -> config_lib.T5Config | None:
    """The network, where the format tells it: Hugging Face's. Raises as `load`."""
    checkpoint, place = _found(path)
    return huggingface.read_config(place) if checkpoint is huggingface else None


def tokenizer_folder(path: epath.PathLike) -> str | None:
    """The folder with the model's tokenizer files, None where its format has none. Raises as `load`."""
    checkpoint, place = _found(path)
    return os.fspath(place) if checkpoint is huggingface else None


def check_config(path: epath.PathLike, config: config_lib.T5Config) -> None:
    """Raises ValueError where the checkpoint says that it is another network than `config`.

    Only Hugging Face's format says so; of T5X's the shapes are all there is.
    """
    checkpoint, place = _found(path)
    if checkpoint is huggingface:
        huggingface.check_config(place, config)


def configure(path: epath.PathLike | None, **settings: Any) -> config_lib.T5Config:
    """The network of a Hugging Face folder, for models/hugging_face.gin.

    Args:
      path: INITIAL_CHECKPOINT_PATH.
      **settings: fields of T5Config: how it is run, and sizes, None for config.json's.

    Raises:
      ValueError: the folder has no config.json, or a size is not that of config.json.
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
    """Identity of the model by its weights; see `digests.digest_weights`. Raises as `load`."""
    checkpoint, folder = _found(path)
    names = (params.flatten(abstract),) if checkpoint is huggingface else ()
    with checkpoint.opened(folder, *names) as stored:
        return digests.digest_weights(leaves.by_layer(stored), abstract)


def _found(path: epath.PathLike) -> tuple[types.ModuleType, epath.Path]:
    """The module of a checkpoint's format, and the folder."""
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
    checkpoint = next((each for each in FORMATS if each.is_checkpoint(path)), None)
    if peft.is_adapter(path) and checkpoint in (None, huggingface):
        _check_no_adapter(path, has_model=checkpoint is not None)
    if checkpoint is not None:
        return checkpoint, path
    advice = (
        "Set INITIAL_CHECKPOINT_PATH to a checkpoint's folder; T5X's are named checkpoint_<step>"
    )
    inside = (x for x in path.glob("*") if any(each.is_checkpoint(x) for each in FORMATS))
    if names := [folder.name for folder in sorted(inside)]:
        more = f" (and {len(names) - 3} more)" if names[3:] else ""
        advice = (
            f"It contains the checkpoints {', '.join(names[:3])}{more}; set "
            "INITIAL_CHECKPOINT_PATH to one of them"
        )
    raise ValueError(
        f"{path} has neither a file `checkpoint` (T5X), a folder `state` (T5X with Orbax) nor "
        f"`config.json` (Hugging Face); expected a checkpoint in one of these formats. {advice}."
    )


def _check_no_adapter(path: epath.Path, has_model: bool) -> None:
    """Raises ValueError for an adapter in place of a model, or one that would change the model."""
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
