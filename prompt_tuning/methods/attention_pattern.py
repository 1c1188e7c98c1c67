"""Attention patterns: which of prompt and input attend to each other in the encoder.

"input->prompt": an input token attends to the prompt.
"""

import dataclasses
from collections.abc import Collection

import jax.numpy as jnp
from jaxtyping import Array, Bool

from prompt_tuning.methods import base

INPUT_INPUT, INPUT_PROMPT = "input->input", "input->prompt"
PROMPT_INPUT, PROMPT_PROMPT = "prompt->input", "prompt->prompt"
CAUSAL = "prompt->prompt;causal"
ALL = (INPUT_INPUT, INPUT_PROMPT, PROMPT_INPUT, PROMPT_PROMPT)
KNOWN = (*ALL, CAUSAL)


@dataclasses.dataclass(frozen=True)
class AttentionPattern(base.Method):
    """Restricts the encoder's self-attention.

    Attributes:
      allowed: PROMPT_ATTENTION, names of `KNOWN`. "input->prompt" is always allowed: a prompt
        that the input does not attend to has no effect. With "prompt->prompt;causal" a soft token
        attends to those before it in its row. A soft token that may attend to nothing attends to
        itself.
    """

    allowed: Collection[str] = ALL

    def __post_init__(self):
        if isinstance(self.allowed, str):
            raise ValueError(
                f"PROMPT_ATTENTION is the string {self.allowed!r}; expected a list of names from "
                f"{KNOWN}. Set PROMPT_ATTENTION to a list."
            )
        if unknown := sorted(set(self.allowed) - set(KNOWN)):
            raise ValueError(
                f"PROMPT_ATTENTION has {unknown}; expected names from {KNOWN}. Correct "
                "PROMPT_ATTENTION."
            )
        if {PROMPT_PROMPT, CAUSAL} <= set(self.allowed):
            raise ValueError(
                f"PROMPT_ATTENTION has {PROMPT_PROMPT!r} and {CAUSAL!r}; expected only one of "
                "them. Remove the other."
            )
        # From gin a list comes; a frozen set hashes, and is not the caller's.
        object.__setattr__(self, "allowed", frozenset(self.allowed) | {INPUT_PROMPT})

    def attention_mask(self, site, mask, soft_ids):
        """Masks the pairs that are not allowed."""
        return mask & self.allowed_pairs(soft_ids >= 0)

    def allowed_pairs(self, is_soft: Bool[Array, "B S"]) -> Bool[Array, "B 1 S S"]:
        """Which key (last) each query may attend to, whatever its segment; is_soft: soft tokens."""
        query, key = is_soft[:, :, None], is_soft[:, None, :]
        position = jnp.arange(is_soft.shape[1])
        causal = position[:, None] >= position
        pairs = {
            INPUT_INPUT: ~query & ~key,
            INPUT_PROMPT: ~query & key,
            PROMPT_INPUT: query & ~key,
            PROMPT_PROMPT: query & key,
            CAUSAL: query & key & causal,
        }
        allowed = query & (position[:, None] == position)
        for name in sorted(self.allowed):
            allowed = allowed | pairs[name]
        return allowed[:, None]
