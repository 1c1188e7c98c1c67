"""The prompt: a table of vectors that stand for the ids beyond the vocabulary."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

PATH = "encoder/prompt/prompt"


class Prompt(nn.Module):
    """Fills the rows of soft tokens (paper section 2).

    Soft id 0 is row 0 of the table, and so on. A table may hold several prompts of `length`
    rows each, prompt i in rows i·length to (i+1)·length, so that the rows of a batch use
    different ones.

    Attributes:
      length: P, soft tokens of one prompt.
      names: of the prompts in the table, by which an example tells its own; () for one prompt.
      place: where the soft tokens stand in an input; for those who make batches.
      initializer: (rng, shape, dtype) -> array, for a table made with the model. The
        trainer replaces it by an initializer that sees the token embedding.
    """

    length: int
    names: tuple[str, ...] = ()
    place: str | tuple[int, ...] = "prefix"
    initializer: Callable = nn.initializers.uniform(0.5)

    def __post_init__(self):
        check_length(self.length)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, soft_ids: Int[Array, "B S"], x: Float[Array, "B S D"]
    ) -> Float[Array, "B S D"]:
        """Replaces x where soft_ids >= 0 by the rows they name."""
        rows = self.length * max(1, len(self.names))
        axes = ("prompt", "prompt_embed")
        table = self.param(
            "prompt",
            nn.with_logical_partitioning(self.initializer, axes),
            (rows, x.shape[-1]),
            jnp.float32,
        )
        return fill(table, soft_ids, x)


def check_length(length: int) -> None:
    """Raises ValueError where `length` is no P."""
    if not isinstance(length, int) or length < 1:
        raise ValueError(
            f"PROMPT_LENGTH is {length!r}; expected an integer of at least 1. Set PROMPT_LENGTH, "
            "or include the gin file of a method without soft tokens, such as prompts/ia3.gin."
        )


def fill(
    table: Float[Array, "R D"], soft_ids: Int[Array, "B S"], x: Float[Array, "B S D"]
) -> Float[Array, "B S D"]:
    """Replaces x where soft_ids >= 0 by the rows of the table that they name, in x's dtype.

    By NaN where they name none: another row would be wrong without a word.
    """
    vectors = jnp.take(table, jnp.maximum(soft_ids, 0), axis=0, mode="fill").astype(x.dtype)
    return jnp.where((soft_ids >= 0)[..., None], vectors, x)
