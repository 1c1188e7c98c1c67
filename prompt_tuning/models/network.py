"""T5's encoder and decoder.

The parameter tree has the names and shapes of a T5X checkpoint. Embedding ids
from `vocab_size` on are soft tokens: the encoder leaves them to the `prompt`
module that it was built with, if any. Shape letters: see `layers`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.models import attention, layers

REMAT_POLICIES = {
    "none": None,
    "minimal": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": jax.checkpoint_policies.nothing_saveable,
}


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
      logits_via_embedding: tied logits, against the token embedding / sqrt(D) (T5 1.0).
      relative_attention_buckets: buckets of the relative bias.
      relative_attention_max_distance: distance from which all share a bucket.
      layer_norm_epsilon: of the RMS norms.
      dtype: of activations; norms, softmax and logits are float32.
      weights_dtype: in which weights are held; "bfloat16" halves their memory. For frozen ones:
        steps of training are smaller than its rounding.
      remat_policy: what a layer computes again in the backward pass instead of keeping it
        (T5X): "none" nothing, "minimal" all but matrix products, "full" everything.
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.0
    logits_via_embedding: bool = False
    relative_attention_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dtype: str = "float32"
    weights_dtype: str = "float32"
    remat_policy: str = "none"

    def __post_init__(self):
        if self.remat_policy not in REMAT_POLICIES:
            raise ValueError(
                f"REMAT_POLICY is {self.remat_policy!r}; expected one of {sorted(REMAT_POLICIES)}"
            )
        unknown = set(self.mlp_activations) - set(layers.ACTIVATIONS)
        if unknown:
            raise ValueError(
                f"unknown activation {sorted(unknown)}; known: {sorted(layers.ACTIVATIONS)}"
            )
        # From gin a list comes; a tuple hashes.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))


def _norm(config: T5Config) -> layers.RMSNorm:
    return layers.RMSNorm(config.layer_norm_epsilon, jnp.dtype(config.dtype))


def _attention(config: T5Config) -> layers.Attention:
    return layers.Attention(
        features=config.embed_dim,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        dropout_rate=config.dropout_rate,
        dtype=jnp.dtype(config.dtype),
    )


def _feed_forward(config: T5Config) -> layers.FeedForward:
    return layers.FeedForward(
        config.mlp_dim, config.mlp_activations, config.dropout_rate, jnp.dtype(config.dtype)
    )


def _dropout(config: T5Config) -> nn.Dropout:
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


def _rematerialised(layer: type[nn.Module], config: T5Config, deterministic: int) -> type:
    """The layer's class under the config's policy; `deterministic` is that argument's place."""
    policy = REMAT_POLICIES[config.remat_policy]
    if policy is None:
        return layer
    return nn.remat(layer, policy=policy, static_argnums=(deterministic,))


def _relative_bias(config: T5Config, bidirectional: bool) -> layers.RelativeBias:
    return layers.RelativeBias(
        config.num_heads,
        bidirectional,
        config.relative_attention_buckets,
        config.relative_attention_max_distance,
    )


def _positions(ids: Int[Array, "B S"], positions: Int[Array, "B S"] | None) -> Array:
    return jnp.arange(ids.shape[1], dtype=jnp.int32)[None] if positions is None else positions


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    config: T5Config

    def setup(self):
        self.pre_attention_layer_norm = _norm(self.config)
        self.attention = _attention(self.config)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _feed_forward(self.config)
        self.dropout = _dropout(self.config)

    def __call__(self, x: Array, bias: Array, visible: Array, deterministic: bool) -> Array:
        """x: [B, S, D]; bias: [#B, H, S, S]; visible: [B, 1, #S, S]."""
        y = self.pre_attention_layer_norm(x)
        own = self.attention.keys_values(y)
        y = self.attention(y, own, bias, visible, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        return nn.with_logical_constraint(x, ("batch", "length", "embed_activations"))


class Encoder(nn.Module):
    """Embeds ids, lets the prompt fill the soft tokens, and encodes."""

    config: T5Config
    embedder: layers.Embed
    prompt: nn.Module | None = None

    def setup(self):
        config = self.config
        self.relpos_bias = _relative_bias(config, bidirectional=True)
        layer = _rematerialised(EncoderLayer, config, 4)
        self.layers = [layer(config) for _ in range(config.num_encoder_layers)]
        self.encoder_norm = _norm(config)
        self.dropout = _dropout(config)

    def embed(self, ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Token vectors; rows of soft tokens (ids >= V) come from the prompt."""
        vocab_size = self.config.vocab_size
        x = self.embedder(jnp.where(ids < vocab_size, ids, 0))
        return x if self.prompt is None else self.prompt(ids - vocab_size, x)

    def __call__(
        self,
        ids: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B S"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B S D"]:
        """Encodes rows of ids; an id above 0 is real."""
        where = _positions(ids, positions)
        visible = attention.visibility(ids > 0, segment_ids, segment_ids)
        bias = self.relpos_bias(where, where)
        x = self.dropout(self.embed(ids), deterministic=deterministic)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed_activations"))
        for layer in self.layers:
            x = layer(x, bias, visible, deterministic)
        return self.dropout(self.encoder_norm(x), deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, feed-forward."""

    config: T5Config

    def setup(self):
        self.pre_self_attention_layer_norm = _norm(self.config)
        self.self_attention = _attention(self.config)
        self.pre_cross_attention_layer_norm = _norm(self.config)
        self.encoder_decoder_attention = _attention(self.config)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _feed_forward(self.config)
        self.dropout = _dropout(self.config)

    def _after_self_attention(
        self, x: Array, cross: tuple[Array, Array], cross_visible: Array, deterministic: bool
    ) -> Array:
        y = self.pre_cross_attention_layer_norm(x)
        no_bias = jnp.zeros((1, 1, 1, 1), jnp.float32)
        y = self.encoder_decoder_attention(
            y, cross, no_bias, cross_visible, deterministic=deterministic
        )
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
        """x: [B, L, D]; encoded: [B, S, D]; bias: [#B, H, L, L]; cross_visible: [B, 1, #L, S]."""
        y = self.pre_self_attention_layer_norm(x)
        own = self.self_attention.keys_values(y)
        y = self.self_attention(y, own, bias, visible, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        cross = self.encoder_decoder_attention.keys_values(encoded)
        x = self._after_self_attention(x, cross, cross_visible, deterministic)
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
        """One position x [B, 1, D] at `index`; its key and value are put into the cache."""
        y = self.pre_self_attention_layer_norm(x)
        own = tuple(
            cached.at[:, :, index].set(new[:, :, 0])
            for cached, new in zip(cache["self"], self.self_attention.keys_values(y), strict=True)
        )
        x = x + self.self_attention(y, own, bias, visible)
        x = self._after_self_attention(x, cache["cross"], cross_visible, True)
        return x, {"self": own, "cross": cache["cross"]}


class Decoder(nn.Module):
    """Decodes targets, all at once (teacher forcing) or position by position."""

    config: T5Config
    embedder: layers.Embed

    def setup(self):
        config = self.config
        self.relpos_bias = _relative_bias(config, bidirectional=False)
        layer = _rematerialised(DecoderLayer, config, 6)
        self.layers = [layer(config) for _ in range(config.num_decoder_layers)]
        self.decoder_norm = _norm(config)
        self.dropout = _dropout(config)
        if not config.logits_via_embedding:
            self.logits_dense = layers.Logits(config.vocab_size)

    def _logits(self, x: Array, deterministic: bool) -> Array:
        x = self.dropout(self.decoder_norm(x), deterministic=deterministic)
        if self.config.logits_via_embedding:
            return self.embedder.attend(x.astype(jnp.float32) / self.config.embed_dim**0.5)
        return self.logits_dense(x)

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
        where = _positions(input_ids, positions)
        order = jnp.arange(input_ids.shape[1])
        causal = (order[:, None] >= order[None, :])[None, None]
        visible = attention.visibility(target_ids > 0, segment_ids, segment_ids) & causal
        bias = self.relpos_bias(where, where)
        cross = attention.visibility(
            encoder_ids > 0,
            None if encoder_segment_ids is None else segment_ids,
            encoder_segment_ids,
        )
        x = self.dropout(self.embedder(input_ids), deterministic=deterministic)
        for layer in self.layers:
            x = layer(x, encoded, bias, visible, cross, deterministic)
        return self._logits(x, deterministic)

    def start_cache(self, encoded: Float[Array, "B S D"], max_length: int) -> list[dict]:
        """Per layer: keys and values of the encoder's output, and room for the decoder's own."""
        batch = encoded.shape[0]
        shape = (batch, self.config.num_heads, max_length, self.config.head_dim)
        empty = jnp.zeros(shape, jnp.dtype(self.config.dtype))
        return [
            {
                "self": (empty, empty),
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
        keys = jnp.arange(cache[0]["self"][0].shape[2], dtype=jnp.int32)[None]
        bias = self.relpos_bias(index[None, None], keys)
        visible = attention.visibility(keys <= index)
        cross = attention.visibility(encoder_ids > 0)
        x = self.embedder(ids[:, None])
        filled = []
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x, layer_cache = layer.step(x, layer_cache, index, bias, visible, cross)
            filled.append(layer_cache)
        return self._logits(x, True)[:, 0], filled


class Transformer(nn.Module):
    """T5: token table, encoder, decoder.

    Attributes:
      config: sizes.
      prompt: None for a plain T5, else a module called with (ids − V [B, S], x [B, S, D])
        that returns x with the rows of the soft tokens (ids − V >= 0) filled.
    """

    config: T5Config
    prompt: nn.Module | None = None

    def setup(self):
        dtype = jnp.dtype(self.config.dtype)
        self.token_embedder = layers.Embed(self.config.vocab_size, self.config.embed_dim, dtype)
        # clone(parent=None) lets the encoder adopt the module: its path is encoder/prompt.
        prompt = None if self.prompt is None else self.prompt.clone(parent=None, name=None)
        self.encoder = Encoder(self.config, self.token_embedder, prompt)
        self.decoder = Decoder(self.config, self.token_embedder)

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
