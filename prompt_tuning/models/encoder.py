"""The encoder. Shape letters: see `layers`."""

from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.methods import base
from prompt_tuning.models import attention, layers
from prompt_tuning.models import config as config_lib


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    config: config_lib.T5Config
    method: base.Method

    def setup(self):
        if self.config.relative_attention_per_layer:
            self.relpos_bias = layers.RelativeBias.of(self.config, bidirectional=True)
        self.pre_attention_layer_norm = layers.RMSNorm.of(self.config)
        self.attention = layers.Attention.of(self.config, self.method)
        self.pre_mlp_layer_norm = layers.RMSNorm.of(self.config)
        self.mlp = layers.FeedForward.of(self.config, self.method)
        self.dropout = layers.Dropout(self.config.dropout_rate)

    def __call__(
        self, x: Array, bias: Array, mask: Array, deterministic: bool, soft_ids: Array
    ) -> Array:
        """x: [B, S, D]; bias: [#B, H, S, S]; mask: [B, 1, #S, S]; soft_ids: [B, S]."""
        x = self.method.layer_input(self, x, soft_ids)
        y = self.pre_attention_layer_norm(x)
        keys_values = self.attention.keys_values(y)
        y = self.attention(y, keys_values, bias, mask, deterministic=deterministic)
        y = self.method.sublayer_output(self, y, "attention")
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        y = self.method.sublayer_output(self, y, "mlp")
        x = x + self.dropout(y, deterministic=deterministic)
        return nn.with_logical_constraint(x, ("batch", "length", "embed_activations"))


class Encoder(nn.Module):
    """Embeds ids, soft tokens by the method, and encodes them."""

    config: config_lib.T5Config
    embedder: layers.Embed
    method: base.Method

    def setup(self):
        config = self.config
        if not config.relative_attention_per_layer:
            self.relpos_bias = layers.RelativeBias.of(config, bidirectional=True)
        layer = config_lib.rematerialised(EncoderLayer, config, 4)
        self.layers = [layer(config, self.method) for _ in range(config.num_encoder_layers)]
        self.encoder_norm = layers.RMSNorm.of(config)
        self.dropout = layers.Dropout(config.dropout_rate)

    def __call__(
        self,
        ids: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B S"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B S D"]:
        """Encodes rows of ids; an id above 0 is real."""
        positions = layers.positions_of(ids, positions)
        soft_ids = ids - self.config.vocab_size
        mask = attention.make_attention_mask(ids > 0, segment_ids, segment_ids)
        mask = self.method.attention_mask(self, mask, soft_ids)
        biases = layers.biases(self, positions, positions)
        x = layers.embed_input(self, self.embedder, ids)
        x = self.dropout(x, deterministic=deterministic)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed_activations"))
        for layer, bias in zip(self.layers, biases, strict=True):
            x = layer(x, bias, mask, deterministic, soft_ids)
        return self.dropout(self.encoder_norm(x), deterministic=deterministic)
