"""Conversion of prompts and adapters to and from Hugging Face PEFT."""

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
from prompt_tuning.methods import attention_pattern, ia3, prefix
from prompt_tuning.methods import base as base_method
from prompt_tuning.models import model as model_lib

SUFFIXES = (prompt_files.SUFFIX, prompt_files.SUFFIX_OF_LEAVES)


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
    """`prompt-tuning convert`: converts a prompt file to a PEFT adapter, or an adapter to a file.

    Args:
      model: the base model.
      vocabulary: of the model, for a merged LoRA.
      checkpoint: INITIAL_CHECKPOINT_PATH, into which a LoRA is merged.
      prompt_file: PROMPT_FILE, a .npy or .npz file, or an adapter's folder.
      output: OUTPUT, the adapter's folder; for an adapter, a .npy file (prompt), a .npz file (IA3,
        prefix tuning) or a model's folder (LoRA).
      base_model_name: BASE_MODEL_NAME, the adapter's `base_model_name_or_path`.
      start_step: START_STEP, for a checkpoint without a step.

    Returns:
      OUTPUT.

    Raises:
      FileExistsError: OUTPUT exists.
      FileNotFoundError: PROMPT_FILE does not exist.
      ValueError: PEFT or this package does not support the method, or it does not fit the model.
    """
    _check_model_and_output(model, output)
    if not peft.is_adapter(prompt_file):
        prompt_files.check_file(prompt_file, "PROMPT_FILE")
        _to_adapter(model, prompt_file, output, base_model_name)
    elif (kind := peft.kind(prompt_file)) in peft.PROMPTS:
        _convert_prompt(model, prompt_file, output)
    elif kind == peft.IA3:
        _convert_ia3(model, prompt_file, output)
    elif kind == peft.PREFIX_TUNING:
        _convert_prefix(model, prompt_file, output)
    else:
        if checkpoint is not None and start_step is None:
            start_step = base_model.read_step(checkpoint)
        _merge_lora(model, vocabulary, checkpoint, prompt_file, output, start_step)
    logging.info("Converted %s to %s.", prompt_file, output)
    return output


def _check_model_and_output(model: model_lib.EncoderDecoderModel, output: str) -> None:
    if model.EMBEDDING_PATH != model_lib.EncoderDecoderModel.EMBEDDING_PATH:
        raise ValueError(
            "MODEL is decoder-only, which PEFT does not support; expected an encoder-decoder. Set "
            "the gin file of an encoder-decoder model."
        )
    if epath.Path(output).exists():
        raise FileExistsError(
            f"OUTPUT {output} exists; expected a new path. Remove it, or set another OUTPUT."
        )


def _to_adapter(
    model: model_lib.EncoderDecoderModel, prompt_file: str, output: str, name: str | None
) -> None:
    _check_suffix(output, "", f"the adapter made from {prompt_file}")
    for part in model.method.parts:
        if isinstance(part, attention_pattern.AttentionPattern):
            raise ValueError(
                "ATTENTION_PATTERN is set, but PEFT has full attention to the prompt; expected no "
                f"pattern. Remove {part.gin_file} if the prompt was trained without it."
            )
    if epath.Path(prompt_file).suffix == prompt_files.SUFFIX_OF_LEAVES:
        _leaves_to_adapter(model, prompt_file, output, name)
        return
    prompt = prompt_files.load(prompt_file)
    _check_width(model, prompt_file, prompt)
    position = prompt_files.place(prompt_file)
    if position != "prefix":
        raise ValueError(
            f"PROMPT_FILE {prompt_file} has the place {position!r} in an input, by its card; expected "
            "'prefix', the only place that PEFT supports. Train it with PROMPT_PLACE='prefix'."
        )
    peft.save_prompt(
        output,
        prompt,
        base_model=name,
        num_layers=model.config.num_encoder_layers,
        num_heads=model.config.num_heads,
    )


def _leaves_to_adapter(
    model: model_lib.EncoderDecoderModel, prompt_file: str, output: str, name: str | None
) -> None:
    leaves = prompt_files.load_leaves(prompt_file)
    keys = leaves.get(prefix.path_of(0, "key"))
    method = ia3.IA3() if keys is None else prefix.Prefix(len(keys))
    save = {peft.IA3: peft.save_scaling, peft.PREFIX_TUNING: peft_prefix.save}[method.peft_type]
    shapes, _ = _shapes(model, method)
    if lines := params_lib.mismatches(leaves, shapes):
        raise ValueError(
            f"PROMPT_FILE {prompt_file} does not match the {method.peft_type} parameters of this model:\n  "
            + "\n  ".join(sorted(lines, reverse=True)[:5])  # Surplus parameters first.
            + "\nExpected these parameters, or a .npy file: PEFT supports prompts, IA3 and prefix tuning. Set "
            "another PROMPT_FILE, or the gin file of its base model."
        )
    save(output, leaves, base_model=name)


def _convert_prompt(model: model_lib.EncoderDecoderModel, adapter: str, output: str) -> None:
    _check_suffix(output, prompt_files.SUFFIX, f"the prompt of the adapter {adapter}")
    prompt = peft.read_prompt(adapter)
    _check_width(model, adapter, prompt)
    card = {"length": len(prompt), "embed_dim": prompt.shape[1], "place": "prefix"}
    prompt_files.save(output, prompt, card | {"converted_from": adapter})


def _convert_ia3(model: model_lib.EncoderDecoderModel, adapter: str, output: str) -> None:
    _check_suffix(
        output, prompt_files.SUFFIX_OF_LEAVES, f"the IA3 factors of the adapter {adapter}"
    )
    shapes = [
        {path: leaf.shape for path, leaf in leaves.items()} for leaves in _shapes(model, ia3.IA3())
    ]
    leaves = peft.read_scaling(adapter, *shapes)
    card = {"length": 0, "embed_dim": model.config.embed_dim, "converted_from": adapter}
    prompt_files.save_leaves(output, leaves, card)


def _convert_prefix(model: model_lib.EncoderDecoderModel, adapter: str, output: str) -> None:
    _check_suffix(output, prompt_files.SUFFIX_OF_LEAVES, f"the prefix of the adapter {adapter}")
    leaves = peft_prefix.read(adapter, model.config)
    length = len(leaves[prefix.path_of(0, "key")])
    card = {"length": length, "embed_dim": model.config.embed_dim, "converted_from": adapter}
    prompt_files.save_leaves(output, leaves, card)


def _merge_lora(
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str | None,
    adapter: str,
    output: str,
    step: int | None,
) -> None:
    """Writes the base model with a merged LoRA as a Hugging Face folder."""
    _check_suffix(output, "", f"the model with the merged LoRA {adapter}")
    for value, setting in ((checkpoint, "INITIAL_CHECKPOINT_PATH"), (step, "START_STEP")):
        if value is None:
            raise ValueError(
                f"{setting} is not set; expected it, because PROMPT_FILE {adapter} is a LoRA "
                f"adapter, which is merged into its base model and keeps its step. Set {setting}."
            )
    huggingface.check_vocabulary(vocabulary.path)
    base_model.check_config(checkpoint, model.config)
    base = dataclasses.replace(model, method=base_method.NO_METHOD)
    shapes = params_lib.flatten(nn.unbox(base.abstract_params()))
    float32 = {path: jax.ShapeDtypeStruct(x.shape, jnp.float32) for path, x in shapes.items()}
    loaded, _ = base_model.load(checkpoint, params_lib.unflatten(float32))
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


def _shapes(model: model_lib.EncoderDecoderModel, method: base_method.Method) -> tuple[dict, dict]:
    """Returns {path: shape} of the method's parameters, and of all kernels."""
    tuned = dataclasses.replace(model, method=method)
    shapes = params_lib.flatten(nn.unbox(tuned.abstract_params()))
    adapter = {path: shapes[path] for path in sorted(tuned.adapter_paths)}
    return adapter, {path: leaf for path, leaf in shapes.items() if path.endswith("/kernel")}


def _check_width(model: model_lib.EncoderDecoderModel, path: str, prompt: np.ndarray) -> None:
    if prompt.shape[1] != model.config.embed_dim:
        raise ValueError(
            f"PROMPT_FILE {path} has vectors of width {prompt.shape[1]}; expected "
            f"{model.config.embed_dim}, the width of the model. Set the gin file of the prompt's "
            "base model."
        )


def _check_suffix(output: str, suffix: str, content: str) -> None:
    """Raises ValueError if OUTPUT does not end in `suffix`; the suffix of a folder is ""."""
    actual = epath.Path(output).suffix
    if (actual if actual in SUFFIXES else "") != suffix:
        expected = f"a name that ends in {suffix}" if suffix else "a new folder"
        raise ValueError(
            f"OUTPUT is {output!r}; expected {expected} for {content}. Set OUTPUT to one."
        )
