"""Inputs and targets as one sequence, which a decoder without encoder reads.

The layout is T5X's for a prefix language model: the decoder reads 0, inputs, targets, each
position predicts the token after it, and the last input predicts the first target. Soft tokens
in front of the input stand in front of the 0 too. Letters: B batch, S input length, L target
length, N = S + L, V rows of the token embedding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from prompt_tuning.models import attention

BOS_ID = 0
NEVER = jnp.iinfo(jnp.int32).max


class Sequence(NamedTuple):
    """Rows that are read from left to right.

    Attributes:
      ids: what is read.
      segment_ids: of packed examples; without packing 1, and 0 behind the end.
      prefix: what may be read in both directions: all that is read up to and with the last input
        (T5X's decoder_causal_attention).
      target_logit_index: the position whose logits predict each target.
    """

    ids: Int[Array, "B N"]
    segment_ids: Int[Array, "B N"]
    prefix: Bool[Array, "B N"]
    target_logit_index: Int[Array, "B L"]

    def attention_mask(self, inputs_bidirectional_attention: bool) -> Bool[Array, "B 1 N N"]:
        """True where a position attends to another: to those before it and, within a prefix, to all."""
        order = jnp.arange(self.ids.shape[1])
        causal = (order[:, None] >= order[None, :])[None]
        if inputs_bidirectional_attention:
            causal = causal | (self.prefix[:, :, None] & self.prefix[:, None, :])
        segments = self.segment_ids
        return attention.make_attention_mask(segments > 0, segments, segments) & causal[:, None]


def join(
    inputs: Int[Array, "B S"],
    targets: Int[Array, "B L"],
    input_segment_ids: Int[Array, "B S"] | None = None,
    target_segment_ids: Int[Array, "B L"] | None = None,
    *,
    vocab_size: int,
) -> Sequence:
    """Puts the targets of each segment behind its inputs, without gaps.

    Args:
      inputs: ids of inputs; from `vocab_size` on they are soft tokens.
      targets: ids of targets.
      input_segment_ids: of packed rows; None for one example a row.
      target_segment_ids: of packed rows; None for one example a row.
      vocab_size: V.

    Raises:
      ValueError: segment ids of one side only.
    """
    if (input_segment_ids is None) != (target_segment_ids is None):
        raise ValueError(
            "only one of input_segment_ids and target_segment_ids is set; expected "
            "both or neither, because a target follows the inputs of its segment"
        )
    if input_segment_ids is None:
        input_segment_ids = (inputs > 0).astype(jnp.int32)
        target_segment_ids = (targets > 0).astype(jnp.int32)
    segments = jnp.concatenate([input_segment_ids, target_segment_ids], axis=1)
    columns = jnp.arange(segments.shape[1], dtype=jnp.int32)
    is_target = jnp.broadcast_to((columns >= inputs.shape[1])[None], segments.shape)
    rank = jnp.where(segments > 0, 2 * segments + is_target.astype(jnp.int32), NEVER)
    order = jnp.argsort(rank, axis=1, stable=True)
    tokens, segments, is_target = (
        jnp.take_along_axis(x, order, axis=1)
        for x in (jnp.concatenate([inputs, targets], axis=1), segments, is_target)
    )
    first = segments != _previous(segments, -1)
    leading = _leading(tokens >= vocab_size, first, columns)
    begins = ~leading & (first | _previous(leading, False))
    read = jnp.where(begins, BOS_ID, _previous(tokens, BOS_ID))
    later_target = is_target & _previous(is_target, False) & ~first
    return Sequence(
        ids=jnp.where(leading, tokens, read),
        segment_ids=segments,
        prefix=(segments > 0) & ~later_target,
        target_logit_index=jnp.argsort(order, axis=1)[:, inputs.shape[1] :],
    )


def last_input(
    inputs: Int[Array, "B S"], *, vocab_size: int
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """What is read at the end of a prefix, which predicts the first target, and its position.

    Args:
      inputs: one example a row, filled up with 0.
      vocab_size: V.

    Returns:
      ids, and their positions in the rows of `join`.
    """
    count = jnp.sum(inputs > 0, axis=1, dtype=jnp.int32)
    last = jnp.take_along_axis(inputs, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    # Behind nothing but soft tokens it is the 0 that begins the text.
    has_text = jnp.any((inputs > 0) & (inputs < vocab_size), axis=1)
    return jnp.where(has_text, last, BOS_ID), count


def _previous(x: Array, before_first: int | bool) -> Array:
    """The column to the left."""
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=before_first)


def _leading(soft: Array, first: Array, columns: Array) -> Array:
    """The soft tokens of a segment before which there is nothing else."""
    start = jax.lax.cummax(jnp.where(first, columns, 0), axis=1)
    last_text = jax.lax.cummax(jnp.where(soft, -1, columns), axis=1)
    return soft & (last_text < start)
