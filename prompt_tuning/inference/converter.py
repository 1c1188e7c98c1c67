"""Prompts and adapters from and to Hugging Face PEFT: which of both it is, the input says."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import base_model, prompt_files
from prompt_tuning.checkpoints.formats import huggingface, peft, peft_lora, peft_prefix
from prompt_tuning.data import vocabularies
from prompt_tuning.inference import exporter
from prompt_tuning.methods import attention_pattern, base, ia3, prefix
from prompt_tuning.models import model as model_lib

FILES = (prompt_files.SUFFIX, prompt_files.SUFFIX_OF_LEAVES)


def convert(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str | None,
    prompt_file: str,
    output: str,
    base_model_name: str | None = None,
    start_step: int | None = None,
) -> str:
    """`prompt-tuning convert`: makes an adapter of a prompt file, or of an adapter what is used here.

    Args:
      model: the network that it belongs to; what it adds to its base is left out.
      vocabulary: of the model; a folder that a LoRA is merged into holds it.
      checkpoint: INITIAL_CHECKPOINT_PATH, read where a LoRA is merged into it only.
      prompt_file: PROMPT_FILE, a .npy or .npz file, or an adapter's folder.
      output: OUTPUT: an adapter's folder of a file; of an adapter a .npy file (a prompt), a .npz
        file (IA3, prefix tuning), or a model's folder (LoRA).
      base_model_name: BASE_MODEL_NAME, by which PEFT is to find the base of an adapter.
      start_step: START_STEP, the step of a checkpoint that does not tell it.

    Returns:
      OUTPUT.

    Raises:
      FileExistsError: OUTPUT exists.
      FileNotFoundError: there is no PROMPT_FILE.
      ValueError: the method has no counterpart there, or it is not of this model.
    """
    if model.EMBEDDING_PATH != model_lib.EncoderDecoderModel.EMBEDDING_PATH:
        raise ValueError(
            "MODEL is decoder-only, which PEFT does not support; expected an encoder-decoder. Set "
            "the gin file of an encoder-decoder model."
        )
    if epath.Path(output).exists():
        raise FileExistsError(
            f"OUTPUT {output} exists; expected a new path. Remove it, or set another OUTPUT."
        )
    if not peft.is_adapter(prompt_file):
        prompt_files.check_file(prompt_file, "PROMPT_FILE")
        _to_adapter(model, prompt_file, output, base_model_name)
    elif (kind := peft.kind(prompt_file)) in peft.PROMPTS:
        _prompt(model, prompt_file, output)
    elif kind == peft.IA3:
        _scaling(model, prompt_file, output)
    elif kind == peft.PREFIX_TUNING:
        _prefix(model, prompt_file, output)
    else:
        step = start_step
        if checkpoint is not None and step is None:
            step = base_model.read_step(checkpoint)
        _merged(model, vocabulary, checkpoint, prompt_file, output, step)
    logging.info("Converted %s to %s.", prompt_file, output)
    return output


def _to_adapter(
    model: model_lib.EncoderDecoderModel, prompt_file: str, output: str, name: str | None
) -> None:
    _check_name(output, "", f"the adapter made from {prompt_file}")
    for part in model.method.parts:
        if isinstance(part, attention_pattern.AttentionPattern):
            raise ValueError(
                "ATTENTION_PATTERN is set, but PEFT has full attention to the prompt; expected no "
                f"pattern. Remove {part.gin_file} if the prompt was trained without it."
            )
    config, place = model.config, prompt_files.place(prompt_file)
    if epath.Path(prompt_file).suffix == prompt_files.SUFFIX_OF_LEAVES:
        _leaves_to_adapter(model, prompt_file, output, name)
        return
    prompt = prompt_files.load(prompt_file)
    _check_width(model, prompt_file, prompt)
    if place != "prefix":
        raise ValueError(
            f"PROMPT_FILE {prompt_file} has the place {place!r} in an input, by its card; expected "
            "'prefix', the only place that PEFT supports. Train it with PROMPT_PLACE='prefix'."
        )
    peft.save_prompt(
        output,
        prompt,
        base_model=name,
        num_layers=config.num_encoder_layers,
        num_heads=config.num_heads,
    )


def _leaves_to_adapter(
    model: model_lib.EncoderDecoderModel, prompt_file: str, output: str, name: str | None
) -> None:
    leaves = prompt_files.load_leaves(prompt_file)
    first = leaves.get(prefix.path_of(0, "key"))
    method = ia3.IA3() if first is None else prefix.Prefix(len(first))
    save = {peft.IA3: peft.save_scaling, peft.PREFIX_TUNING: peft_prefix.save}[method.peft_type]
    shapes, _ = _shapes(model, method)
    if lines := params_lib.mismatches(leaves, shapes):
        raise ValueError(
            f"PROMPT_FILE {prompt_file} does not match the {method.peft_type} parameters of this model:\n  "
            + "\n  ".join(sorted(lines, reverse=True)[:5])  # what is surplus first
            + "\nExpected these parameters, or a .npy file: PEFT supports prompts, IA3 and prefix tuning. Set "
            "another PROMPT_FILE, or the gin file of its base model."
        )
    save(output, leaves, base_model=name)


def _prompt(model: model_lib.EncoderDecoderModel, adapter: str, output: str) -> None:
    _check_name(output, prompt_files.SUFFIX, f"the prompt of the adapter {adapter}")
    prompt = peft.read_prompt(adapter)
    _check_width(model, adapter, prompt)
    card = {"length": len(prompt), "embed_dim": prompt.shape[1], "place": "prefix"}
    prompt_files.save(output, prompt, card | {"converted_from": adapter})


def _scaling(model: model_lib.EncoderDecoderModel, adapter: str, output: str) -> None:
    suffix = prompt_files.SUFFIX_OF_LEAVES
    _check_name(output, suffix, f"the IA3 factors of the adapter {adapter}")
    added, kernels = _shapes(model, ia3.IA3())
    sizes = [{path: leaf.shape for path, leaf in each.items()} for each in (added, kernels)]
    leaves = peft.read_scaling(adapter, *sizes)
    card = {"length": 0, "embed_dim": model.config.embed_dim, "converted_from": adapter}
    prompt_files.save_leaves(output, leaves, card)


def _prefix(model: model_lib.EncoderDecoderModel, adapter: str, output: str) -> None:
    suffix = prompt_files.SUFFIX_OF_LEAVES
    _check_name(output, suffix, f"the prefix of the adapter {adapter}")
    leaves = peft_prefix.read(adapter, model.config)
    length = len(leaves[prefix.path_of(0, "key")])
    card = {"length": length, "embed_dim": model.config.embed_dim, "converted_from": adapter}
    prompt_files.save_leaves(output, leaves, card)


def _merged(
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str | None,
    adapter: str,
    output: str,
    step: int | None,
) -> None:
    """Writes a Hugging Face folder of the base with what a LoRA changed in it."""
    _check_name(output, "", f"the model with the merged LoRA {adapter}")
    for given, setting in ((checkpoint, "INITIAL_CHECKPOINT_PATH"), (step, "START_STEP")):
        if given is None:
            raise ValueError(
                f"{setting} is not set; expected it, because PROMPT_FILE {adapter} is a LoRA "
                f"adapter, which is merged into its base model and keeps its step. Set {setting}."
            )
    huggingface.check_vocabulary(vocabulary.path)
    base_model.check_config(checkpoint, model.config)
    base = params_lib.flatten(nn.unbox(_plain(model).abstract_params()))
    wide = {path: jax.ShapeDtypeStruct(x.shape, jnp.float32) for path, x in base.items()}
    loaded, _ = base_model.load(checkpoint, params_lib.unflatten(wide))
    weights = params_lib.flatten(loaded)
    peft_lora.merge(adapter, weights)
    exporter.write(
        epath.Path(output),
        weights,
        model,
        vocabulary,
        export_format=exporter.HUGGING_FACE,
        step=step,
        dtype="float32",
    )


def _plain(model: model_lib.EncoderDecoderModel) -> model_lib.EncoderDecoderModel:
    return dataclasses.replace(model, method=base.NO_METHOD)


def _shapes(model: model_lib.EncoderDecoderModel, method: base.Method) -> tuple[dict, dict]:
    """Shapes of the parameters of a method, and of the kernels, by their paths."""
    tuned = dataclasses.replace(model, method=method)
    shapes = params_lib.flatten(nn.unbox(tuned.abstract_params()))
    added = {path: shapes[path] for path in sorted(tuned.adapter_paths)}
    return added, {path: leaf for path, leaf in shapes.items() if path.endswith("/kernel")}


def _check_width(model: model_lib.EncoderDecoderModel, path: str, prompt: np.ndarray) -> None:
    if prompt.shape[1] != model.config.embed_dim:
        raise ValueError(
            f"PROMPT_FILE {path} has vectors of width {prompt.shape[1]}; expected "
            f"{model.config.embed_dim}, the width of the model. Set the gin file of the prompt's "
            "base model."
        )


def _check_name(output: str, suffix: str, content: str) -> None:
    """Raises ValueError where OUTPUT does not end as what is written does: "" for a folder."""
    found = epath.Path(output).suffix
    if (found if found in FILES else "") != suffix:
        wanted = f"a name that ends in {suffix}" if suffix else "a new folder"
        raise ValueError(
            f"OUTPUT is {output!r}; expected {wanted} for {content}. Set OUTPUT to one."
        )
