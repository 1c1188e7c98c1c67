"""T5: token table, encoder, decoder.

The parameter tree has the names and shapes of a T5X checkpoint. Embedding ids
from `vocab_size` on are soft tokens: the encoder leaves them to the `prompt`
module that it was built with, if any. Shape letters: see `layers`.
"""

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
    """

    config: config_lib.T5Config
    prompt: nn.Module | None = None

    def setup(self):
        dtype = jnp.dtype(self.config.dtype)
        self.token_embedder = layers.Embed(self.config.vocab_size, self.config.embed_dim, dtype)
        # clone(parent=None) lets the encoder adopt the module: its path is encoder/prompt.
        prompt = None if self.prompt is None else self.prompt.clone(parent=None, name=None)
        self.encoder = encoder.Encoder(self.config, self.token_embedder, prompt)
        self.decoder = decoder.Decoder(self.config, self.token_embedder)

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
