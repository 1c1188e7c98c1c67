"""Names of a T5's tensors in Hugging Face's format, and names that say what a folder holds instead."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from etils import epath

from prompt_tuning.checkpoints import lazy_arrays

# Path of a parameter -> name of the tensor. [qkvo] is the first letter of query, key, value, out.
NAMES = (
    (r"token_embedder/embedding", "shared.weight"),
    (r"decoder/logits_dense/kernel", "lm_head.weight"),
    (
        r"(\w+)/relpos_bias/rel_embedding",
        r"\1.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (
        r"(\w+)/layers_(\d+)/relpos_bias/rel_embedding",
        r"\1.block.\2.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (r"(\w+)/\1_norm/scale", r"\1.final_layer_norm.weight"),
    (
        r"encoder/layers_(\d+)/attention/([qkvo])\w+/kernel",
        r"encoder.block.\1.layer.0.SelfAttention.\2.weight",
    ),
    (
        r"encoder/layers_(\d+)/mlp/(\w+)/kernel",
        r"encoder.block.\1.layer.1.DenseReluDense.\2.weight",
    ),
    (
        r"encoder/layers_(\d+)/pre_attention_layer_norm/scale",
        r"encoder.block.\1.layer.0.layer_norm.weight",
    ),
    (
        r"encoder/layers_(\d+)/pre_mlp_layer_norm/scale",
        r"encoder.block.\1.layer.1.layer_norm.weight",
    ),
    (
        r"decoder/layers_(\d+)/self_attention/([qkvo])\w+/kernel",
        r"decoder.block.\1.layer.0.SelfAttention.\2.weight",
    ),
    (
        r"decoder/layers_(\d+)/encoder_decoder_attention/([qkvo])\w+/kernel",
        r"decoder.block.\1.layer.1.EncDecAttention.\2.weight",
    ),
    (
        r"decoder/layers_(\d+)/mlp/(\w+)/kernel",
        r"decoder.block.\1.layer.2.DenseReluDense.\2.weight",
    ),
    (
        r"decoder/layers_(\d+)/pre_self_attention_layer_norm/scale",
        r"decoder.block.\1.layer.0.layer_norm.weight",
    ),
    (
        r"decoder/layers_(\d+)/pre_cross_attention_layer_norm/scale",
        r"decoder.block.\1.layer.1.layer_norm.weight",
    ),
    (
        r"decoder/layers_(\d+)/pre_mlp_layer_norm/scale",
        r"decoder.block.\1.layer.2.layer_norm.weight",
    ),
)
# The token embedding, under any of these names. An output layer that is tied is one more copy.
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
LM_HEAD = "lm_head.weight"
# In the first T5 1.0 files; no implementation ever used it.
UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
# Every T5 has it; what stands before it is a wrapper's.
FIRST_NORM = "encoder.block.0.layer.0.layer_norm.weight"
UNMERGED = r"\.(base_layer|lora_[A-Za-z_]+)\."
HEADS = r"(.*\.)?(classification_head|classifier|qa_outputs)\."


def name_of(path: str) -> str:
    """The name of a parameter in this format. Raises ValueError where it has none."""
    for pattern, template in NAMES:
        if match := re.fullmatch(pattern, path):
            return match.expand(template)
    raise ValueError(
        f"parameter {path!r} does not exist in transformers' T5; expected parameters of a T5 "
        "without adapter parameters"
    )


def check(
    folder: epath.PathLike,
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
    is_scaled: bool,
) -> None:
    """Raises ValueError where the tensors of a folder are not those of a T5 with an output layer.

    Args:
      folder: for the message.
      shapes: {name: shape} of all tensors.
      config: the content of config.json.
      is_scaled: whether logits are scaled, as in T5 1.0, whose output layer is the embedding.
    """
    name = _architecture(config)
    _check_wrapper(folder, shapes, name)
    for stack, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if not any(each.startswith(f"{other}.block.") for each in shapes):
            raise ValueError(
                f"{folder} contains {f'a {name}' if name else 'a model'} without {other} (no "
                f"{other}.block.… among {len(shapes)} tensors); expected {stack} and {other}. Use "
                "the original model, saved as T5ForConditionalGeneration."
            )
    if name.endswith("T5Model") and LM_HEAD not in shapes and not is_scaled:
        raise ValueError(
            f"{folder} contains a {name} without output layer ({LM_HEAD}); expected "
            "T5ForConditionalGeneration. Use the original model."
        )
    _check_rows(folder, shapes, config["vocab_size"])


def without_copies(
    folder: epath.PathLike, stored: Mapping[str, lazy_arrays.LazyArray], is_tied: bool
) -> dict[str, lazy_arrays.LazyArray]:
    """The tensors, the token embedding once, as shared.weight.

    Args:
      folder: for the message.
      stored: {name: LazyArray} of all tensors.
      is_tied: whether the output layer is one more copy.

    Raises:
      ValueError: copies of the embedding differ.
    """
    names = [name for name in (*EMBEDDINGS, *([LM_HEAD] if is_tied else ())) if name in stored]
    for name in names[1:]:
        if not is_copy(stored, name):
            raise ValueError(
                f"{folder}: {names[0]} and {name} differ; expected equal tensors, because a "
                f"{'tied ' * is_tied}T5 has one token embedding. Save the model again with "
                "transformers (save_pretrained), or use another copy of it."
            )
    rest = {name: leaf for name, leaf in stored.items() if name not in {*names, UNUSED}}
    return rest | ({EMBEDDINGS[0]: stored[names[0]]} if names else {})


def is_copy(stored: Mapping[str, lazy_arrays.LazyArray], name: str) -> bool:
    """Whether a tensor equals the token embedding."""
    one, other = stored[name], stored[next(each for each in EMBEDDINGS if each in stored)]
    return one.shape == other.shape and all(
        np.array_equal(one.read(box).astype(np.float32), other.read(box).astype(np.float32))
        for box in lazy_arrays.chunk_indices(one)
    )


def _architecture(config: Mapping[str, Any]) -> str:
    """The class that saved the folder, where config.json names one; else ""."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def _check_wrapper(folder: epath.PathLike, names: Collection[str], architecture: str) -> None:
    """Raises ValueError for a classifier, an adapter that is not merged, or a module around the model."""
    if adapters := sorted(name for name in names if re.search(UNMERGED, name)):
        raise ValueError(
            f"{folder} contains a model with an unmerged adapter ({adapters[0]}); expected a plain "
            "T5. Call PEFT's merge_and_unload() and save the result with save_pretrained(folder)."
        )
    if heads := sorted(name for name in names if re.match(HEADS, name)):
        raise ValueError(
            f"{folder} contains a {architecture or 'classifier'} (it has {heads[0]}); expected "
            "T5ForConditionalGeneration, which generates text. Use the model that it was "
            "fine-tuned from."
        )
    prefixes = [name.removesuffix(FIRST_NORM) for name in names if name.endswith(f".{FIRST_NORM}")]
    if FIRST_NORM not in names and prefixes:
        prefix = min(prefixes, key=len)
        raise ValueError(
            f"the tensors of {folder} have the prefix {prefix!r} of a wrapper "
            f"({prefix}{FIRST_NORM}); expected names without it. Save the wrapped model: "
            f"wrapper.{prefix}save_pretrained(folder)."
        )


def _check_rows(
    folder: epath.PathLike, shapes: Mapping[str, tuple[int, ...]], vocab_size: int
) -> None:
    rows = {
        name: shapes[name][0] for name in (*EMBEDDINGS, LM_HEAD) if len(shapes.get(name, ())) == 2
    }
    if set(rows.values()) <= {vocab_size}:
        return
    listed = ", ".join(f"{name} has {count} rows" for name, count in rows.items())
    advice = "Copy the model again"
    if len(set(rows.values())) == 1:
        advice = f"Set vocab_size to {min(rows.values())} in config.json"
    raise ValueError(
        f"{folder}: {listed}, but config.json has vocab_size {vocab_size}; expected the same "
        f"number. {advice}."
    )
