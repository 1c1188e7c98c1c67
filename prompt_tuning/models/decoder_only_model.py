"""The decoder-only model as a trainer sees it: loss, score, predict of one stack."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_tuning.models import decoder_only, model


@dataclasses.dataclass(frozen=True)
class DecoderOnlyModel(model.EncoderDecoderModel):
    """A T5 without encoder, with its loss and its way of decoding.

    Batches, loss and methods are those of EncoderDecoderModel: `encoder_input_tokens` are the
    inputs, which the network reads in front of the targets, in one sequence (see `sequence`).

    Attributes:
      inputs_bidirectional_attention: soft tokens and inputs see one another in both directions
        (a prefix language model). False: every position sees what is before it only. It must be
        as the checkpoint was trained; T5X's name.
    """

    inputs_bidirectional_attention: bool = True

    EMBEDDING_PATH: ClassVar[str] = "decoder/token_embedder/embedding"

    def __post_init__(self):
        refused = [part for part in self.method.parts if not part.supports_decoder_only]
        if refused:
            raise ValueError(
                f"{' and '.join(type(part).__name__ for part in refused)} set for a decoder-only "
                "model; expected none, because these methods need an encoder. Remove "
                f"{' and '.join(part.gin_file for part in refused)}."
            )
        if self.label_loss is not None:
            raise ValueError(
                "LABEL_LOSS set for a decoder-only model; expected none, because the loss needs "
                "an encoder-decoder. Remove optimizers/perceptron.gin."
            )
        if self.config.relative_attention_per_layer:
            raise ValueError(
                "relative_attention_per_layer=True for a decoder-only model; expected False, "
                "because its layers share one bias as in T5X. Set it to False."
            )

    @property
    def module(self) -> decoder_only.DecoderOnly:
        """The Flax module."""
        return decoder_only.DecoderOnly(
            self.config, self.inputs_bidirectional_attention, self.method
        )

    def _init_base(self, rng: Array) -> model.Params:
        ids = jnp.ones((1, 2), jnp.int32)
        plain = decoder_only.DecoderOnly(self.config, self.inputs_bidirectional_attention)
        return plain.init(rng, ids, ids)["params"]

    def logits(
        self, params: model.Params, batch: model.Batch, dropout_rng: Array | None = None
    ) -> Float[Array, "B L V"]:
        """Teacher-forced logits of the targets; dropout acts only where an rng is given.

        Raises:
          ValueError: the batch has positions, or segments of one side only.
        """
        if positions := sorted(batch.keys() & {"encoder_positions", "decoder_positions"}):
            raise ValueError(
                f"a batch of a decoder-only model has {positions}; expected none, because its tokens "
                "have consecutive positions. Remove them from the batch."
            )
        return self.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_target_tokens"],
            batch.get("encoder_segment_ids"),
            batch.get("decoder_segment_ids"),
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )

    def _label_logits(
        self,
        params: model.Params,
        ids: Int[Array, "B S"],
        labels: Int[Array, "N L"],
        dropout_rng: Array | None = None,
    ) -> Float[Array, "B N L V"]:
        del dropout_rng  # for LABEL_LOSS, which this model does not support
        module = self.module
        return module.apply({"params": params}, ids, labels, method=module.continuations)

    def predict(
        self,
        params: model.Params,
        ids: Int[Array, "B S"],
        max_length: int,
        rng: Array | None = None,
    ) -> tuple[Int[Array, "B N L"], Float[Array, "B N"]]:
        """Decodes at most `max_length` tokens after the inputs; only these are returned.

        See EncoderDecoderModel.predict.
        """
        module, variables = self.module, {"params": params}

        def step(tokens, index, cache, inputs):
            return module.apply(variables, tokens, index, cache, inputs, method=module.step)

        cache = module.apply(variables, ids, max_length, method=module.start_cache)
        return self.decoder(cache, step, ids, max_length, rng)
