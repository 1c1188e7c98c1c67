"""RMS norm, relative buckets and bias, dropout masks: against formulas written anew."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models import layers


def bucket(distance: int, bidirectional: bool, buckets: int, max_distance: int) -> int:
    """The T5 paper's bucket in exact arithmetic: no logarithm, no rounding."""
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    # The k-th logarithmic bucket starts where (distance/exact)^steps = (max/exact)^k.
    steps = buckets - exact
    reached = Fraction(distance, exact) ** steps
    k = sum(reached >= Fraction(max_distance, exact) ** k for k in range(1, steps))
    return offset + exact + k


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20)])
def test_relative_bucket_is_the_papers(bidirectional, buckets, max_distance):
    settings = {"bidirectional": bidirectional, "buckets": buckets, "max_distance": max_distance}
    distances = np.arange(-200, 201)
    found = jax.jit(lambda d: layers.relative_bucket(d, **settings))(distances)
    expected = [bucket(int(d), **settings) for d in distances]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("distance", "bidirectional", "expected"),
    [
        (0, True, 0),
        (-7, True, 7),
        (7, True, 23),
        (-8, True, 8),
        (-16, True, 10),
        (-128, True, 15),
        (1000, True, 31),
        (5, False, 0),
        (-15, False, 15),
        (-16, False, 16),
        (-1000, False, 31),
    ],
)
def test_relative_bucket_truth_table(distance, bidirectional, expected):
    found = layers.relative_bucket(
        jnp.array([distance]), bidirectional=bidirectional, buckets=32, max_distance=128
    )
    assert found.tolist() == [expected]


def test_relative_bias_reads_key_minus_query():
    module = layers.RelativeBias(num_heads=2, bidirectional=False, buckets=8, max_distance=20)
    table = np.arange(16, dtype=np.float32).reshape(2, 8)
    positions = jnp.arange(4)[None]
    bias = module.apply({"params": {"rel_embedding": table}}, positions, positions)
    # Causal: what comes after the query shares bucket 0; d before it is bucket d (d < 4).
    buckets = [[0, 0, 0, 0], [1, 0, 0, 0], [2, 1, 0, 0], [3, 2, 1, 0]]
    np.testing.assert_array_equal(bias, table[:, buckets][None])


def test_rms_norm_is_the_formula(rng):
    x, scale = rng.normal(size=(2, 3, 16)) * 100, rng.normal(size=16)
    found = layers.RMSNorm(epsilon=0.5).apply(
        {"params": {"scale": jnp.float32(scale)}}, jnp.float32(x)
    )
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.5) * scale
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_rms_norm_of_bfloat16_is_computed_in_float32(rng):
    x = jnp.asarray(rng.normal(size=(1, 512)), jnp.bfloat16)
    norm = layers.RMSNorm(dtype=jnp.bfloat16)
    found = norm.apply({"params": {"scale": jnp.ones(512)}}, x)
    wide = np.asarray(x, np.float64)
    expected = wide / np.sqrt((wide**2).mean() + 1e-6)
    assert found.dtype == jnp.bfloat16
    # Half of a unit in the last place: nothing but the final rounding.
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-8)


def test_tied_logits_are_float32_products_with_the_table(rng):
    table = rng.normal(size=(7, 4)).astype(np.float32)
    x = rng.normal(size=(1, 2, 4)).astype(np.float32)
    embed = layers.Embed(7, 4, jnp.bfloat16)
    found = embed.apply({"params": {"embedding": table}}, x, method=embed.attend)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, x @ table.T, rtol=1e-5)


def test_dropout_of_the_feed_forward_is_one_mask_for_all_positions(rng):
    x = jnp.broadcast_to(jnp.float32(rng.normal(size=(2, 1, 8))), (2, 5, 8))
    module = layers.FeedForward(32, ("relu",), dropout_rate=0.5)
    variables = module.init(jax.random.key(0), x)
    dropped = module.apply(variables, x, deterministic=False, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_allclose(dropped, jnp.broadcast_to(dropped[:, :1], x.shape), rtol=1e-5)
    assert not np.allclose(dropped, module.apply(variables, x))


def test_dropout_of_the_attention_is_one_mask_for_all_queries(rng):
    x = jnp.broadcast_to(jnp.float32(rng.normal(size=(1, 1, 8))), (1, 5, 8))
    module = layers.Attention(features=8, num_heads=2, head_dim=4, dropout_rate=0.5)

    def attend(module, x, deterministic):
        bias = jnp.zeros((1, 1, 5, 5))
        visible = jnp.ones((1, 1, 1, 5), bool)
        return module(x, module.keys_values(x), bias, visible, deterministic=deterministic)

    variables = module.init(jax.random.key(0), x, True, method=attend)
    dropped = module.apply(variables, x, False, method=attend, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_allclose(dropped, jnp.broadcast_to(dropped[:, :1], x.shape), rtol=1e-5)
    assert not np.allclose(dropped, module.apply(variables, x, True, method=attend))


def test_padding_changes_no_dropout_of_the_attention(rng):
    x = jnp.float32(rng.normal(size=(2, 9, 8)))
    module = layers.Attention(features=8, num_heads=2, head_dim=4, dropout_rate=0.5)

    def attend(module, x, count):
        x, visible = x[:, :count], (jnp.arange(count) < 5)[None, None, None]
        bias = jnp.zeros((1, 1, count, count))
        return module(x, module.keys_values(x), bias, visible, deterministic=False)

    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = module.init(rngs, x, 5, method=attend)
    alone, padded = (
        module.apply(variables, x, count, method=attend, rngs=rngs)[:, :5] for count in (5, 9)
    )
    np.testing.assert_allclose(alone, padded, rtol=1e-5)


# Of the largest number: what rounding inputs, weights and products to 2^-9 adds up to.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("queries", [4, 5])
def test_attention_to_a_source_is_that_to_its_keys_and_values(rng, queries, rate, dtype, tolerance):
    # Heads of 8: four queries make no keys, five do.
    sizes = {"features": 6, "num_heads": 2, "head_dim": 8, "dropout_rate": rate}
    x, source = (jnp.float32(rng.normal(size=(3, n, 6))) for n in (queries, 9))
    visible = jnp.asarray(rng.random((3, 1, queries, 9)) < 0.7).at[..., 0].set(True)

    def by_keys(self, x, source, visible, deterministic):
        bias = jnp.zeros((1, 1, 1, 1))
        made = self.keys_values(source)
        return self(x, made, bias, visible, deterministic=deterministic)

    plain = layers.Attention(**sizes)
    variables = plain.init(jax.random.key(0), x, source, visible, True, method=by_keys)

    def both(attention, method):
        """What it gives, and gradients of weights, x and source."""

        def run(variables, x, source):
            rngs = {"dropout": jax.random.key(1)}
            x, source = x.astype(attention.dtype), source.astype(attention.dtype)
            return attention.apply(
                variables, x, source, visible, deterministic=False, method=method, rngs=rngs
            )

        @jax.jit
        def pulled(*inputs):
            found, pull = jax.vjp(run, *inputs)
            gradient = jnp.cos(jnp.arange(found.size, dtype=jnp.float32)).reshape(found.shape)
            return found, *pull(gradient.astype(found.dtype))

        return pulled(variables, x, source)

    given = layers.Attention(**sizes, dtype=jnp.dtype(dtype))
    found, expected = both(given, layers.Attention.cross_attend), both(plain, by_keys)
    assert found[0].dtype == dtype
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(
            np.float32(got), want, rtol=0, atol=tolerance * np.abs(want).max()
        )
