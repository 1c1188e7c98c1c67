"""IA3: factors inside the network are learned (Liu et al., 2022, section 3.3; arXiv 2205.05638)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class Scaling(nn.Module):
    """A factor for each of some activations, 1 at first.

    The network asks one for the keys and one for the values of each attention, and one for the
    hidden activations of each feed-forward part. They are small: the same on every device.
    """

    @nn.compact
    def __call__(self, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
        """Factors of a shape, (heads, head size) or (F,)."""
        return self.param("ia3_scaling", nn.initializers.ones, shape, jnp.float32)
