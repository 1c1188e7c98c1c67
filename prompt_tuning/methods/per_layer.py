"""Per-layer prompts (deep prompts): soft tokens have learned vectors in front of each encoder layer.

The vectors in front of layer 0 are those of `prompt.Prompt`. The reference has both there; where the
layer's replace the embedding's, the latter get no gradient. So this method acts behind layer 0.
"""

import dataclasses

import jax.numpy as jnp

from prompt_tuning.methods import base, prompt

REPLACE, ADD = "replace", "add"


@dataclasses.dataclass(frozen=True)
class LayerPrompt(base.Method):
    """Vectors of soft tokens in front of each layer of the encoder but the first.

    All tasks of a `multi_task.MultiTaskPrompt` share them.

    Attributes:
      length: P, as of the prompt.
      combine: "replace" puts them in place of the soft tokens' activations, "add" adds them.
    """

    length: int
    combine: str = REPLACE

    def __post_init__(self):
        if self.combine not in (REPLACE, ADD):
            raise ValueError(
                f"PER_LAYER_COMBINE is {self.combine!r}; expected {REPLACE!r} or {ADD!r}. Set it "
                "to one of them."
            )
        prompt.check_length(self.length)

    def parameters(self, config, shapes):
        """A table [P, D] for each layer."""
        table = (self.length, config.embed_dim)
        return {
            f"encoder/layers_{i}/prompt/prompt": base.Parameter(
                table, base.uniform(0.5), prompt.AXES
            )
            for i in range(1, config.num_encoder_layers)
        }

    def layer_input(self, site, x, soft_ids):
        """Replaces the soft tokens, or adds to them."""
        if soft_ids is None or site.name == "layers_0":
            return x
        table = base.parameter(site, "prompt/prompt")
        # Soft id i·length + p is token p of task i.
        soft_ids = jnp.where(soft_ids < 0, soft_ids, soft_ids % self.length)
        if self.combine == ADD:
            return x + prompt.fill(table, soft_ids, jnp.zeros_like(x))
        return prompt.fill(table, soft_ids, x)
