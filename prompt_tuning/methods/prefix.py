"""Prefix tuning: learned keys and values in front of those of attention (Li & Liang, 2021, section 4).

The paper (arXiv 2101.00190) puts them into every attention of an encoder-decoder. PEFT puts them into
the decoder's self-attention of a T5 only, and so does this method, so that adapters are the same on
both sides. They have positions -P to -1 of the targets: every target attends to them, and the relative
bias counts their distances.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.methods import base, prompt

PARTS = ("key", "value")


@dataclasses.dataclass(frozen=True)
class Prefix(base.Method):
    """P learned keys and values for each head in each layer of the decoder.

    They start from N(0, 1), as in PEFT, and are replicated on every device.

    Attributes:
      length: P.
    """

    length: int

    peft_type = "PREFIX_TUNING"

    def __post_init__(self):
        prompt.check_length(self.length)

    @property
    def num_extra_keys(self) -> int:
        """P; see `base.Method`."""
        return self.length

    def parameters(self, config, shapes):
        """Keys and values [P, H, C] of each layer."""
        shape = (self.length, config.num_heads, config.head_dim)
        return {
            path_of(i, part): base.Parameter(shape, nn.initializers.normal(1.0))
            for i in range(config.num_decoder_layers)
            for part in PARTS
        }

    def keys_values(self, site, keys_values):
        """Keys and values with the learned ones in front, the same in each row."""
        learned = (base.parameter(site, f"prefix/{part}") for part in PARTS)
        key, value = map(_prepend, learned, keys_values)
        return key, value


def path_of(layer: int, part: str) -> str:
    """Path of the learned keys or values of a layer."""
    return f"decoder/layers_{layer}/prefix/{part}"


def _prepend(learned, x):
    learned_HPC = jnp.swapaxes(learned, 0, 1).astype(x.dtype)
    learned_BHPC = jnp.broadcast_to(learned_HPC, (x.shape[0], *learned_HPC.shape))
    return jnp.concatenate([learned_BHPC, x], axis=2)
