"""The layers of T5: RMS norm, embedding, relative bias, attention, feed-forward.

Shape letters: B batch, S encoder length, L target length, Q queries, K keys
(in `BQHC`: C head size), D model width, H heads, F feed-forward width, V rows of
the token embedding. Kernels are 2-D and named as in T5X checkpoints.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "linear": lambda x: x,
}
MASKED = -1e10


def _partitioned(initializer: Callable, *axes: str) -> Callable:
    return nn.with_logical_partitioning(initializer, axes)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · scale, in float32 (Zhang & Sennrich, 2019)."""

    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        scale = self.param("scale", _partitioned(nn.initializers.ones, "embed"), (x.shape[-1],))
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * inverse * scale.astype(jnp.float32)).astype(self.dtype)


class Dense(nn.Module):
    """x @ kernel, without bias. The kernel is [inputs, features]."""

    features: int
    axes: tuple[str, str]
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

    @nn.compact
    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        kernel = self.param(
            "kernel", _partitioned(self.kernel_init, *self.axes), (x.shape[-1], self.features)
        )
        return jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))


class Embed(nn.Module):
    """The token table [V, D]: ids to vectors, and vectors to logits where tied."""

    rows: int
    features: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        initializer = _partitioned(nn.initializers.normal(1.0), "vocab", "embed")
        self.embedding = self.param("embedding", initializer, (self.rows, self.features))

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return jnp.take(self.embedding, ids, axis=0).astype(self.dtype)

    def attend(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Logits against the table, in float32."""
        return jnp.dot(x.astype(jnp.float32), self.embedding.T.astype(jnp.float32))


def relative_bucket(
    distance: Int[Array, "*B"], *, bidirectional: bool, buckets: int, max_distance: int
) -> Int[Array, "*B"]:
    """The bucket of a distance key − query (T5 paper, section 2.1).

    Half of the buckets are exact; the others grow logarithmically up to
    `max_distance`, beyond which all share the last.
    """
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    ratio = distance.astype(jnp.float32) / exact + jnp.finfo(jnp.float32).eps
    log_bucket = exact + (jnp.log(ratio) / np.log(max_distance / exact) * (buckets - exact)).astype(
        jnp.int32
    )
    return offset + jnp.where(distance < exact, distance, jnp.minimum(log_bucket, buckets - 1))


class RelativeBias(nn.Module):
    """Adds to each score a number learned for (head, bucket of the distance)."""

    num_heads: int
    bidirectional: bool
    buckets: int = 32
    max_distance: int = 128

    @nn.compact
    def __call__(
        self, query_positions: Int[Array, "#B Q"], key_positions: Int[Array, "#B K"]
    ) -> Float[Array, "#B H Q K"]:
        initializer = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        table = self.param(
            "rel_embedding",
            _partitioned(initializer, "heads", "relpos_buckets"),
            (self.num_heads, self.buckets),
        )
        distance_BQK = key_positions[:, None, :] - query_positions[:, :, None]
        bucket_BQK = relative_bucket(
            distance_BQK,
            bidirectional=self.bidirectional,
            buckets=self.buckets,
            max_distance=self.max_distance,
        )
        bias_HBQK = jnp.take(table.astype(jnp.float32), bucket_BQK, axis=1)
        return jnp.moveaxis(bias_HBQK, 0, 1)


class Attention(nn.Module):
    """Multi-head attention without biases and without 1/sqrt(head size)."""

    features: int
    num_heads: int
    head_dim: int
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        width = self.num_heads * self.head_dim
        # T5 folds 1/sqrt(head size) into the query's initialisation.
        query_init = nn.initializers.variance_scaling(1.0 / self.head_dim, "fan_in", "normal")
        self.query = Dense(width, ("embed", "joined_kv"), self.dtype, query_init)
        self.key = Dense(width, ("embed", "joined_kv"), self.dtype)
        self.value = Dense(width, ("embed", "joined_kv"), self.dtype)
        self.out = Dense(self.features, ("joined_kv", "embed"), self.dtype)
        # One mask for all queries, as in T5X.
        self.dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))

    def keys_values(self, x: Float[Array, "B K D"]) -> tuple[Array, Array]:
        """Keys and values of `x`, each [B, K, H, C]."""
        shape = (*x.shape[:-1], self.num_heads, self.head_dim)
        return self.key(x).reshape(shape), self.value(x).reshape(shape)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        keys_values: tuple[Float[Array, "B K H C"], Float[Array, "B K H C"]],
        bias: Float[Array, "#B #H #Q K"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B Q D"]:
        """Mixes the values by softmax(query · key + bias)."""
        key_BKHC, value_BKHC = keys_values
        query_BQHC = self.query(x).reshape(*x.shape[:-1], self.num_heads, self.head_dim)
        query_BQHC = nn.with_logical_constraint(query_BQHC, ("batch", "length", "heads", "kv"))
        scores_BHQK = jnp.einsum("bqhc,bkhc->bhqk", query_BQHC, key_BKHC)
        weights_BHQK = nn.softmax(scores_BHQK.astype(jnp.float32) + bias).astype(self.dtype)
        weights_BHQK = self.dropout(weights_BHQK, deterministic=deterministic)
        mixed_BQHC = jnp.einsum("bhqk,bkhc->bqhc", weights_BHQK, value_BKHC)
        return self.out(mixed_BQHC.reshape(*x.shape[:-1], self.num_heads * self.head_dim))


class FeedForward(nn.Module):
    """One activation: act(x wi) wo. Two: (act(x wi_0) · act(x wi_1)) wo (Shazeer, 2020)."""

    mlp_dim: int
    activations: tuple[str, ...]
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], *, deterministic: bool = True
    ) -> Float[Array, "B S D"]:
        hidden = 1
        for i, name in enumerate(self.activations):
            kernel = "wi" if len(self.activations) == 1 else f"wi_{i}"
            projected = Dense(self.mlp_dim, ("embed", "mlp"), self.dtype, name=kernel)(x)
            hidden = hidden * ACTIVATIONS[name](projected)
        # One mask for all positions of a row: cheaper, and what the paper's numbers used.
        dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))
        hidden = dropout(hidden, deterministic=deterministic)
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        return Dense(x.shape[-1], ("mlp", "embed"), self.dtype, name="wo")(hidden)
