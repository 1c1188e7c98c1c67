"""The encoder-decoder as a trainer sees it: initial parameters, loss, score, predict."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning import annotations
from prompt_tuning import params as params_lib
from prompt_tuning.methods import base
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoding, label_losses, losses, network

Batch = Mapping[str, Array]
Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class EncoderDecoderModel:
    """A T5 with its loss and its way of decoding.

    A batch holds `encoder_input_tokens` [B, S], `decoder_target_tokens` [B, L],
    `decoder_input_tokens` [B, L], `decoder_loss_weights` [B, L] and, where rows are
    packed, `{encoder,decoder}_segment_ids`; `{encoder,decoder}_positions` where tokens
    of a segment are not consecutive.

    Attributes:
      config: sizes of the network.
      method: what adapts the network; by default nothing.
      z_loss: factor of log(Z)².
      label_smoothing: share of probability given to all other rows.
      loss_normalizing_factor: see `losses.normalizer`.
      decoder: how `predict` picks tokens; a LabelRanking is for `rank_labels`.
      label_loss: in place of the loss of tokens, or None.
    """

    config: config_lib.T5Config
    method: base.Method = base.NO_METHOD
    z_loss: annotations.NonNegativeFloat = 1e-4
    label_smoothing: annotations.Fraction = 0.0
    loss_normalizing_factor: annotations.PositiveFloat | losses.Normalizer | None = None
    decoder: decoding.Decoder | decoding.LabelRanking = dataclasses.field(
        default_factory=decoding.Greedy
    )
    label_loss: label_losses.LabelLoss | None = None

    EMBEDDING_PATH: ClassVar[str] = "token_embedder/embedding"

    @property
    def module(self) -> network.Transformer:
        """The Flax module."""
        return network.Transformer(self.config, self.method)

    @functools.cached_property
    def adapter_parameters(self) -> dict[str, base.Parameter]:
        """The parameters that the method adds to a base checkpoint's, by their paths."""
        shapes = {path: jax.tree.leaves(box)[0].shape for path, box in self._abstract_base.items()}
        return self.method.parameters(self.config, shapes)

    @property
    def adapter_paths(self) -> frozenset[str]:
        """Paths of the parameters that the method adds to a base checkpoint's."""
        return frozenset(self.adapter_parameters)

    @property
    def prompt_path(self) -> str | None:
        """Path of the table that PROMPT_INITIALIZER makes; None where the method has none."""
        added = self.adapter_parameters.items()
        return next((path for path, parameter in added if parameter.is_prompt), None)

    def abstract_params(self) -> Params:
        """Shapes of all parameters, with their logical axes (flax LogicallyPartitioned).

        Those of a base checkpoint have `config.weights_dtype`, those of the method float32.
        """
        dtype = jnp.dtype(self.config.weights_dtype)
        cast = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, dtype))
        adapter = jax.eval_shape(self._init_adapter, jax.random.key(0))
        paths = {path: cast(box) for path, box in self._abstract_base.items()}
        return params_lib.unflatten(paths | params_lib.flatten(adapter))

    @functools.cached_property
    def _abstract_base(self) -> dict[str, Any]:
        return params_lib.flatten(jax.eval_shape(self._init_base, jax.random.key(0)))

    def init(self, rng: Array) -> Params:
        """Random parameters, float32, for pre-training and tests."""
        return nn.unbox(params_lib.merge(self._init_base(rng), self._init_adapter(rng)))

    def init_adapter(self, rng: Array) -> Params:
        """The method's parameters as its initializers make them: those of `init`."""
        return nn.unbox(self._init_adapter(rng))

    def _init_base(self, rng: Array) -> Params:
        ids = jnp.ones((1, 2), jnp.int32)
        return network.Transformer(self.config).init(rng, ids, ids, ids)["params"]

    def _init_adapter(self, rng: Array) -> Params:
        return base.init_parameters(self.adapter_parameters, rng)

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
          (the first two not normalised, none with the penalty).
        """
        if self.label_loss is not None:
            return self._loss_of_labels(self.label_loss, params, batch, dropout_rng)
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
        return self._penalized(total / self.normalizer(batch), params), sums

    def _loss_of_labels(
        self,
        label_loss: label_losses.LabelLoss,
        params: Params,
        batch: Batch,
        dropout_rng: Array | None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """As `loss`; "correct" and "tokens" count rows."""
        if "encoder_segment_ids" in batch:
            raise ValueError(
                "PACK=True does not work with LABEL_LOSS, which needs one example per row. Set "
                "PACK=False."
            )
        ids, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        logits = self._label_logits(params, ids, label_loss.padded(), dropout_rng)
        losses_B, correct_B, rows_B = label_loss(logits, targets)
        total = jnp.sum(losses_B)
        sums = {
            "loss": total,
            "z_loss": jnp.zeros(()),
            "correct": jnp.sum(correct_B),
            "tokens": jnp.sum(rows_B),
        }
        return self._penalized(total / self.normalizer(batch), params), sums

    def _penalized(self, loss: Array, params: Params) -> Array:
        penalty = self.method.penalty(params)
        return loss if penalty is None else loss + penalty

    def normalizer(self, batch: Batch) -> Float[Array, ""] | float:
        """What the loss of a batch is divided by; see `losses.normalizer`."""
        return losses.normalizer(
            self.loss_normalizing_factor,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"].astype(jnp.float32),
            batch.get("decoder_segment_ids"),
        )

    def score(self, params: Params, batch: Batch) -> Float[Array, " B"]:
        """log p(targets | inputs) of each row, summed over its target tokens."""
        losses_BL, _ = losses.cross_entropy(
            self.logits(params, batch), batch["decoder_target_tokens"]
        )
        return -jnp.sum(losses_BL * batch["decoder_loss_weights"].astype(jnp.float32), axis=-1)

    def rank_labels(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        labels: Int[Array, "N L"],
        neutral_ids: Int[Array, "#B K"] | None = None,
    ) -> tuple[Int[Array, "B N L"], Float[Array, "B N"]]:
        """Scores each of N labels for each row, with one pass of encoder and decoder.

        Args:
          params: all parameters.
          ids: of the inputs.
          labels: target ids, padded with 0.
          neutral_ids: content-free inputs, one per row or one for all, for a LabelRanking with
            normalization "calibration".

        Returns:
          the labels and their scores for each row, best first: as `predict`. A score is
          log p(label | input), normalized as the LabelRanking says.
        """
        scores_BN = label_scores(labels, self._label_logits(params, ids, labels))
        normalization = getattr(self.decoder, "normalization", "none")
        if normalization == "length":
            scores_BN = scores_BN / jnp.sum(jnp.asarray(labels) > 0, axis=-1).astype(jnp.float32)
        elif normalization == "calibration":
            scores_BN -= label_scores(labels, self._label_logits(params, neutral_ids, labels))
        order_BN = jnp.argsort(-scores_BN, axis=-1)
        return jnp.asarray(labels)[order_BN], jnp.take_along_axis(scores_BN, order_BN, axis=-1)

    def _label_logits(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        labels: Int[Array, "N L"],
        dropout_rng: Array | None = None,
    ) -> Float[Array, "B N L V"]:
        rows, (count, length) = ids.shape[0], labels.shape
        # All labels of a row are consecutive segments of one decoder row.
        targets = jnp.broadcast_to(labels.reshape(1, -1), (rows, count * length))
        inputs = jnp.broadcast_to(_shift(labels).reshape(1, -1), targets.shape)
        segments = jnp.broadcast_to(jnp.repeat(jnp.arange(1, count + 1), length), targets.shape)
        positions = jnp.broadcast_to(jnp.tile(jnp.arange(length), count), targets.shape)
        batch = {
            "encoder_input_tokens": ids,
            "decoder_input_tokens": inputs,
            "decoder_target_tokens": targets,
            "decoder_segment_ids": segments,
            "decoder_positions": positions,
        }
        return self.logits(params, batch, dropout_rng).reshape(rows, count, length, -1)

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


def label_scores(labels: Int[Array, "N L"], logits: Float[Array, "B N L V"]) -> Float[Array, "B N"]:
    """The log probability of each label by its logits, summed over its tokens."""
    targets = jnp.broadcast_to(labels, logits.shape[:3])
    losses_BNL, _ = losses.cross_entropy(logits, targets)
    return -jnp.sum(jnp.where(targets > 0, losses_BNL, 0.0), axis=-1)


def _shift(targets: Int[Array, "N L"]) -> Int[Array, "N L"]:
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
