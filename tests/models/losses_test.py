"""The loss against its formula in float64, and each normalising factor."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models import losses


def formula(logits, targets, smoothing, z):
    """Cross entropy with the smoothed one-hot, less its entropy, plus z log²Z; float64."""
    vocab_size = logits.shape[-1]
    wanted = np.full(logits.shape, smoothing / (vocab_size - 1))
    np.put_along_axis(wanted, targets[..., None], 1 - smoothing, axis=-1)
    log_z = np.log(np.exp(logits).sum(-1))
    entropy = -(wanted * np.log(np.where(wanted > 0, wanted, 1))).sum(-1)
    z_loss = z * log_z**2
    return -(wanted * (logits - log_z[..., None])).sum(-1) - entropy + z_loss, z_loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("z", [0.0, 1e-4, 0.3])
def test_cross_entropy_is_the_formula(rng, smoothing, z):
    logits, targets = rng.normal(size=(3, 5, 11)) * 4, rng.integers(0, 11, (3, 5))
    found = losses.cross_entropy(
        jnp.float32(logits), jnp.int32(targets), label_smoothing=smoothing, z_loss=z
    )
    for have, want in zip(found, formula(logits, targets, smoothing, z), strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_perfect_prediction_costs_nothing(smoothing):
    best = jnp.log(jnp.array([[[1 - smoothing] + 4 * [smoothing / 4]]]) + 1e-30)
    loss, _ = losses.cross_entropy(best, jnp.array([[0]]), label_smoothing=smoothing)
    np.testing.assert_allclose(loss, 0, atol=1e-6)


def test_huge_bfloat16_logits_stay_finite():
    logits = jnp.array([[[1e4, -1e4, 0.0]]], jnp.bfloat16)
    loss, _ = losses.cross_entropy(logits, jnp.array([[1]]))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [[2e4]], rtol=1e-2)


TARGETS = np.array([[5, 1, 0, 0], [3, 4, 1, 0], [0, 0, 0, 0]])
WEIGHTS = np.array([[1, 1, 0, 0], [0, 0.5, 1, 0], [0, 0, 0, 0]], np.float32)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (None, 1),
        (233472, 233472),
        (0.5, 0.5),
        ("NUM_REAL_TARGET_TOKENS", 3.5),
        ("NUM_TOTAL_TARGET_TOKENS", 12),
        ("AVERAGE_PER_SEQUENCE", 2),
    ],
)
def test_normalizer_truth_table(factor, expected):
    assert float(losses.normalizer(factor, jnp.array(TARGETS), jnp.array(WEIGHTS))) == expected


@pytest.mark.parametrize("factor", ["NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"])
def test_normalizer_of_a_batch_of_padding_is_not_zero(factor):
    nothing = jnp.zeros((2, 3))
    assert float(losses.normalizer(factor, jnp.zeros((2, 3), jnp.int32), nothing)) == 1


def test_unknown_normalizer_names_the_setting_and_the_choices():
    with pytest.raises(ValueError, match=r"LOSS_NORMALIZING_FACTOR.*'REAL'.*AVERAGE_PER_SEQUENCE"):
        losses.normalizer("REAL", jnp.array(TARGETS), jnp.array(WEIGHTS))
