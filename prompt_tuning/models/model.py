"""The encoder-decoder as a trainer sees it: initial parameters, loss, score, predict."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.models import decoding, losses, network

Batch = Mapping[str, Array]
Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel:
    """A T5 with its loss and its way of decoding.

    A batch holds `encoder_input_tokens` [B, S], `decoder_target_tokens` [B, L],
    `decoder_input_tokens` [B, L], `decoder_loss_weights` [B, L] and, where rows are
    packed, `{encoder,decoder}_{segment_ids,positions}`.

    Attributes:
      config: sizes of the network.
      prompt: module for the soft tokens, or None.
      z_loss: factor of log(Z)².
      label_smoothing: share of probability given to all other rows.
      loss_normalizing_factor: see `losses.normalizer`.
      decoder: how `predict` picks tokens.
    """

    config: network.T5Config
    prompt: nn.Module | None = None
    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    loss_normalizing_factor: float | str | None = None
    decoder: decoding.Decoder = dataclasses.field(default_factory=decoding.Greedy)

    @property
    def module(self) -> network.Transformer:
        """The Flax module."""
        return network.Transformer(self.config, self.prompt)

    def abstract_params(self) -> Params:
        """Shapes of all parameters, with their logical axes (flax LogicallyPartitioned)."""
        return jax.eval_shape(self._boxed_params, jax.random.key(0))

    def init(self, rng: Array) -> Params:
        """Random parameters, float32, for pre-training and tests."""
        return nn.unbox(self._boxed_params(rng))

    def _boxed_params(self, rng: Array) -> Params:
        ids = jnp.ones((1, 2), jnp.int32)
        return self.module.init(rng, ids, ids, ids)["params"]

    def logits(
        self, params: Params, batch: Batch, dropout_rng: Array | None = None
    ) -> Float[Array, "B L V"]:
        """Teacher-forced logits; dropout acts only where an rng is given."""
        return self.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            batch.get("encoder_segment_ids"),
            batch.get("decoder_segment_ids"),
            batch.get("encoder_positions"),
            batch.get("decoder_positions"),
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )

    def loss(
        self, params: Params, batch: Batch, dropout_rng: Array | None = None
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss to minimise, and sums to report.

        Returns:
          loss, and {"loss", "z_loss", "correct", "tokens"}: sums over target tokens
          (the first two not normalised).
        """
        logits = self.logits(params, batch, dropout_rng)
        targets = batch["decoder_target_tokens"]
        weights = batch["decoder_loss_weights"].astype(jnp.float32)
        losses_BL, z_losses_BL = losses.cross_entropy(
            logits, targets, label_smoothing=self.label_smoothing, z_loss=self.z_loss
        )
        total = jnp.sum(losses_BL * weights)
        sums = {
            "loss": total,
            "z_loss": jnp.sum(z_losses_BL * weights),
            "correct": jnp.sum(weights, where=jnp.argmax(logits, -1) == targets),
            "tokens": jnp.sum(weights),
        }
        return total / losses.normalizer(self.loss_normalizing_factor, targets, weights), sums

    def score(self, params: Params, batch: Batch) -> Float[Array, " B"]:
        """log p(targets | inputs) of each row, summed over its target tokens."""
        losses_BL, _ = losses.cross_entropy(
            self.logits(params, batch), batch["decoder_target_tokens"]
        )
        return -jnp.sum(losses_BL * batch["decoder_loss_weights"].astype(jnp.float32), axis=-1)

    def predict(
        self, params: Params, ids: Int[Array, "B S"], max_length: int, rng: Array | None = None
    ) -> tuple[Int[Array, "B N L"], Float[Array, "B N"]]:
        """Decodes `max_length` tokens at most.

        Returns:
          tokens and scores of the N decodes of each row, best first; after the end
          of a sequence (id 1) tokens are 0.
        """
        module, variables = self.module, {"params": params}
        encoded = module.apply(variables, ids, method=module.encode)

        def start(rows_encoded):
            return module.apply(variables, rows_encoded, max_length, method=module.start_cache)

        def step(tokens, index, cache, encoder_ids):
            return module.apply(variables, tokens, index, cache, encoder_ids, method=module.step)

        return self.decoder(start(encoded), step, ids, max_length, rng)
