"""Export of models, from a checkpoint or from a run that trained weights."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import atomic, base_model, lazy_arrays, train_state
from prompt_tuning.checkpoints.formats import huggingface, t5x
from prompt_tuning.data import vocabularies
from prompt_tuning.distributed import partitioning
from prompt_tuning.models import decoder_only_model
from prompt_tuning.models import model as model_lib

T5X, HUGGING_FACE = "t5x", "huggingface"
NAMES = {T5X: "checkpoint", HUGGING_FACE: "model"}
DTYPES = ("float32", "bfloat16")
Shapes = Mapping[str, jax.ShapeDtypeStruct]


def export(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str | None,
    output_dir: str,
    model_dir: str | None = None,
    export_format: str = T5X,
    dtype: str = "float32",
    start_step: int | None = None,
) -> str:
    """`prompt-tuning export`: writes a model without its adapter; returns the folder.

    Args:
      model: the network.
      vocabulary: of the model; a Hugging Face folder holds it.
      checkpoint: INITIAL_CHECKPOINT_PATH, in any format; None if the run trained all weights.
      output_dir: EXPORT_DIR.
      model_dir: MODEL_DIR of a run, whose trained weights replace the checkpoint's; or None.
      export_format: EXPORT_FORMAT, "t5x" (native) or "huggingface".
      dtype: EXPORT_DTYPE, "float32" or "bfloat16".
      start_step: START_STEP, for a checkpoint without a step.

    Raises:
      FileExistsError: the folder exists.
      ValueError: unknown format or dtype, or the run, checkpoint and model do not match.
    """
    _check(export_format, dtype, vocabulary, model)
    shapes = _base_shapes(model, dtype)
    if checkpoint is not None:
        base_model.check_config(checkpoint, model.config)
    trained = {}
    if model_dir is not None:
        start_step, trained = _open_trained(model_dir, shapes, checkpoint)
    elif checkpoint is not None and start_step is None:
        start_step = base_model.read_step(checkpoint)
    step = _check_source(checkpoint, start_step, is_complete=shapes.keys() == trained.keys())
    folder = epath.Path(output_dir) / f"{NAMES[export_format]}_{step}"
    if atomic.is_writer():
        _make_parent(folder)
        settings = {"export_format": export_format, "step": step, "dtype": dtype}
        write(folder, _read_weights(shapes, trained, checkpoint), model, vocabulary, **settings)
    atomic.wait_for_writer(f"exported {folder}")
    logging.info("Exported the model to %s.", folder)
    return str(folder)


def _base_shapes(model: model_lib.EncoderDecoderModel, dtype: str) -> dict[str, Any]:
    """Returns {path: shape} of the model without its adapter parameters."""
    shapes = params_lib.flatten(nn.unbox(model.abstract_params()))
    return {
        path: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
        for path, x in shapes.items()
        if path not in model.adapter_paths
    }


def _check_source(checkpoint: str | None, step: int | None, *, is_complete: bool) -> int:
    """Returns the step. Raises ValueError if weights are missing, or the step is unknown."""
    if checkpoint is None and not is_complete:
        raise ValueError(
            "there is no model to export: INITIAL_CHECKPOINT_PATH is not set, and MODEL_DIR is "
            "not set to a run that trained all weights; expected one of them. Set "
            "INITIAL_CHECKPOINT_PATH."
        )
    if step is None:
        raise ValueError(
            f"INITIAL_CHECKPOINT_PATH {checkpoint} does not contain its step, which is part of the "
            "exported folder's name; expected START_STEP. Set it to the pre-training steps of the "
            "model."
        )
    return step


def write(
    folder: epath.PathLike,
    weights: Mapping[str, Any],
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    *,
    export_format: str,
    step: int,
    dtype: str,
) -> None:
    """Writes {path: array} as a model of a format, atomically.

    T5X scales logits if and only if they are tied. For T5X, other networks get an output layer with
    equal logits.

    Raises:
      FileExistsError: the folder exists.
      ValueError: the format does not support the network or its vocabulary.
    """
    if export_format == T5X:
        weights = _with_output_layer(weights, model)
        stored = {
            path: lazy_arrays.from_numpy(np.asarray(array)) for path, array in weights.items()
        }
        t5x.save(folder, stored, step=step, dtype=dtype)
    else:
        huggingface.save(
            folder,
            params_lib.unflatten(weights),
            model.config,
            vocabulary_file=vocabulary.path,
            extra_ids=vocabulary.extra_ids,
            step=step,
            dtype=dtype,
        )


def _with_output_layer(
    weights: Mapping[str, Any], model: model_lib.EncoderDecoderModel
) -> Mapping[str, Any]:
    """Returns the weights, with a separate output layer if T5X scales logits differently."""
    config, path = model.config, "decoder/logits_dense/kernel"
    if config.scale_decoder_outputs == config.logits_via_embedding:
        return weights
    if config.logits_via_embedding:
        return {**weights, path: np.asarray(weights[model.EMBEDDING_PATH]).T}
    kernel = np.asarray(weights[path])
    scaled = kernel.astype(np.float32) / np.sqrt(np.float32(config.embed_dim))
    return {**weights, path: scaled.astype(kernel.dtype)}


def _make_parent(folder: epath.Path) -> None:
    """Makes the parent of a new folder. Raises OSError if the folder exists or cannot be written."""
    if folder.exists():
        raise FileExistsError(
            f"{folder} exists; expected a new folder. Remove it, or set another EXPORT_DIR."
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot write to EXPORT_DIR {folder.parent}: {error}. Expected a writable folder. Set "
            "EXPORT_DIR to one."
        ) from error


def _check(
    export_format: str,
    dtype: str,
    vocabulary: vocabularies.Vocabulary,
    model: model_lib.EncoderDecoderModel,
) -> None:
    if export_format not in NAMES:
        raise ValueError(
            f"EXPORT_FORMAT is {export_format!r}; expected one of {sorted(NAMES)}. Set "
            "EXPORT_FORMAT to one of them."
        )
    if dtype not in DTYPES:
        raise ValueError(
            f"EXPORT_DTYPE is {dtype!r}; expected one of {list(DTYPES)}. Set EXPORT_DTYPE to one "
            "of them."
        )
    if export_format == HUGGING_FACE:
        huggingface.check_vocabulary(vocabulary.path)
        if "encoder" not in model.abstract_params():
            raise ValueError(
                f"EXPORT_FORMAT is {HUGGING_FACE!r}, which does not support a decoder-only T5; "
                f"expected {T5X!r}. Set EXPORT_FORMAT={T5X!r}."
            )


def _open_trained(
    model_dir: str, shapes: Shapes, checkpoint: str | None
) -> tuple[int, dict[str, lazy_arrays.LazyArray]]:
    """Returns the step and the trained weights of a run's last state, without its adapter."""
    step = train_state.latest_step(model_dir)
    if step is None:
        raise ValueError(
            f"MODEL_DIR {model_dir} has no checkpoint_<step>; expected the folder of a run. "
            "Correct MODEL_DIR."
        )
    trained = train_state.open_trained(model_dir, step)
    weights = {path: leaf for path, leaf in trained.items() if path in shapes}
    if adapter := sorted(trained.keys() - weights.keys()):
        logging.info(
            "The export does not include %s of the run; these adapter parameters are in "
            "%s/prompts.",
            ", ".join(adapter),
            model_dir,
        )
    digest = train_state.read_metadata(model_dir, step)["digest"]
    if weights.keys() != shapes.keys() and digest != _digest(trained, shapes, checkpoint):
        raise ValueError(
            f"the run in MODEL_DIR {model_dir} was trained on another base model than "
            f"INITIAL_CHECKPOINT_PATH {checkpoint}; expected the same. Set INITIAL_CHECKPOINT_PATH "
            "and the model's gin file of that run."
        )
    for path, leaf in weights.items():
        if leaf.shape != shapes[path].shape:
            raise ValueError(
                f"{path} of the run in MODEL_DIR {model_dir} has shape {leaf.shape}; expected "
                f"{shapes[path].shape}, the shape in the model. Set the model's gin file of that run."
            )
    return step, weights


def _digest(
    trained: Mapping[str, lazy_arrays.LazyArray], shapes: Shapes, checkpoint: str | None
) -> str | None:
    """Returns the digest of a run that trained these paths on a checkpoint; see `Run.digest`."""
    if checkpoint is None:
        return None
    base = base_model.digest(checkpoint, params_lib.unflatten(shapes))
    return params_lib.structure_digest(params_lib.unflatten(trained), base)


def _read_weights(
    shapes: Shapes, trained: Mapping[str, lazy_arrays.LazyArray], checkpoint: str | None
) -> dict[str, Any]:
    """Returns {path: array}: the run's trained weights, and other weights of the checkpoint."""
    weights: dict[str, np.ndarray] = {}
    if shapes.keys() - trained.keys():
        weights = params_lib.flatten(base_model.load(checkpoint, params_lib.unflatten(shapes))[0])
    return weights | {
        path: lazy_arrays.read(leaf, shapes[path].dtype) for path, leaf in trained.items()
    }


def export_run(
    model_dir: epath.Path,
    step: int,
    params: Mapping[str, Any],
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
) -> str:
    """Exports trained base weights to MODEL_DIR/model_<step>, and returns the folder.

    The format is that of Hugging Face, or of T5X if transformers has no such model. All processes
    gather the weights; the first one writes them.

    Raises:
      ValueError: the folder exists with other weights.
    """
    target, export_format = model_dir / f"model_{step}", HUGGING_FACE
    flat = params_lib.flatten(partitioning.to_host(params))
    base = {path: x for path, x in flat.items() if path not in model.adapter_paths}
    if isinstance(model, decoder_only_model.DecoderOnlyModel):
        export_format, target = T5X, target / f"checkpoint_{step}"
    if atomic.is_writer() and target.exists():
        _check_same_weights(target, base, step)
    elif atomic.is_writer():
        write(
            target, base, model, vocabulary, export_format=export_format, step=step, dtype="float32"
        )
    atomic.wait_for_writer(f"export {target}")
    return str(target)


def _check_same_weights(target: epath.Path, weights: Mapping[str, np.ndarray], step: int) -> None:
    """Raises ValueError if the existing folder has other weights than the run."""
    shapes = {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in weights.items()}
    exported = params_lib.flatten(base_model.load(target, params_lib.unflatten(shapes))[0])
    if any(not np.array_equal(exported[path], x) for path, x in weights.items()):
        raise ValueError(
            f"{target} exists with other weights than the run at step {step}; expected a new "
            "folder, or the export of this run. Remove it and start the same command again."
        )
