"""The decoder: all targets at once, or position by position. Shape letters: see `layers`."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.methods import base
from prompt_tuning.models import attention, layers
from prompt_tuning.models import config as config_lib


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, feed-forward."""

    config: config_lib.T5Config
    method: base.Method

    def setup(self):
        if self.config.relative_attention_per_layer:
            self.relpos_bias = layers.RelativeBias.of(self.config, bidirectional=False)
        self.pre_self_attention_layer_norm = layers.RMSNorm.of(self.config)
        self.self_attention = layers.Attention.of(self.config, self.method)
        self.pre_cross_attention_layer_norm = layers.RMSNorm.of(self.config)
        self.encoder_decoder_attention = layers.Attention.of(self.config, self.method)
        self.pre_mlp_layer_norm = layers.RMSNorm.of(self.config)
        self.mlp = layers.FeedForward.of(self.config, self.method)
        self.dropout = layers.Dropout(self.config.dropout_rate)

    def _after_self_attention(
        self, x: Array, y: Array, attend: Callable[[Array], Array], deterministic: bool
    ) -> Array:
        """x: input; y: output of self-attention; `attend` attends to the encoder's output."""
        y = self.method.sublayer_output(self, y, "self_attention")
        x = x + self.dropout(y, deterministic=deterministic)
        y = attend(self.pre_cross_attention_layer_norm(x))
        y = self.method.sublayer_output(self, y, "encoder_decoder_attention")
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        y = self.method.sublayer_output(self, y, "mlp")
        return x + self.dropout(y, deterministic=deterministic)

    def __call__(
        self,
        x: Array,
        encoded: Array,
        bias: Array,
        mask: Array,
        cross_mask: Array,
        deterministic: bool,
    ) -> Array:
        """x: [B, L, D]; encoded: [B, S, D]; bias: [#B, H, L, E + L]; cross_mask: [B, 1, #L, S].

        E: extra keys of the method.
        """
        x = self.method.layer_input(self, x, None)
        y = self.pre_self_attention_layer_norm(x)
        keys_values = self.method.keys_values(self, self.self_attention.keys_values(y))
        y = self.self_attention(y, keys_values, bias, mask, deterministic=deterministic)

        def attend(y: Array) -> Array:
            return self.encoder_decoder_attention.cross_attend(
                y, encoded, cross_mask, deterministic=deterministic
            )

        x = self._after_self_attention(x, y, attend, deterministic)
        return nn.with_logical_constraint(x, ("batch", "length", "embed_activations"))

    def step(
        self,
        x: Array,
        cache: dict,
        index: Array,
        bias: Array,
        mask: Array,
        cross_mask: Array,
    ) -> tuple[Array, dict]:
        """Decodes one position x [B, 1, D]; its key and value are put at `index` of the cache."""
        x = self.method.layer_input(self, x, None)
        y = self.pre_self_attention_layer_norm(x)
        keys_values = tuple(
            cached.at[:, :, index].set(new[:, :, 0])
            for cached, new in zip(cache["self"], self.self_attention.keys_values(y), strict=True)
        )
        y = self.self_attention(y, keys_values, bias, mask)

        def attend(y: Array) -> Array:
            no_bias = jnp.zeros((1, 1, 1, 1), jnp.float32)
            return self.encoder_decoder_attention(y, cache["cross"], no_bias, cross_mask)

        x = self._after_self_attention(x, y, attend, True)
        return x, {"self": keys_values, "cross": cache["cross"]}


class Decoder(nn.Module):
    """Decodes targets, all at once (teacher forcing) or position by position."""

    config: config_lib.T5Config
    embedder: layers.Embed
    method: base.Method

    def setup(self):
        config = self.config
        if not config.relative_attention_per_layer:
            self.relpos_bias = layers.RelativeBias.of(config, bidirectional=False)
        layer = config_lib.rematerialised(DecoderLayer, config, 6)
        self.layers = [layer(config, self.method) for _ in range(config.num_decoder_layers)]
        self.decoder_norm = layers.RMSNorm.of(config)
        self.dropout = layers.Dropout(config.dropout_rate)
        if not config.logits_via_embedding:
            self.logits_dense = layers.Logits(config.vocab_size)

    def __call__(
        self,
        encoded: Float[Array, "B S D"],
        encoder_ids: Int[Array, "B S"],
        input_ids: Int[Array, "B L"],
        target_ids: Int[Array, "B L"],
        encoder_segment_ids: Int[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        positions: Int[Array, "B L"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B L V"]:
        """Logits of every target position, float32.

        Targets in segments attend to the encoder's segment of the same number, or, where the
        encoder has none, to the complete input: so several targets of one input share a row.
        """
        extra = self.method.num_extra_keys
        if extra and positions is None and segment_ids is not None:
            # Each example of a packed row is as far from the extra keys as it is alone.
            positions = attention.positions_in(segment_ids)
        positions = layers.positions_of(input_ids, positions)
        before = jnp.arange(-extra, 0, dtype=positions.dtype)
        before = jnp.broadcast_to(before, (len(positions), extra))
        order = jnp.arange(input_ids.shape[1])
        causal = (order[:, None] >= order[None, :])[None, None]
        mask = attention.make_attention_mask(target_ids > 0, segment_ids, segment_ids) & causal
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (extra, 0)), constant_values=True)
        biases = layers.biases(self, positions, jnp.concatenate([before, positions], axis=1))
        cross_mask = attention.make_attention_mask(
            encoder_ids > 0,
            None if encoder_segment_ids is None else segment_ids,
            encoder_segment_ids,
        )
        x = self.dropout(self.embedder(input_ids), deterministic=deterministic)
        for layer, bias in zip(self.layers, biases, strict=True):
            x = layer(x, encoded, bias, mask, cross_mask, deterministic)
        return layers.logits(self, self.embedder, x, deterministic)

    def start_cache(self, encoded: Float[Array, "B S D"], max_length: int) -> list[dict]:
        """Makes the cache: per layer keys and values of the encoder's output, and empty ones of targets."""
        batch = encoded.shape[0]
        shape = (batch, self.config.num_heads, max_length, self.config.head_dim)
        empty = jnp.zeros(shape, jnp.dtype(self.config.dtype))
        return [
            {
                "self": self.method.keys_values(layer, (empty, empty)),
                "cross": layer.encoder_decoder_attention.keys_values(encoded),
            }
            for layer in self.layers
        ]

    def step(
        self,
        ids: Int[Array, " B"],
        index: Int[Array, ""],
        cache: list[dict],
        encoder_ids: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B V"], list[dict]]:
        """Logits after the token at position `index`, and the cache with it."""
        size, extra = cache[0]["self"][0].shape[2], self.method.num_extra_keys
        keys = jnp.arange(size, dtype=jnp.int32)[None] - extra
        biases = layers.biases(self, index[None, None], keys)
        mask = attention.make_attention_mask(keys <= index)
        cross_mask = attention.make_attention_mask(encoder_ids > 0)
        x = self.embedder(ids[:, None])
        filled = []
        for layer, bias, layer_cache in zip(self.layers, biases, cache, strict=True):
            x, layer_cache = layer.step(x, layer_cache, index + extra, bias, mask, cross_mask)
            filled.append(layer_cache)
        return layers.logits(self, self.embedder, x, True)[:, 0], filled
