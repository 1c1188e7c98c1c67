"""Wayward prompts (Khashabi et al., 2022): a prompt that is trained to stay near a text's vectors."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning import annotations
from prompt_tuning.methods import base


@dataclasses.dataclass(frozen=True)
class Wayward(base.Method):
    """A penalty on the distance of a prompt from a text: gamma · mean_t ‖p_t − d_t‖².

    Attributes:
      ids: tokens of the text, one for each vector of the prompt; d_t is the embedding of token t.
      gamma: weight of the distance against the loss of a batch.
    """

    ids: Sequence[int]
    gamma: annotations.NonNegativeFloat = 0.01

    def penalty(self, params: Mapping[str, Any]) -> Float[Array, ""]:
        """The penalty of a model's parameters; its gradient is the prompt's alone.

        Raises:
          ValueError: the text and the prompt are not of the same length, or the prompt holds only
            a part of each vector.
        """
        prompt = params["encoder"]["prompt"]["prompt"]
        if len(self.ids) != len(prompt):
            raise ValueError(
                f"TASK_STRING has {len(self.ids)} tokens, but the prompt has {len(prompt)}; "
                "expected the same number. Do not set PROMPT_LENGTH: prompts/wayward.gin sets it."
            )
        embedding = jax.lax.stop_gradient(params["token_embedder"]["embedding"])
        if prompt.shape[1] != embedding.shape[1]:
            raise ValueError(
                f"the prompt has shape {prompt.shape} and the embedding {embedding.shape}; "
                "expected the same width for a wayward prompt. Set MULTI_TASK_MODE to another "
                "value than 'concatenate_features'."
            )
        text = jnp.take(embedding, jnp.array(self.ids), axis=0).astype(jnp.float32)
        return self.gamma * jnp.mean(jnp.sum((prompt - text) ** 2, axis=-1))
