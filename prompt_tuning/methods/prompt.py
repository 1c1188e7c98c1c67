"""Prompt tuning: a table of vectors that stand for the ids beyond the vocabulary (Lester et al., 2021)."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.methods import base

PATH = "encoder/prompt/prompt"
AXES = ("prompt", "prompt_embed")


@dataclasses.dataclass(frozen=True)
class Prompt(base.Method):
    """Replaces the vectors of soft tokens by rows of a table (section 2).

    Soft id 0 is row 0 of the table, and so on. A table may hold several prompts of `length`
    rows each, prompt i in rows i·length to (i+1)·length, so that the rows of a batch use
    different ones.

    Attributes:
      length: P, soft tokens of one prompt.
      names: of the prompts in the table, by which an example chooses; () for one prompt.
      place: position of the soft tokens in an input.
    """

    length: int
    names: tuple[str, ...] = ()
    place: str | tuple[int, ...] = "prefix"

    supports_decoder_only = True
    peft_type = "PROMPT_TUNING"

    def __post_init__(self):
        check_length(self.length)

    @property
    def soft_tokens(self) -> base.SoftTokens:
        """`length` soft tokens; see `base.Method`."""
        return base.SoftTokens(self.length, self.place, names=self.names)

    def parameters(self, config, shapes):
        """P rows for each prompt."""
        table = (self.length * max(1, len(self.names)), config.embed_dim)
        return {f"{input_stack(shapes)}/prompt/prompt": prompt_parameter(table)}

    def embed_input(self, site, x, soft_ids):
        """Fills the soft tokens."""
        return fill(base.parameter(site, "prompt/prompt"), soft_ids, x)


def prompt_parameter(shape: tuple[int, int]) -> base.Parameter:
    """The table that PROMPT_INITIALIZER makes."""
    return base.Parameter(shape, nn.initializers.uniform(0.5), AXES, is_prompt=True)


def input_stack(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The stack that reads the input: the encoder where there is one."""
    has_encoder = any(path.startswith("encoder/") for path in shapes)
    return "encoder" if has_encoder else "decoder"


def check_length(length: int) -> None:
    """Raises ValueError where `length` is not a prompt length."""
    if not isinstance(length, int) or length < 1:
        raise ValueError(
            f"PROMPT_LENGTH is {length!r}; expected an integer of at least 1. Set PROMPT_LENGTH, "
            "or include the gin file of a method without soft tokens, such as prompts/ia3.gin."
        )


def fill(
    table: Float[Array, "R D"], soft_ids: Int[Array, "B S"], x: Float[Array, "B S D"]
) -> Float[Array, "B S D"]:
    """Replaces x where soft_ids >= 0 by the rows of the table that they name, in x's dtype.

    By NaN where they name none: any other row would be a silent error.
    """
    vectors = jnp.take(table, jnp.maximum(soft_ids, 0), axis=0, mode="fill").astype(x.dtype)
    return jnp.where((soft_ids >= 0)[..., None], vectors, x)
