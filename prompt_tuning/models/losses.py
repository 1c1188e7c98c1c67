"""Cross entropy with z-loss and label smoothing, as T5X computes it."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Normalizer = Literal["NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"]


def cross_entropy(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """Loss per token and the z-loss in it.

    The smoothed target has 1 − s on the right row and s / (V − 1) on each other;
    its own entropy is subtracted, so a perfect prediction costs 0. The z-loss is
    z · log(Z)², with Z the sum of exp(logits); it keeps logits from drifting.

    Returns:
      (cross entropy + z-loss, z-loss), each float32.
    """
    logits = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    vocab_size = logits.shape[-1]
    on, off = 1.0 - label_smoothing, label_smoothing / (vocab_size - 1)
    loss = log_z - on * right
    if label_smoothing:
        loss = loss - off * (jnp.sum(logits, axis=-1) - right)
        loss = loss + on * jnp.log(on) + (vocab_size - 1) * off * jnp.log(off + 1e-20)
    penalty = z_loss * jnp.square(log_z)
    return loss + penalty, penalty


def normalizer(
    factor: float | str | None,
    targets: Int[Array, "B L"],
    weights: Float[Array, "B L"],
    segment_ids: Int[Array, "B L"] | None = None,
) -> Float[Array, ""] | float:
    """What the summed loss is divided by, for a LOSS_NORMALIZING_FACTOR of T5X.

    None: 1. A number: itself. "NUM_REAL_TARGET_TOKENS": sum of the weights.
    "NUM_TOTAL_TARGET_TOKENS": padding is counted too, so it is not independent of packing.
    "AVERAGE_PER_SEQUENCE": rows that hold a target (a padded row does not count), or of
    packed rows their segments, numbered from 1.
    """
    match factor:
        case None:
            return 1.0
        case int() | float():
            return float(factor)
        case "NUM_REAL_TARGET_TOKENS":
            return jnp.maximum(jnp.sum(weights), 1.0)
        case "NUM_TOTAL_TARGET_TOKENS":
            return float(targets.size)
        case "AVERAGE_PER_SEQUENCE":
            rows = jnp.any(weights > 0, axis=-1)
            sequences = rows if segment_ids is None else jnp.max(segment_ids, axis=-1)
            return jnp.maximum(jnp.sum(sequences), 1).astype(jnp.float32)
        case _:
            raise ValueError(
                f"LOSS_NORMALIZING_FACTOR is {factor!r}; expected None, a number, "
                "'NUM_REAL_TARGET_TOKENS', 'NUM_TOTAL_TARGET_TOKENS' or 'AVERAGE_PER_SEQUENCE'"
            )
