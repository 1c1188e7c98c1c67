"""The decoder: all targets at once, or position by position. Shape letters: see `layers`."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.models import attention, layers
from prompt_tuning.models import config as config_lib


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, feed-forward."""

    config: config_lib.T5Config
    scaling: nn.Module | None = None
    prefix: nn.Module | None = None

    def setup(self):
        if self.config.relative_attention_per_layer:
            self.relpos_bias = layers.RelativeBias.of(self.config, bidirectional=False)
        self.pre_self_attention_layer_norm = layers.RMSNorm.of(self.config)
        self.self_attention = layers.Attention.of(self.config, self.scaling)
        self.pre_cross_attention_layer_norm = layers.RMSNorm.of(self.config)
        self.encoder_decoder_attention = layers.Attention.of(self.config, self.scaling)
        self.pre_mlp_layer_norm = layers.RMSNorm.of(self.config)
        self.mlp = layers.FeedForward.of(self.config, self.scaling)
        self.dropout = layers.Dropout(self.config.dropout_rate)

    def with_prefix(self, keys_values: tuple[Array, Array]) -> tuple[Array, Array]:
        """Keys and values [B, H, K, C] with the prefix's in front, [B, H, P + K, C]."""
        return keys_values if self.prefix is None else self.prefix(*keys_values)

    def _after_self_attention(
        self, x: Array, attend: Callable[[Array], Array], deterministic: bool
    ) -> Array:
        """`attend` looks at the encoder's output."""
        y = attend(self.pre_cross_attention_layer_norm(x))
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        return x + self.dropout(y, deterministic=deterministic)

    def __call__(
        self,
        x: Array,
        encoded: Array,
        bias: Array,
        visible: Array,
        cross_visible: Array,
        deterministic: bool,
    ) -> Array:
        """x: [B, L, D]; encoded: [B, S, D]; bias: [#B, H, L, P + L]; cross_visible: [B, 1, #L, S]."""
        y = self.pre_self_attention_layer_norm(x)
        own = self.with_prefix(self.self_attention.keys_values(y))
        y = self.self_attention(y, own, bias, visible, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)

        def attend(y: Array) -> Array:
            return self.encoder_decoder_attention.to_source(
                y, encoded, cross_visible, deterministic=deterministic
            )

        x = self._after_self_attention(x, attend, deterministic)
        return nn.with_logical_constraint(x, ("batch", "length", "embed_activations"))

    def step(
        self,
        x: Array,
        cache: dict,
        index: Array,
        bias: Array,
        visible: Array,
        cross_visible: Array,
    ) -> tuple[Array, dict]:
        """One position x [B, 1, D]; its key and value are put at `index` of the cache."""
        y = self.pre_self_attention_layer_norm(x)
        own = tuple(
            cached.at[:, :, index].set(new[:, :, 0])
            for cached, new in zip(cache["self"], self.self_attention.keys_values(y), strict=True)
        )
        x = x + self.self_attention(y, own, bias, visible)

        def attend(y: Array) -> Array:
            no_bias = jnp.zeros((1, 1, 1, 1), jnp.float32)
            return self.encoder_decoder_attention(y, cache["cross"], no_bias, cross_visible)

        x = self._after_self_attention(x, attend, True)
        return x, {"self": own, "cross": cache["cross"]}


class Decoder(nn.Module):
    """Decodes targets, all at once (teacher forcing) or position by position."""

    config: config_lib.T5Config
    embedder: layers.Embed
    scaling: nn.Module | None = None
    prefix: nn.Module | None = None

    def setup(self):
        config = self.config
        if not config.relative_attention_per_layer:
            self.relpos_bias = layers.RelativeBias.of(config, bidirectional=False)
        layer = config_lib.rematerialised(DecoderLayer, config, 6)
        self.layers = [
            layer(config, layers.fresh(self.scaling), layers.fresh(self.prefix))
            for _ in range(config.num_decoder_layers)
        ]
        self.decoder_norm = layers.RMSNorm.of(config)
        self.dropout = layers.Dropout(config.dropout_rate)
        if not config.logits_via_embedding:
            self.logits_dense = layers.Logits(config.vocab_size)

    @property
    def prefix_length(self) -> int:
        """P of the keys and values in front of each layer's own; 0 without."""
        return 0 if self.prefix is None else self.prefix.length

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

        Targets in segments see the encoder's segment of the same number, or, where the
        encoder has none, the whole input: so several targets of one input share a row.
        """
        if self.prefix is not None and positions is None and segment_ids is not None:
            # Each example of a packed row is as far from the prefix as it is alone.
            positions = attention.positions_in(segment_ids)
        where = layers.positions_of(input_ids, positions)
        before = jnp.arange(-self.prefix_length, 0, dtype=where.dtype)
        before = jnp.broadcast_to(before, (len(where), self.prefix_length))
        order = jnp.arange(input_ids.shape[1])
        causal = (order[:, None] >= order[None, :])[None, None]
        visible = attention.visibility(target_ids > 0, segment_ids, segment_ids) & causal
        in_front = ((0, 0), (0, 0), (0, 0), (self.prefix_length, 0))
        visible = jnp.pad(visible, in_front, constant_values=True)
        biases = layers.biases(self, where, jnp.concatenate([before, where], axis=1))
        cross = attention.visibility(
            encoder_ids > 0,
            None if encoder_segment_ids is None else segment_ids,
            encoder_segment_ids,
        )
        x = self.dropout(self.embedder(input_ids), deterministic=deterministic)
        for layer, bias in zip(self.layers, biases, strict=True):
            x = layer(x, encoded, bias, visible, cross, deterministic)
        return layers.logits(self, self.embedder, x, deterministic)

    def start_cache(self, encoded: Float[Array, "B S D"], max_length: int) -> list[dict]:
        """Per layer: keys and values of the encoder's output; the prefix, and room for the decoder's own."""
        batch = encoded.shape[0]
        shape = (batch, self.config.num_heads, max_length, self.config.head_dim)
        empty = jnp.zeros(shape, jnp.dtype(self.config.dtype))
        return [
            {
                "self": layer.with_prefix((empty, empty)),
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
        size = cache[0]["self"][0].shape[2]
        keys = jnp.arange(size, dtype=jnp.int32)[None] - self.prefix_length
        biases = layers.biases(self, index[None, None], keys)
        visible = attention.visibility(keys <= index)
        cross = attention.visibility(encoder_ids > 0)
        x = self.embedder(ids[:, None])
        filled = []
        for layer, bias, layer_cache in zip(self.layers, biases, cache, strict=True):
            place = index + self.prefix_length
            x, layer_cache = layer.step(x, layer_cache, place, bias, visible, cross)
            filled.append(layer_cache)
        return layers.logits(self, self.embedder, x, True)[:, 0], filled
