"""T5 without encoder: one stack reads inputs and targets as one sequence (`sequence`).

The parameter tree has the names and shapes of T5X's decoder-only network, all below `decoder`.
Shape letters: see `layers`; N positions of a sequence, or targets of a row.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning.methods import base
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import layers, sequence

KeysValues = tuple[Array, Array]  # [B, H, K, C] each
Past = tuple[KeysValues, ...]


class DecoderOnlyLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); attention reads cached positions too."""

    config: config_lib.T5Config

    def setup(self):
        self.pre_self_attention_layer_norm = layers.RMSNorm.of(self.config)
        self.self_attention = layers.Attention.of(self.config)
        self.pre_mlp_layer_norm = layers.RMSNorm.of(self.config)
        self.mlp = layers.FeedForward.of(self.config)
        self.dropout = layers.Dropout(self.config.dropout_rate)

    def __call__(
        self, x: Array, past: Past, bias: Array, mask: Array, deterministic: bool
    ) -> tuple[Array, KeysValues]:
        """Output of a block x [B, Q, D] after the cached positions, and its keys and values.

        bias: [#B, H, Q, K]; mask: [B, 1, Q, K]; K keys, cached ones and those of the block.
        """
        y = self.pre_self_attention_layer_norm(x)
        keys_values = self.self_attention.keys_values(y)
        joined = tuple(
            jnp.concatenate(parts, axis=2) for parts in zip(*past, keys_values, strict=True)
        )
        y = self.self_attention(y, joined, bias, mask, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        return nn.with_logical_constraint(x, ("batch", "length", "embed_activations")), keys_values


class Decoder(nn.Module):
    """Reads complete sequences, or a prefix at once and then one token after another.

    A cache holds for each layer {"cross": keys and values of the inputs, which all decodes of a
    row share, "self": those of the tokens after them}, as the searches of `decoding` expect. The last
    input is not in it: it is read again as the first token that follows, since a search begins
    with a step that has no token yet.
    """

    config: config_lib.T5Config
    inputs_bidirectional_attention: bool
    method: base.Method = base.NO_METHOD

    def setup(self):
        config = self.config
        dtype = jnp.dtype(config.dtype)
        self.token_embedder = layers.Embed(config.vocab_size, config.embed_dim, dtype)
        self.relpos_bias = layers.RelativeBias.of(config, bidirectional=False)
        layer = config_lib.rematerialised(DecoderOnlyLayer, config, 5)
        self.layers = [layer(config) for _ in range(config.num_decoder_layers)]
        self.decoder_norm = layers.RMSNorm.of(config)
        self.dropout = layers.Dropout(config.dropout_rate)
        if not config.logits_via_embedding:
            self.logits_dense = layers.Logits(config.vocab_size)

    def _read(self, row: sequence.Sequence, deterministic: bool) -> tuple[Array, list[KeysValues]]:
        """Complete sequences -> the last layer's output [B, N, D], keys and values of each layer."""
        positions = layers.positions_of(row.ids, None)
        bias = self.relpos_bias(positions, positions)
        mask = row.attention_mask(self.inputs_bidirectional_attention)
        x = layers.embed_input(self, self.token_embedder, row.ids)
        x = self.dropout(x, deterministic=deterministic)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed_activations"))
        kept = []
        for layer in self.layers:
            x, keys_values = layer(x, (), bias, mask, deterministic)
            kept.append(keys_values)
        return x, kept

    def __call__(
        self,
        inputs: Int[Array, "B S"],
        targets: Int[Array, "B L"],
        input_segment_ids: Int[Array, "B S"] | None = None,
        target_segment_ids: Int[Array, "B L"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B L V"]:
        """Logits of every target, float32; none of inputs are computed."""
        row = sequence.join(
            inputs,
            targets,
            input_segment_ids,
            target_segment_ids,
            vocab_size=self.config.vocab_size,
        )
        x, _ = self._read(row, deterministic)
        x = jnp.take_along_axis(x, row.target_logit_index[..., None], axis=1)
        return layers.logits(self, self.token_embedder, x, deterministic)

    def start_cache(self, inputs: Int[Array, "B S"], max_length: int) -> list[dict]:
        """The prefill: reads the inputs, of whatever lengths, in one pass."""
        first_target = jnp.ones((inputs.shape[0], 1), inputs.dtype)
        row = sequence.join(inputs, first_target, vocab_size=self.config.vocab_size)
        _, kept = self._read(row, True)
        shape = (inputs.shape[0], self.config.num_heads, max_length, self.config.head_dim)
        empty = jnp.zeros(shape, jnp.dtype(self.config.dtype))
        return [
            {"cross": (keys[:, :, :-1], values[:, :, :-1]), "self": (empty, empty)}
            for keys, values in kept
        ]

    def step(
        self,
        ids: Int[Array, " B"],
        index: Int[Array, ""],
        cache: list[dict],
        inputs: Int[Array, "B S"],
    ) -> tuple[Float[Array, "B V"], list[dict]]:
        """Logits after the token at `index` after the last input, and the cache with it.

        At index 0 the token is the last input, whatever `ids` are.
        """
        last, end = sequence.last_input(inputs, vocab_size=self.config.vocab_size)
        prefix, behind = jnp.arange(inputs.shape[1]), jnp.arange(cache[0]["self"][0].shape[2])
        positions = (prefix[None], end[:, None] + behind, (end + index)[:, None])
        mask = (prefix < end[:, None], behind[None] < index, jnp.ones((1, 1), bool))
        logits, blocks = self._after(
            jnp.where(index == 0, last, ids)[:, None],
            positions[-1],
            [(layer["cross"], layer["self"]) for layer in cache],
            _side_by_side(*positions),
            _side_by_side(*mask)[:, None, None],
        )
        filled = [
            {
                "cross": layer["cross"],
                "self": tuple(
                    cached.at[:, :, index].set(new[:, :, 0])
                    for cached, new in zip(layer["self"], keys_values, strict=True)
                ),
            }
            for layer, keys_values in zip(cache, blocks, strict=True)
        ]
        return logits[:, 0], filled

    def continuations(
        self, inputs: Int[Array, "B S"], targets: Int[Array, "N L"]
    ) -> Float[Array, "B N L V"]:
        """Logits of each of N targets after the inputs of each row, which are read once."""
        rows, (count, length) = inputs.shape[0], targets.shape
        last, end = sequence.last_input(inputs, vocab_size=self.config.vocab_size)
        read = jnp.broadcast_to(targets[None, :, :-1], (rows, count, length - 1))
        read = jnp.concatenate([jnp.broadcast_to(last[:, None, None], (rows, count, 1)), read], 2)
        order = jnp.tile(jnp.arange(length), count)
        of = jnp.repeat(jnp.arange(count), length)
        causal = (of[:, None] == of[None, :]) & (order[:, None] >= order[None, :])
        prefix = jnp.arange(inputs.shape[1])
        seen = (prefix < end[:, None])[:, None, None]
        size = (rows, 1, count * length)
        logits, _ = self._after(
            read.reshape(rows, -1),
            end[:, None] + order,
            [(layer["cross"],) for layer in self.start_cache(inputs, 0)],
            _side_by_side(prefix[None], end[:, None] + order),
            jnp.concatenate(
                [
                    jnp.broadcast_to(seen, (*size, prefix.shape[0])),
                    jnp.broadcast_to(causal, (*size, count * length)),
                ],
                axis=-1,
            ),
        )
        return logits.reshape(rows, count, length, -1)

    def _after(
        self,
        ids: Int[Array, "B Q"],
        positions: Int[Array, "B Q"],
        past: list[Past],
        key_positions: Int[Array, "B K"],
        mask: Bool[Array, "B 1 Q K"],
    ) -> tuple[Array, list[KeysValues]]:
        """Logits [B, Q, V] of a block after the past; K keys, those of the past and of the block."""
        x, blocks = layers.embed_input(self, self.token_embedder, ids), []
        bias = self.relpos_bias(positions, key_positions)
        for layer, before in zip(self.layers, past, strict=True):
            x, keys_values = layer(x, before, bias, mask, True)
            blocks.append(keys_values)
        return layers.logits(self, self.token_embedder, x, True), blocks


def _side_by_side(*columns: Array) -> Array:
    """[#B, K] arrays -> [B, sum of K]."""
    rows = max(x.shape[0] for x in columns)
    return jnp.concatenate([jnp.broadcast_to(x, (rows, x.shape[1])) for x in columns], axis=1)


class DecoderOnly(nn.Module):
    """The decoder under its name in checkpoints."""

    config: config_lib.T5Config
    inputs_bidirectional_attention: bool
    method: base.Method = base.NO_METHOD

    def setup(self):
        self.decoder = Decoder(self.config, self.inputs_bidirectional_attention, self.method)

    def __call__(self, *args, **settings):
        """See Decoder."""
        return self.decoder(*args, **settings)

    def start_cache(self, *args):
        """See Decoder.start_cache."""
        return self.decoder.start_cache(*args)

    def step(self, *args):
        """See Decoder.step."""
        return self.decoder.step(*args)

    def continuations(self, *args):
        """See Decoder.continuations."""
        return self.decoder.continuations(*args)
