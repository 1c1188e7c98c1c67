"""Attention and its backward pass, against the formula differentiated by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models import attention

SHAPES = {
    "query": (2, 3, 5, 4),
    "key": (2, 3, 7, 4),
    "value": (2, 3, 7, 4),
    "gradient": (2, 3, 5, 4),
}


@pytest.fixture
def arrays(rng):
    return {name: jnp.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()}


def formula(query, key, value, bias, visible):
    scores = jnp.einsum("bhqc,bhkc->bhqk", query, key) + bias
    weights = jax.nn.softmax(jnp.where(visible, scores, -1e10))
    return jnp.einsum("bhqk,bhkc->bhqc", weights, value)


def gradients(attend, arrays, bias, visible):
    """Output, and gradients of query, key, value and bias."""

    def mix(query, key, value, bias):
        return attend(query, key, value, bias, visible)

    inputs = (arrays["query"], arrays["key"], arrays["value"], bias)
    mixed, pull = jax.vjp(mix, *inputs)
    return mixed, *pull(arrays["gradient"].astype(mixed.dtype))


# Those of a plain encoder, a decoder, packed rows, and where there is no bias.
@pytest.mark.parametrize("bias_shape", [(1, 3, 5, 7), (2, 3, 5, 7), (1, 1, 1, 1)])
@pytest.mark.parametrize("visible_shape", [(2, 1, 1, 7), (1, 1, 5, 7), (2, 1, 5, 7)])
def test_values_and_gradients_are_those_of_the_formula(arrays, rng, bias_shape, visible_shape):
    bias = jnp.float32(rng.normal(size=bias_shape))
    visible = jnp.asarray(rng.random(visible_shape) < 0.7).at[..., 0].set(True)
    found = jax.jit(lambda: gradients(attention.attend, arrays, bias, visible))()
    expected = gradients(formula, arrays, bias, visible)
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


def test_large_scores_do_not_overflow(arrays):
    large = arrays | {"query": arrays["query"] * 1e4}
    everything, no_bias = jnp.ones((1, 1, 1, 7), bool), jnp.zeros((1, 1, 1, 1))
    found = gradients(attention.attend, large, no_bias, everything)
    assert all(np.isfinite(array).all() for array in found)
    np.testing.assert_allclose(
        found[0], formula(*list(large.values())[:3], no_bias, everything), atol=1e-5
    )


def test_a_query_that_sees_nothing_gets_finite_numbers(arrays):
    nothing, no_bias = jnp.zeros((1, 1, 1, 7), bool), jnp.zeros((1, 1, 1, 1))
    mixed, *others = gradients(attention.attend, arrays, no_bias, nothing)
    mean = arrays["value"].mean(axis=2, keepdims=True)
    np.testing.assert_allclose(mixed, jnp.broadcast_to(mean, mixed.shape), rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(array).all() for array in others)


def test_bfloat16_keeps_its_dtype_and_rounds_once(arrays):
    everything, no_bias = jnp.ones((1, 1, 1, 7), bool), jnp.zeros((1, 1, 1, 1))
    small = {name: array.astype(jnp.bfloat16) for name, array in arrays.items()}
    wide = {name: array.astype(jnp.float32) for name, array in small.items()}
    found = gradients(attention.attend, small, no_bias, everything)
    expected = gradients(formula, wide, no_bias, everything)
    assert [x.dtype for x in found] == [jnp.bfloat16] * 4 + [jnp.float32]
    for got, want in zip(found[:4], expected[:4], strict=True):
        scale = np.abs(want).max()
        np.testing.assert_allclose(np.float32(got) / scale, want / scale, atol=2e-2)


def test_backward_pass_keeps_one_array_of_the_scores_size():
    def loss(query, key, value):
        bias = jnp.zeros((1, 3, 64, 64))
        return attention.attend(query, key, value, bias, jnp.ones((1, 1, 1, 64), bool)).sum()

    x = jax.ShapeDtypeStruct((2, 3, 64, 4), jnp.float32)
    _, kept = jax.eval_shape(lambda *xs: jax.vjp(loss, *xs), x, x, x)
    sizes = [leaf.size for leaf in jax.tree.leaves(kept)]
    assert sizes.count(2 * 3 * 64 * 64) == 1


@pytest.mark.parametrize("visible_shape", [(2, 1, 1, 7), (2, 1, 5, 7)])
def test_inputs_are_mixed_as_keys_and_values_made_of_them(arrays, rng, visible_shape):
    inputs = jnp.float32(rng.normal(size=(2, 7, 6)))
    key_kernel, value_kernel = jnp.float32(rng.normal(size=(2, 6, 3, 4)))
    visible = jnp.asarray(rng.random(visible_shape) < 0.7).at[..., 0].set(True)
    keep = jnp.float32(rng.random((2, 3, 7, 1)))
    key, value = (jnp.einsum("bkd,dhc->bhkc", inputs, k) for k in (key_kernel, value_kernel))
    expected = formula(arrays["query"], key, value * keep, 0, visible)
    query = jnp.einsum("bhqc,dhc->bhqd", arrays["query"], key_kernel)
    mixed = attention.attend_to_inputs(query, inputs, visible, keep)
    found = jnp.einsum("bhqd,dhc->bhqc", mixed, value_kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_positions_of_packed_tokens_begin_anew_in_each_segment():
    found = attention.positions_in(jnp.array([[1, 1, 1, 2, 2, 0], [3, 4, 4, 0, 0, 0]]))
    np.testing.assert_array_equal(found, [[0, 1, 2, 0, 1, 0], [0, 0, 1, 0, 1, 2]])
