"""T5: token table, encoder, decoder.

The parameter tree has the names and shapes of a T5X checkpoint. Embedding ids from `vocab_size` on
are soft tokens, which the method embeds. Shape letters: see `layers`.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.methods import base
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoder, encoder, layers


class Transformer(nn.Module):
    """T5: token table, encoder, decoder.

    Attributes:
      config: sizes.
      method: what adapts it, in hooks that the layers call.
    """

    config: config_lib.T5Config
    method: base.Method = base.NO_METHOD

    def setup(self):
        dtype = jnp.dtype(self.config.dtype)
        self.token_embedder = layers.Embed(self.config.vocab_size, self.config.embed_dim, dtype)
        self.encoder = encoder.Encoder(self.config, self.token_embedder, self.method)
        self.decoder = decoder.Decoder(self.config, self.token_embedder, self.method)

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
