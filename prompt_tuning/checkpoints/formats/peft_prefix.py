"""PEFT's adapters of prefix tuning: keys and values of a T5's decoder.

Facts about the format: `prompt_embeddings` [P, 2·n·J], n num_layers, J token_dim, heads · head size, is
n pairs of a key and a value. PEFT sets this row behind itself and gives four vectors of the 4·n to each
layer; it uses the first two, as keys and values of self-attention, and drops what it has for
cross-attention. So layer i has pair 2·i modulo n: each its own where n is odd; where n is even, layers i
and i + n/2 share one, and every other pair is of no use. n is the number of the encoder's layers where
it is not set, and pairs of layers that the decoder lacks are of no use either. Of a prefix that is
projected what the projection gives is stored.
"""

from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import Float

from prompt_tuning.checkpoints.formats import peft, weight_files
from prompt_tuning.methods import prefix
from prompt_tuning.models import config as config_lib


def read(path: epath.PathLike, model: config_lib.T5Config) -> dict[str, Float[np.ndarray, "P H C"]]:
    """Reads keys and values as {path of the parameter: float32 array}.

    Args:
      path: the folder.
      model: that it is to be used with.

    Raises:
      FileNotFoundError: the weights are missing.
      ValueError: it is not of such a model, or not what adapter_config.json says.
    """
    config = peft.read_config(path)
    names = "num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers"
    file = epath.Path(path) / peft.CONFIG
    length, width, heads, layers = (weight_files.whole_number(file, config, name) for name in names)
    stacks = weight_files.whole_number(file, config, "num_transformer_submodules", 2)
    size = model.head_dim
    wanted = model.num_heads, model.num_heads * size
    if (heads, width) != wanted or layers < model.num_decoder_layers:
        raise ValueError(
            f"PROMPT_FILE {path} is a prefix for {layers} layers with {heads} heads and width "
            f"{width}; expected at least {model.num_decoder_layers} layers with {model.num_heads} "
            f"heads and width {model.num_heads * size}, as the decoder has. Set the gin file of "
            "the adapter's base model."
        )
    if stacks != 2:
        raise ValueError(
            f"{path}/{peft.CONFIG} has num_transformer_submodules {stacks}; expected 2, the only "
            "value with which PEFT generates with a T5. Train the prefix with PEFT's default."
        )
    with peft.opened(path) as tensors:
        tensors.check_names({peft.TABLE})
        table = tensors.values(peft.TABLE, (length, 2 * layers * width))
    table = table.reshape(length, layers, 2, heads, size)
    return {
        prefix.path_of(i, part): table[:, 2 * i % layers, j]
        for i in range(model.num_decoder_layers)
        for j, part in enumerate(prefix.PARTS)
    }


def save(
    path: epath.PathLike,
    leaves: Mapping[str, Float[np.ndarray, "P H C"]],
    *,
    base_model: str | None,
) -> None:
    """Writes keys and values as an adapter, an odd number of layers; see `peft.save_prompt`.

    Args:
      path: the folder to make.
      leaves: {path of the parameter: array}, all of a prefix and no others.
      base_model: as of `peft.save_prompt`.
    """
    layers = len(leaves) // 2
    odd = layers + 1 - layers % 2
    length, heads, size = leaves[prefix.path_of(0, prefix.PARTS[0])].shape
    table = np.zeros((length, odd, 2, heads, size), np.float32)
    for i in range(layers):
        for j, part in enumerate(prefix.PARTS):
            table[:, 2 * i % odd, j] = leaves[prefix.path_of(i, part)]
    settings = {
        "encoder_hidden_size": heads * size,
        "init_weights": None,
        "num_attention_heads": heads,
        "num_layers": odd,
        "num_transformer_submodules": 2,
        "num_virtual_tokens": length,
        "prefix_projection": False,
        "token_dim": heads * size,
    }
    peft.save(
        path, peft.PREFIX_TUNING, base_model, settings, {peft.TABLE: table.reshape(length, -1)}
    )
