"""The layers of T5: RMS norm, embedding, relative bias, attention, feed-forward.

Shape letters: B batch, S encoder length, L target length, Q queries, K keys
(in `BQHC`: C head size), D model width, H heads, F feed-forward width, V rows of
the token embedding. Kernels are 2-D and named as in T5X checkpoints.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning.methods import base
from prompt_tuning.models import attention
from prompt_tuning.models import config as config_lib

# Keys and values of a source of K positions cost 2·K·D·H·C multiplications, doing without them
# 2·K·Q·H·D; the factor leaves room for products that are less efficient.
FEW_QUERIES = 2


def _partitioned(initializer: Callable, *axes: str) -> Callable:
    return nn.with_logical_partitioning(initializer, axes)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · scale, in float32 (Zhang & Sennrich, 2019)."""

    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @classmethod
    def of(cls, config: config_lib.T5Config) -> "RMSNorm":
        """The norm of such a network."""
        return cls(config.layer_norm_epsilon, jnp.dtype(config.dtype))

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        scale = self.param("scale", _partitioned(nn.initializers.ones, "embed"), (x.shape[-1],))

        def scaled(x, scale):
            wide = x.astype(jnp.float32)
            inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
            return (wide * inverse * scale.astype(jnp.float32)).astype(self.dtype)

        # Only x is kept for the backward pass: the rest is cheaper to compute than to store.
        return jax.checkpoint(scaled)(x, scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul_f32_accum(
    x: Float[Array, "*B I"], kernel: Float[Array, "I O"], dtype: jnp.dtype
) -> Float[Array, "*B O"]:
    """x @ kernel in `dtype`, accumulated in float32 in the forward and the backward pass.

    A CPU has fast bfloat16 products (AMX) only where the sum comes out in float32.
    """
    on_cpu = jax.default_backend() == "cpu"
    # Elsewhere sums are float32 inside a product, and bfloat16 halves what devices exchange.
    return jnp.dot(x, kernel, preferred_element_type=jnp.float32 if on_cpu else dtype).astype(dtype)


def _matmul_forward(x, kernel, dtype):
    return matmul_f32_accum(x, kernel, dtype), (x, kernel)


def _matmul_backward(_, residuals, gradient):
    x, kernel = residuals
    gradient = gradient.astype(x.dtype)
    of_x = matmul_f32_accum(gradient, kernel.T, x.dtype)
    rows, gradients = (y.reshape(-1, y.shape[-1]) for y in (x, gradient))
    return of_x, matmul_f32_accum(rows.T, gradients, kernel.dtype)


matmul_f32_accum.defvjp(_matmul_forward, _matmul_backward)


class Dense(nn.Module):
    """x @ kernel, without bias. The kernel is [inputs, features]."""

    features: int
    axes: tuple[str, str]
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

    @nn.compact
    def kernel(self, inputs: int) -> Float[Array, "I O"]:
        """The kernel, in the dtype of the product."""
        initializer = _partitioned(self.kernel_init, *self.axes)
        return self.param("kernel", initializer, (inputs, self.features)).astype(self.dtype)

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        return matmul_f32_accum(x.astype(self.dtype), self.kernel(x.shape[-1]), self.dtype)


class Logits(nn.Module):
    """x @ kernel, float32. In bfloat16 only where both are: a stored float32 is not rounded."""

    rows: int

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        initializer = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kernel = self.param(
            "kernel", _partitioned(initializer, "embed", "vocab"), (x.shape[-1], self.rows)
        )
        dtype = x.dtype if x.dtype == kernel.dtype else jnp.float32
        return matmul_f32_accum(x.astype(dtype), kernel.astype(dtype), jnp.float32)


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


def embed_input(stack: nn.Module, embedder: Embed, ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """Embeds ids; those of soft tokens (ids >= V) are for the method to embed."""
    x = embedder(jnp.where(ids < embedder.rows, ids, 0))
    return stack.method.embed_input(stack, x, ids - embedder.rows)


def apply_dense(owner: nn.Module, dense: Dense, x: Float[Array, "B S I"]) -> Float[Array, "B S O"]:
    """Applies a dense layer of `owner`, with the method's hooks."""
    x = owner.method.dense_input(owner, x, dense.name)
    return owner.method.dense_output(owner, dense(x), dense.name, x)


def logits(
    stack: nn.Module, embedder: Embed, x: Float[Array, "B L D"], deterministic: bool
) -> Float[Array, "B L V"]:
    """Logits of the last layer's output, float32, against the embedding where tied."""
    x = stack.dropout(stack.decoder_norm(x), deterministic=deterministic)
    if stack.config.scale_decoder_outputs:
        x = x.astype(jnp.float32) / stack.config.embed_dim**0.5
    head = embedder.attend if stack.config.logits_via_embedding else stack.logits_dense
    return stack.method.logits(stack, head(x), x)


def positions_of(ids: Int[Array, "B S"], positions: Int[Array, "B S"] | None) -> Array:
    """Positions as given, or [1, S] in the row's order."""
    return jnp.arange(ids.shape[1], dtype=jnp.int32)[None] if positions is None else positions


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

    @classmethod
    def of(cls, config: config_lib.T5Config, *, bidirectional: bool) -> "RelativeBias":
        """The bias of a stack of such a network."""
        return cls(
            config.num_heads,
            bidirectional,
            config.relative_attention_buckets,
            config.relative_attention_max_distance,
        )

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


def biases(
    stack: nn.Module, query_positions: Int[Array, "#B Q"], key_positions: Int[Array, "#B K"]
) -> list[Float[Array, "#B H Q K"]]:
    """For each layer of a stack, the bias that all share or the layer's own (umT5)."""
    if stack.config.relative_attention_per_layer:
        return [layer.relpos_bias(query_positions, key_positions) for layer in stack.layers]
    return [stack.relpos_bias(query_positions, key_positions)] * len(stack.layers)


class Attention(nn.Module):
    """Multi-head attention without biases and without 1/sqrt(head size)."""

    features: int
    num_heads: int
    head_dim: int
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32
    method: base.Method = base.NO_METHOD

    @classmethod
    def of(cls, config: config_lib.T5Config, method: base.Method = base.NO_METHOD) -> "Attention":
        """An attention of such a network."""
        return cls(
            features=config.embed_dim,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            dropout_rate=config.dropout_rate,
            dtype=jnp.dtype(config.dtype),
            method=method,
        )

    def setup(self):
        width = self.num_heads * self.head_dim
        # T5 folds 1/sqrt(head size) into the query's initialisation.
        query_init = nn.initializers.variance_scaling(1.0 / self.head_dim, "fan_in", "normal")
        self.query = Dense(width, ("embed", "joined_kv"), self.dtype, query_init)
        self.key = Dense(width, ("embed", "joined_kv"), self.dtype)
        self.value = Dense(width, ("embed", "joined_kv"), self.dtype)
        self.out = Dense(self.features, ("joined_kv", "embed"), self.dtype)
        self.dropout = nn.Dropout(self.dropout_rate)

    def _keep(self, rows: int, keys: int, deterministic: bool) -> Float[Array, "B H K 1"]:
        """What the weight of each key is multiplied with, for dropout.

        One mask for all queries, as in T5X. It is drawn key by key, so that keys that are added
        as padding change nothing for the others.
        """
        keep_KBH = jnp.ones((keys, rows, self.num_heads), jnp.float32)
        keep_KBH = self.dropout(keep_KBH, deterministic=deterministic)
        return jnp.transpose(keep_KBH, (1, 2, 0))[..., None]

    def _split_heads(self, x: Float[Array, "B K J"]) -> Float[Array, "B H K C"]:
        x = x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
        x = nn.with_logical_constraint(x, ("batch", "length", "heads", "kv"))
        return jnp.swapaxes(x, 1, 2)

    def keys_values(self, x: Float[Array, "B K D"]) -> tuple[Array, Array]:
        """Keys and values of `x`, each [B, H, K, C]."""
        return self._split_heads(self.key(x)), self._split_heads(self.value(x))

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        keys_values: tuple[Float[Array, "B H K C"], Float[Array, "B H K C"]],
        bias: Float[Array, "#B #H #Q K"],
        mask: Bool[Array, "#B 1 #Q K"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B Q D"]:
        """Mixes the values by softmax(query · key + bias) over the keys of the mask."""
        key_BHKC, value_BHKC = keys_values
        query_BHQC = self._split_heads(apply_dense(self, self.query, x))
        rows, _, keys, _ = value_BHKC.shape
        # Dropping a weight is dropping its value.
        value_BHKC *= self._keep(rows, keys, deterministic).astype(value_BHKC.dtype)
        mixed_BHQC = attention.attend(query_BHQC, key_BHKC, value_BHKC, bias, mask)
        return self._join_heads(mixed_BHQC)

    def cross_attend(
        self,
        x: Float[Array, "B Q D"],
        source: Float[Array, "B K D"],
        mask: Bool[Array, "#B 1 #Q K"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B Q D"]:
        """Attends to `source` without bias; for few queries its keys and values are not computed."""
        if FEW_QUERIES * x.shape[1] > self.head_dim:
            no_bias = jnp.zeros((1, 1, 1, 1), jnp.float32)
            keys_values = self.keys_values(source)
            return self(x, keys_values, no_bias, mask, deterministic=deterministic)
        query_BHQC = self._split_heads(apply_dense(self, self.query, x))
        source = source.astype(self.dtype)
        width = source.shape[-1]
        kernels = (self.key.kernel(width), self.value.kernel(width))
        key_DHC, value_DHC = (k.reshape(width, self.num_heads, self.head_dim) for k in kernels)
        query_BHQD = jnp.einsum("bhqc,dhc->bhqd", query_BHQC, key_DHC)
        keep = self._keep(source.shape[0], source.shape[1], deterministic)
        mixed_BHQD = attention.attend_to_inputs(query_BHQD, source, mask, keep)
        return self._join_heads(jnp.einsum("bhqd,dhc->bhqc", mixed_BHQD, value_DHC))

    def _join_heads(self, mixed_BHQC: Array) -> Float[Array, "B Q D"]:
        mixed_BQHC = jnp.swapaxes(mixed_BHQC, 1, 2)
        mixed_BQJ = mixed_BQHC.reshape(*mixed_BQHC.shape[:2], self.num_heads * self.head_dim)
        return apply_dense(self, self.out, mixed_BQJ)


class FeedForward(nn.Module):
    """One activation: act(x wi) wo. Two: (act(x wi_0) · act(x wi_1)) wo (Shazeer, 2020)."""

    mlp_dim: int
    activations: tuple[str, ...]
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32
    method: base.Method = base.NO_METHOD

    @classmethod
    def of(cls, config: config_lib.T5Config, method: base.Method = base.NO_METHOD) -> "FeedForward":
        """The feed-forward part of a layer of such a network."""
        return cls(
            config.mlp_dim,
            config.mlp_activations,
            config.dropout_rate,
            jnp.dtype(config.dtype),
            method,
        )

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], *, deterministic: bool = True
    ) -> Float[Array, "B S D"]:
        several = len(self.activations) > 1
        names = [f"wi_{i}" if several else "wi" for i in range(len(self.activations))]
        projected = [
            apply_dense(self, Dense(self.mlp_dim, ("embed", "mlp"), self.dtype, name=name), x)
            for name in names
        ]
        # What the activations are computed from is kept, not what they give.
        hidden = jax.checkpoint(self._activate)(*projected)
        # In front of dropout: what the hook multiplies need not be dropped again under remat.
        hidden = self.method.dense_input(self, hidden, "wo")
        # One mask for all positions of a row: cheaper, and what the paper's numbers used.
        dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))
        hidden = dropout(hidden, deterministic=deterministic)
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        wo = Dense(x.shape[-1], ("mlp", "embed"), self.dtype, name="wo")
        return self.method.dense_output(self, wo(hidden), "wo", hidden)

    def _activate(self, *projected: Array) -> Array:
        factors = zip(self.activations, projected, strict=True)
        return math.prod(config_lib.ACTIVATIONS[name](x) for name, x in factors)


class Dropout(nn.Dropout):
    """One mask for all positions of a row: cheaper, and what the paper's numbers used."""

    broadcast_dims: tuple[int, ...] = (-2,)
