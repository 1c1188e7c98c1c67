"""T5: token table, encoder, decoder.

The parameter tree has the names and shapes of a T5X checkpoint. Embedding ids
from `vocab_size` on are soft tokens: the encoder leaves them to the `prompt`
module that it was built with, if any. Shape letters: see `layers`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoder, encoder, layers


class Transformer(nn.Module):
    """T5: token table, encoder, decoder.

    Attributes:
      config: sizes.
      prompt: None for a plain T5, else a module called with (ids − V [B, S], x [B, S, D])
        that returns x with the rows of the soft tokens (ids − V >= 0) filled.
      layer_prompt: the same in front of each layer of the encoder but the first.
      scaling: a module called with a shape that returns factors of it, for the keys and values
        of each attention (heads, head size) and what each feed-forward part has within (F,).
      prefix: a module called with keys and values [B, H, K, C] that returns them with its `length`
        in front, for the self-attention of each layer of the decoder.
      attention_pattern: which soft tokens (true in [B, S]) and others see each other in the
        encoder: [B, 1, S, S].
    """

    config: config_lib.T5Config
    prompt: nn.Module | None = None
    layer_prompt: nn.Module | None = None
    scaling: nn.Module | None = None
    attention_pattern: Callable[[Array], Array] | None = None
    prefix: nn.Module | None = None

    def setup(self):
        dtype = jnp.dtype(self.config.dtype)
        self.token_embedder = layers.Embed(self.config.vocab_size, self.config.embed_dim, dtype)
        # Fresh modules: the encoder adopts them, so that the prompt's path is encoder/prompt.
        self.encoder = encoder.Encoder(
            self.config,
            self.token_embedder,
            layers.fresh(self.prompt),
            layers.fresh(self.layer_prompt),
            layers.fresh(self.scaling),
            self.attention_pattern,
        )
        self.decoder = decoder.Decoder(
            self.config,
            self.token_embedder,
            layers.fresh(self.scaling),
            layers.fresh(self.prefix),
        )

    def encode(self, ids, segment_ids=None, positions=None, *, deterministic=True):
        """Ids [B, S] -> [B, S, D]."""
        return self.encoder(ids, segment_ids, positions, deterministic=deterministic)

    def start_cache(self, encoded, max_length):
        """See Decoder.start_cache."""
        return self.decoder.start_cache(encoded, max_length)

    def step(self, ids, index, cache, encoder_ids):
        """See Decoder.step."""
        return self.decoder.step(ids, index, cache, encoder_ids)

    def __call__(
        self,
        encoder_input_tokens: Int[Array, "B S"],
        decoder_input_tokens: Int[Array, "B L"],
        decoder_target_tokens: Int[Array, "B L"],
        encoder_segment_ids: Int[Array, "B S"] | None = None,
        decoder_segment_ids: Int[Array, "B L"] | None = None,
        encoder_positions: Int[Array, "B S"] | None = None,
        decoder_positions: Int[Array, "B L"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B L V"]:
        """Logits of the targets, float32."""
        encoded = self.encode(
            encoder_input_tokens,
            encoder_segment_ids,
            encoder_positions,
            deterministic=deterministic,
        )
        return self.decoder(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            deterministic=deterministic,
        )
