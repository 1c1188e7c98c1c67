"""The encoder. Shape letters: see `layers`."""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.models import attention, layers
from prompt_tuning.models import config as config_lib


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)). See Encoder for the modules."""

    config: config_lib.T5Config
    prompt: nn.Module | None = None
    scaling: nn.Module | None = None

    def setup(self):
        if self.config.relative_attention_per_layer:
            self.relpos_bias = layers.RelativeBias.of(self.config, bidirectional=True)
        self.pre_attention_layer_norm = layers.RMSNorm.of(self.config)
        self.attention = layers.Attention.of(self.config, self.scaling)
        self.pre_mlp_layer_norm = layers.RMSNorm.of(self.config)
        self.mlp = layers.FeedForward.of(self.config, self.scaling)
        self.dropout = layers.Dropout(self.config.dropout_rate)

    def __call__(
        self, x: Array, bias: Array, visible: Array, deterministic: bool, soft_ids: Array
    ) -> Array:
        """x: [B, S, D]; bias: [#B, H, S, S]; visible: [B, 1, #S, S]; soft_ids: [B, S]."""
        if self.prompt is not None:
            x = self.prompt(soft_ids, x)
        y = self.pre_attention_layer_norm(x)
        own = self.attention.keys_values(y)
        y = self.attention(y, own, bias, visible, deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic=deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        return nn.with_logical_constraint(x, ("batch", "length", "embed_activations"))


class Encoder(nn.Module):
    """Embeds ids, lets the prompt fill the soft tokens, and encodes. See network.Transformer."""

    config: config_lib.T5Config
    embedder: layers.Embed
    prompt: nn.Module | None = None
    layer_prompt: nn.Module | None = None
    scaling: nn.Module | None = None
    attention_pattern: Callable[[Array], Array] | None = None

    def setup(self):
        config = self.config
        if not config.relative_attention_per_layer:
            self.relpos_bias = layers.RelativeBias.of(config, bidirectional=True)
        layer = config_lib.rematerialised(EncoderLayer, config, 4)
        # In front of the first layer stands the embedding's prompt.
        prompts = [self.layer_prompt if i else None for i in range(config.num_encoder_layers)]
        self.layers = [
            layer(config, layers.fresh(prompt), layers.fresh(self.scaling)) for prompt in prompts
        ]
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
        where = layers.positions_of(ids, positions)
        visible = attention.visibility(ids > 0, segment_ids, segment_ids)
        soft_ids = ids - self.config.vocab_size
        if self.attention_pattern is not None:
            visible = visible & self.attention_pattern(soft_ids >= 0)
        biases = layers.biases(self, where, where)
        x = layers.embedded(self.embedder, self.prompt, ids)
        x = self.dropout(x, deterministic=deterministic)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed_activations"))
        for layer, bias in zip(self.layers, biases, strict=True):
            x = layer(x, bias, visible, deterministic, soft_ids)
        return self.dropout(self.encoder_norm(x), deterministic=deterministic)
