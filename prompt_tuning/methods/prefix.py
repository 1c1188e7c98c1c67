"""Prefix tuning: learned keys and values in front of those of attention (Li & Liang, 2021, section 4).

Theirs (arXiv 2101.00190) stand in every attention of an encoder-decoder. PEFT puts them into a T5's
decoder, into its self-attention only, and so does this module, so that adapters are the same on both
sides. They stand at positions -P to -1 of the targets: every target sees them, and the relative bias
counts their distances.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from prompt_tuning.methods import module


class Prefix(nn.Module):
    """The keys and values of one layer, float32, P of each head. They are the same on every device.

    Attributes:
      length: P.
      initializer: (rng, shape, dtype) -> array; by default N(0, 1), as PEFT.
    """

    length: int
    initializer: Callable = nn.initializers.normal(1.0)

    def __post_init__(self):
        module.check_length(self.length)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, key: Float[Array, "B H K C"], value: Float[Array, "B H K C"]
    ) -> tuple[Float[Array, "B H P+K C"], Float[Array, "B H P+K C"]]:
        """Keys and values with the learned ones in front, the same in each row."""
        return self._in_front("key", key), self._in_front("value", value)

    def _in_front(self, name: str, x: Array) -> Array:
        rows, heads, _, size = x.shape
        learned = self.param(name, self.initializer, (self.length, heads, size), jnp.float32)
        learned_HPC = jnp.swapaxes(learned, 0, 1).astype(x.dtype)
        learned_BHPC = jnp.broadcast_to(learned_HPC, (rows, *learned_HPC.shape))
        return jnp.concatenate([learned_BHPC, x], axis=2)
