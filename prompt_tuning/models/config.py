"""Sizes and variants of a T5."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal

import jax
from flax import linen as nn

from prompt_tuning import annotations

ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "linear": lambda x: x,
}
SIZES = (
    "vocab_size",
    "embed_dim",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "num_encoder_layers",
    "num_decoder_layers",
)
# Fields that gin macros of another name set.
MACROS = {"vocab_size": "NUM_EMBEDDINGS"}
REMAT_POLICIES = {
    "none": None,
    "minimal": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": jax.checkpoint_policies.nothing_saveable,
}
# A size that gin has not set is None: T5Config names all such at once.
Size = Annotated[int, annotations.Range(1), annotations.Deferred()]
NumLayers = Annotated[int, annotations.Range(0), annotations.Deferred()]


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes and variants of a T5.

    Attributes:
      vocab_size: V, rows of the token embedding (32,128 for T5 1.1).
      embed_dim: D.
      num_heads: H.
      head_dim: size of a head.
      mlp_dim: F.
      num_encoder_layers: layers of the encoder.
      num_decoder_layers: layers of the decoder.
      mlp_activations: ("gelu", "linear") for T5 1.1, ("relu",) for T5 1.0.
      dropout_rate: probability of dropping, in training only.
      logits_via_embedding: logits against the token embedding (tied), as in T5 1.0.
      scale_decoder_outputs: whether the decoder's outputs are divided by sqrt(D) before the logits
        are computed; None: exactly where logits are tied, as in T5 1.0 and T5X.
      relative_attention_buckets: buckets of the relative bias.
      relative_attention_max_distance: distance from which all share a bucket.
      relative_attention_per_layer: a relative bias in each layer (umT5), not one a stack.
      layer_norm_epsilon: of the RMS norms.
      dtype: of activations; norms, softmax and logits are float32.
      weights_dtype: in which weights are held; "bfloat16" halves their memory. For frozen ones:
        steps of training are smaller than its rounding.
      remat_policy: what a layer computes again in the backward pass instead of keeping it
        (T5X): "none" nothing, "minimal" all but matrix products, "full" everything.
    """

    vocab_size: Size
    embed_dim: Size
    num_heads: Size
    head_dim: Size
    mlp_dim: Size
    num_encoder_layers: NumLayers
    num_decoder_layers: NumLayers
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: annotations.Fraction = 0.0
    logits_via_embedding: bool = False
    scale_decoder_outputs: bool | None = None
    relative_attention_buckets: annotations.PositiveInt = 32
    relative_attention_max_distance: annotations.PositiveInt = 128
    relative_attention_per_layer: bool = False
    layer_norm_epsilon: annotations.NonNegativeFloat = 1e-6
    dtype: annotations.Dtype = "float32"
    weights_dtype: annotations.Dtype = "float32"
    remat_policy: Literal["none", "minimal", "full"] = "none"

    def __post_init__(self):
        if unset := [
            MACROS.get(name, name.upper()) for name in SIZES if getattr(self, name) is None
        ]:
            raise ValueError(
                f"{', '.join(unset)} not set; expected the sizes of the model. Include the gin "
                "file of its size, such as models/t5_1_1_small.gin, or models/hugging_face.gin "
                "for a Hugging Face folder."
            )
        annotations.check_fields(self)
        unknown = set(self.mlp_activations) - set(ACTIVATIONS)
        if unknown:
            raise ValueError(
                f"mlp_activations has {sorted(unknown)}; expected names from "
                f"{sorted(ACTIVATIONS)}. Set mlp_activations to some of these."
            )
        if self.scale_decoder_outputs is None:
            object.__setattr__(self, "scale_decoder_outputs", self.logits_via_embedding)
        # From gin a list comes; a tuple hashes.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))


def rematerialised(layer: type[nn.Module], config: T5Config, deterministic: int) -> type:
    """A layer's class under the config's policy; `deterministic` is that argument's place."""
    policy = REMAT_POLICIES[config.remat_policy]
    if policy is None:
        return layer
    return nn.remat(layer, policy=policy, static_argnums=(deterministic,))
