"""Adafactor against its formula in float64; schedules; what is frozen stays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning.training import optimizers

LM_ADAPTED = 1_100_000
PROMPT_PATTERN = ("encoder/prompt/.*",)


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def formula(p, gradients, *, start, rate, decay, scaled=False, factored=False):
    """Adafactor of Shazeer & Stern (2018) as T5X has it, in float64: p after each step."""
    v = np.zeros(p.shape)
    row, column = np.zeros(p.shape[0]), np.zeros(p.shape[1])
    for t, g in enumerate(gradients, start):
        beta = 1 - (t + 1.0) ** -0.8
        square = g**2 + 1e-30
        if factored:
            row = beta * row + (1 - beta) * square.mean(1)
            column = beta * column + (1 - beta) * square.mean(0)
            v = np.outer(row, column) / row.mean()
        else:
            v = beta * v + (1 - beta) * square
        u = g / np.sqrt(v)
        u = u / max(1.0, rms(u))
        size = max(1e-3, rms(p)) if scaled else 1.0
        p = (1 - decay) * p - rate * size * u
        yield p


def follow(optimizer, p, gradients):
    """The same through optax: p after each step."""
    p = jnp.float32(p)
    state = optimizer.init(p)
    update = jax.jit(optimizer.update)
    for g in gradients:
        updates, state = update(jnp.float32(g), state, p)
        p = optax.apply_updates(p, updates)
        yield np.asarray(p)


@pytest.mark.parametrize("start", [0, LM_ADAPTED])
def test_prompt_setting_follows_the_formula(rng, start):
    p, gradients = rng.normal(size=(100, 24)), rng.normal(size=(20, 100, 24)) * 0.01
    optimizer = optimizers.adafactor(0.3, start_step=start, weight_decay_rate=1e-5)
    expected = formula(p, gradients, start=start, rate=0.3, decay=1e-5)
    for have, want in zip(follow(optimizer, p, gradients), expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=2e-5)


def test_pre_training_setting_follows_the_formula(rng):
    p, gradients = rng.normal(size=(128, 160)), rng.normal(size=(20, 128, 160))
    gradients *= np.exp(rng.normal(size=(128, 1)))  # rows of different sizes
    optimizer = optimizers.adafactor(0.01, multiply_by_parameter_scale=True, factored=True)
    settings = {"start": 0, "rate": 0.01, "decay": 0, "scaled": True, "factored": True}
    expected = formula(p, gradients, **settings)
    for have, want in zip(follow(optimizer, p, gradients), expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=2e-6)
    shapes = {x.shape for x in jax.tree.leaves(optimizer.init(jnp.float32(p)))}
    assert {(128,), (160,)} <= shapes and p.shape not in shapes


@pytest.mark.parametrize("shape", [(100, 512), (512, 127), (300,), ()])
def test_small_leaves_are_not_factored(shape):
    state = optimizers.adafactor(1.0, factored=True).init(jnp.zeros(shape))
    assert optax.tree.get(state, "v").shape == shape


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_from_the_lm_adapted_step_every_update_has_an_rms_of_the_rate(rng, size):
    optimizer = optimizers.adafactor(0.3, start_step=LM_ADAPTED, weight_decay_rate=1e-5)
    p, gradients = rng.normal(size=(100, 24)), rng.normal(size=(20, 100, 24)) * size
    before = jnp.float32(p)
    for after in follow(optimizer, p, gradients):
        np.testing.assert_allclose(rms(after - (1 - 1e-5) * before), 0.3, rtol=1e-5)
        before = after


def test_the_rate_is_read_at_the_absolute_step():
    optimizer = optimizers.adafactor(lambda step: jnp.float32(step) * 1e-3, start_step=500)
    state = optimizer.init(jnp.ones(3))
    for expected in (0.5, 0.501):
        updates, state = optimizer.update(jnp.ones(3), state, jnp.ones(3))
        np.testing.assert_allclose(updates, -expected, rtol=1e-5)
    assert {int(count) for _, count in optax.tree.get_all_with_path(state, "count")} == {502}


def test_a_tiny_parameter_moves_by_epsilon2_when_scaled():
    optimizer = optimizers.adafactor(1.0, multiply_by_parameter_scale=True)
    zero = jnp.zeros(4)
    updates, _ = optimizer.update(jnp.ones(4), optimizer.init(zero), zero)
    np.testing.assert_allclose(updates, -1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("factors", "values"),
    [
        ("constant", {0: 0.3, 10**6: 0.3}),
        # No rate is lower than 1e-8.
        ("linear_warmup", {0: 1e-8, 25: 0.25, 100: 1, 10**6: 1}),
        ("linear_decay", {0: 1e-8, 50: 0.15, 100: 0.3, 101: 0.225, 103: 0.075, 104: 1e-8}),
        ("rsqrt_decay", {0: 0.1, 100: 0.1, 400: 0.05, 10**6: 0.001}),
        ("rsqrt_normalized_decay", {0: 1, 100: 1, 400: 0.5, 10**6: 0.01}),
        ("decay_every", {0: 1, 199: 1, 200: 0.25, 399: 0.25, 400: 0.0625, 2800: 1e-8}),
        # Half a cycle of the cosine, then from 1 again.
        ("cosine_decay", {0: 1, 100: 1, 300: 0.85355339, 500: 0.5, 700: 0.14644661, 900: 1}),
        ("constant * linear_warmup * rsqrt_decay", {50: 0.015, 400: 0.015}),
        ("constant*cosine_decay", {500: 0.15}),
    ],
)
@pytest.mark.parametrize("offset", [0, LM_ADAPTED])
def test_schedule_truth_table(factors, values, offset):
    """Computed by hand from the formulas of T5X's create_learning_rate_scheduler."""
    schedule = optimizers.learning_rate_schedule(
        factors,
        0.3,
        warmup_steps=100,
        decay_factor=0.25,
        steps_per_decay=200,
        steps_per_cycle=800,
        step_offset=offset,
    )
    for step, expected in values.items():
        found = jax.jit(schedule)(jnp.int32(step + offset))
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=str(step))
    np.testing.assert_allclose(schedule(jnp.int32(0)), schedule(jnp.int32(offset)))


def test_a_schedule_has_a_least_rate():
    schedule = optimizers.learning_rate_schedule("linear_decay", min_learning_rate=1e-3)
    np.testing.assert_allclose(schedule(jnp.int32(LM_ADAPTED)), 1e-3)


def test_unknown_schedule_factor_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown factors \['cosine'\].*linear_warmup"):
        optimizers.learning_rate_schedule("constant * cosine")


@pytest.mark.parametrize(
    ("factor", "setting"),
    [
        *((f"{name}_decay", "WARMUP_STEPS") for name in ("linear", "rsqrt", "rsqrt_normalized")),
        ("linear_warmup", "WARMUP_STEPS"),
        ("decay_every", "STEPS_PER_DECAY"),
        ("cosine_decay", "STEPS_PER_CYCLE"),
    ],
)
def test_a_schedule_does_not_divide_by_zero(factor, setting):
    with pytest.raises(ValueError, match=f"{setting} is 0; expected at least 1.*'{factor}'"):
        optimizers.learning_rate_schedule(f"constant * {factor}", **{setting.lower(): 0})
    optimizers.learning_rate_schedule(**{setting.lower(): 0})


def model_tree(rng):
    return {
        "encoder": {
            "prompt": {"prompt": jnp.float32(rng.normal(size=(5, 4)))},
            "layers_0": {"kernel": jnp.float32(rng.normal(size=(130, 128)))},
        },
        "token_embedder": {"embedding": jnp.float32(rng.normal(size=(7, 4)))},
    }


def test_a_gradient_of_the_whole_model_moves_the_prompt_alone(rng):
    before = weights = model_tree(rng)
    optimizer = optimizers.for_trainable(
        optimizers.adafactor(0.3, weight_decay_rate=1e-5, factored=True), PROMPT_PATTERN
    )
    state = optimizer.init(weights)
    slots = [leaf.shape for leaf in jax.tree.leaves(state)]
    # The step, placeholders of optax for factored moments, and the second moment of the prompt.
    assert sorted(slots) == [(), (1,), (1,), (5, 4)]
    for _ in range(3):
        updates, state = jax.jit(optimizer.update)(model_tree(rng), state, weights)
        weights = optax.apply_updates(weights, updates)
    for path, moves in {
        ("encoder", "prompt", "prompt"): True,
        ("encoder", "layers_0", "kernel"): False,
        ("token_embedder", "embedding"): False,
    }.items():
        old, new = before, weights
        for key in path:
            old, new = old[key], new[key]
        assert (np.asarray(old).tobytes() != np.asarray(new).tobytes()) == moves, path


def test_a_tree_of_the_prompt_alone_gets_the_same_updates(rng):
    adafactor = optimizers.adafactor(0.3)
    prompt = {"encoder": {"prompt": {"prompt": jnp.float32(rng.normal(size=(5, 4)))}}}
    gradient = jax.tree.map(jnp.cos, prompt)
    plain, _ = adafactor.update(gradient, adafactor.init(prompt), prompt)
    wrapped = optimizers.for_trainable(adafactor, PROMPT_PATTERN)
    masked, _ = wrapped.update(gradient, wrapped.init(prompt), prompt)
    for have, want in zip(jax.tree.leaves(masked), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(have, want)


def test_a_pattern_that_matches_nothing_is_an_error_at_init(rng):
    optimizer = optimizers.for_trainable(optimizers.adafactor(0.3), ("encoder/promt/.*",))
    with pytest.raises(ValueError, match="encoder/promt"):
        optimizer.init(model_tree(rng))
