"""A prompt a layer: soft tokens have vectors of their own in front of each layer of the encoder.

Those in front of layer 0 are the embedding's, `module.Prompt`. The reference has both there; where
the layer's replace the embedding's, the latter get no gradient. So this module is for the layers behind.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_tuning.methods import module

REPLACE, ADD = "replace", "add"


def _uniform(rng: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    return jax.random.uniform(rng, shape, dtype, -0.5, 0.5)


class LayerPrompt(module.Prompt):
    """The vectors in front of one layer; see `module.Prompt`, of which it has the length.

    Where there is a prompt for each task (`multi_task`), all tasks share these.

    Attributes:
      combine: "replace" puts them in place of what the layer before made of the soft tokens,
        "add" adds them to it.
    """

    combine: str = REPLACE
    initializer: Callable = _uniform

    def __post_init__(self):
        if self.combine not in (REPLACE, ADD):
            raise ValueError(
                f"PER_LAYER_COMBINE is {self.combine!r}; expected {REPLACE!r} or {ADD!r}. Set it "
                "to one of them."
            )
        super().__post_init__()

    def __call__(
        self, soft_ids: Int[Array, "B S"], x: Float[Array, "B S D"]
    ) -> Float[Array, "B S D"]:
        """x with the rows of soft tokens (soft_ids >= 0) replaced or added to."""
        # Soft id i·length + p is token p of task i.
        soft_ids = jnp.where(soft_ids < 0, soft_ids, soft_ids % self.length)
        if self.combine == ADD:
            return x + super().__call__(soft_ids, jnp.zeros_like(x))
        return super().__call__(soft_ids, x)
