"""Which tokens see which in the encoder, where prompt and input are told apart.

"input->prompt" is: an input token sees the prompt.
"""

import dataclasses
from collections.abc import Collection

import jax.numpy as jnp
from jaxtyping import Array, Bool

INPUT_INPUT, INPUT_PROMPT = "input->input", "input->prompt"
PROMPT_INPUT, PROMPT_PROMPT = "prompt->input", "prompt->prompt"
CAUSAL = "prompt->prompt;causal"
ALL = (INPUT_INPUT, INPUT_PROMPT, PROMPT_INPUT, PROMPT_PROMPT)
KNOWN = (*ALL, CAUSAL)


@dataclasses.dataclass(frozen=True)
class AttentionPattern:
    """What of the encoder's attention is allowed.

    Attributes:
      allowed: PROMPT_ATTENTION, names of `KNOWN`. "input->prompt" is always allowed: a prompt
        that the input does not see has nothing to do. With "prompt->prompt;causal" a soft token
        sees those before it in its row. A soft token that may see nothing sees itself.
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

    def __call__(self, soft: Bool[Array, "B S"]) -> Bool[Array, "B 1 S S"]:
        """Which key (last) each query may see, whatever segment it is of; `soft`: soft tokens."""
        query, key = soft[:, :, None], soft[:, None, :]
        place = jnp.arange(soft.shape[1])
        causal = place[:, None] >= place
        of_type = {
            INPUT_INPUT: ~query & ~key,
            INPUT_PROMPT: ~query & key,
            PROMPT_INPUT: query & ~key,
            PROMPT_PROMPT: query & key,
            CAUSAL: query & key & causal,
        }
        seen = query & (place[:, None] == place)
        for name in sorted(self.allowed):
            seen = seen | of_type[name]
        return seen[:, None]
