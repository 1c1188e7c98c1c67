"""Adapter files, such as a prompt, in the folder of a run, each with its card."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

import prompt_tuning
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import state


def locate(
    model_dir: epath.PathLike, name: str, model: model_lib.EncoderDecoderModel
) -> epath.Path:
    """Returns the path of an adapter file: .npy for a single prompt, .npz for other adapters."""
    suffix = prompt_files.SUFFIX if _adds_one_prompt(model) else prompt_files.SUFFIX_OF_LEAVES
    return epath.Path(model_dir) / "prompts" / f"{name}{suffix}"


def save(
    model_dir: epath.PathLike,
    name: str,
    leaves: Mapping[str, np.ndarray],
    model: model_lib.EncoderDecoderModel,
    **card: Any,
) -> None:
    """Writes the adapter parameters of a model with a card; nothing if it has none.

    Args:
      model_dir: folder of the run.
      name: name of the file without suffix.
      leaves: adapter parameters, {path: values}.
      model: model of the parameters.
      **card: other entries of the card: base_model, base_model_digest, task, step, metrics.
    """
    if not leaves:
        return
    soft = state.soft_tokens(model)
    card = {
        "length": len(soft) or model.method.num_extra_keys,
        "embed_dim": model.config.embed_dim,
        "place": soft.position,
        **card,
        "created_by": f"prompt-tuning {prompt_tuning.__version__}",
    }
    path = locate(model_dir, name, model)
    if _adds_one_prompt(model):
        prompt_files.save(path, leaves[model.prompt_path], card)
    else:
        prompt_files.save_leaves(path, leaves, card)


def _adds_one_prompt(model: model_lib.EncoderDecoderModel) -> bool:
    return model.adapter_paths == {model.prompt_path}
