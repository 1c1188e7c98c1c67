"""softmax(query · key + bias) · value, with a backward pass that keeps little.

Plain differentiation keeps scores, weights and what softmax needs, and passes over
them again and again: [B, H, Q, K] arrays are the largest of a T5 layer. Here one such
array is kept, the exponentials, and what divides them goes into the smaller
[B, H, Q, C] arrays. Letters: B batch, H heads, Q queries, K keys, C head size.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e10


def make_attention_mask(
    keys: Bool[Array, "B K"],
    query_segments: Int[Array, "B Q"] | None = None,
    key_segments: Int[Array, "B K"] | None = None,
) -> Bool[Array, "B 1 #Q K"]:
    """True where a query attends to a key: a real one and, in packed rows, of the same segment."""
    mask = keys[:, None, :]
    if query_segments is not None:
        mask = mask & (query_segments[:, :, None] == key_segments[:, None, :])
    return mask[:, None]


def positions_in(segments: Int[Array, "B L"]) -> Int[Array, "B L"]:
    """Positions of packed tokens, counted from the first one of their segment."""
    same = segments[:, :, None] == segments[:, None, :]
    return jnp.arange(segments.shape[1], dtype=jnp.int32) - jnp.argmax(same, axis=-1).astype(
        jnp.int32
    )


@jax.custom_vjp
def attend(
    query: Float[Array, "B H Q C"],
    key: Float[Array, "B H K C"],
    value: Float[Array, "B H K C"],
    bias: Float[Array, "#B #H #Q K"],
    mask: Bool[Array, "#B 1 #Q K"],
) -> Float[Array, "B H Q C"]:
    """Mixes values by softmax(query · key + bias) over the keys of the mask.

    Scores and softmax are float32, products have the dtype of `query`. A query that
    sees no key gets the mean of all values.
    """
    return _forward(query, key, value, bias, mask)[0]


def _forward(query, key, value, bias, mask):
    scores = _product("bhqc,bhkc->bhqk", query, key)
    scores = jnp.where(mask, scores + bias, MASKED)
    exponentials = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    inverse = 1 / jnp.sum(exponentials, axis=-1, keepdims=True)
    exponentials = exponentials.astype(query.dtype)
    mixed = (_product("bhqk,bhkc->bhqc", exponentials, value) * inverse).astype(query.dtype)
    return mixed, (query, key, value, exponentials, inverse, mixed, bias)


def _backward(residuals, gradient):
    query, key, value, exponentials, inverse, mixed, bias = residuals
    # With weights = exponentials · inverse, the gradient of the scores is
    # weights · (gradient · value − Σ_C gradient · mixed).
    wide = gradient.astype(jnp.float32) * inverse
    mean = jnp.sum(wide * mixed.astype(jnp.float32), axis=-1, keepdims=True)
    scaled = wide.astype(query.dtype)
    of_value = _product("bhqk,bhqc->bhkc", exponentials, scaled)
    of_weights = _product("bhqc,bhkc->bhqk", scaled, value)
    of_scores = exponentials.astype(jnp.float32) * (of_weights - mean)
    of_bias = _sum_to(of_scores, bias.shape)
    of_scores = of_scores.astype(query.dtype)
    of_query = _product("bhqk,bhkc->bhqc", of_scores, key)
    of_key = _product("bhqk,bhqc->bhkc", of_scores, query)
    gradients = (of_query, of_key, of_value)
    return *(x.astype(query.dtype) for x in gradients), of_bias, None


def _product(letters: str, x: Array, y: Array) -> Array:
    return jnp.einsum(letters, x, y, preferred_element_type=jnp.float32)


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    axes = [i for i, size in enumerate(shape) if size == 1 and x.shape[i] > 1]
    return jnp.sum(x, axis=axes, keepdims=True)


attend.defvjp(_forward, _backward)


def attend_to_inputs(
    query: Float[Array, "B H Q D"],
    inputs: Float[Array, "B K D"],
    mask: Bool[Array, "#B 1 #Q K"],
    keep: Float[Array, "#B #H K 1"],
) -> Float[Array, "B H Q D"]:
    """Mixes `inputs` by softmax(query · inputs) over those of the mask.

    Of inputs x, keys x W and values x U: q · (x W) = (q Wᵀ) · x, and Σ w (x U) = (Σ w x) U. For
    few queries it costs less to multiply these by W and U than all inputs.

    Args:
      query: q Wᵀ.
      inputs: x.
      mask: true where a query attends to an input.
      keep: what weights are multiplied with, for dropout.
    """
    scores = jnp.where(mask, _product("bhqd,bkd->bhqk", query, inputs), MASKED)
    weights = jax.nn.softmax(scores) * jnp.swapaxes(keep, 2, 3)
    mixed = _product("bhqk,bkd->bhqd", weights.astype(query.dtype), inputs)
    return mixed.astype(query.dtype)
