"""Adafactor with T5X's settings, learning-rate schedules, and frozen parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from prompt_tuning import annotations
from prompt_tuning import params as params_lib

Schedule = Callable[[Array], Array]
LEAST_RATE = 1e-8


def learning_rate_schedule(
    factors: str = "constant",
    base_learning_rate: annotations.PositiveFloat = 0.3,
    warmup_steps: annotations.NonNegativeInt = 1000,
    decay_factor: annotations.NonNegativeFloat = 0.5,
    steps_per_decay: annotations.NonNegativeInt = 20_000,
    steps_per_cycle: annotations.NonNegativeInt = 100_000,
    step_offset: int = 0,
    min_learning_rate: annotations.NonNegativeFloat = LEAST_RATE,
) -> Schedule:
    """Returns T5X's create_learning_rate_scheduler: a product of named factors of the step.

    Args:
      factors: LEARNING_RATE_FACTORS, names joined by "*", of a step s counted from
        `step_offset`: constant (`base_learning_rate`); linear_warmup (s / warmup_steps, at
        most 1); linear_decay (`base_learning_rate` times the lesser of s / warmup_steps and
        1 + decay_factor (warmup_steps - s): warm-up and constant are in it); rsqrt_decay
        (1 / sqrt(max(s, warmup_steps))); rsqrt_normalized_decay (the same times
        sqrt(warmup_steps)); decay_every (decay_factor to the power of the whole
        steps_per_decay in s); cosine_decay (from 1 to 0 in each steps_per_cycle after
        warmup_steps).
      base_learning_rate: LEARNING_RATE.
      warmup_steps: WARMUP_STEPS.
      decay_factor: DECAY_FACTOR; of linear_decay it is what a step takes away.
      steps_per_decay: STEPS_PER_DECAY.
      steps_per_cycle: STEPS_PER_CYCLE.
      step_offset: STEP_OFFSET, where counting begins; lower steps are as this one.
      min_learning_rate: no rate is lower.

    Raises:
      ValueError: a factor is unknown, or divides by a number of steps below 1.
    """
    known: dict[str, Callable[[Array, Array], Array | float]] = {
        "constant": lambda step, s: base_learning_rate,
        "linear_warmup": lambda step, s: jnp.minimum(1.0, s / warmup_steps),
        "linear_decay": lambda step, s: (
            base_learning_rate
            * jnp.minimum(s / warmup_steps, 1.0 + decay_factor * (warmup_steps - s))
        ),
        "rsqrt_decay": lambda step, s: jax.lax.rsqrt(jnp.maximum(s, float(warmup_steps))),
        "rsqrt_normalized_decay": lambda step, s: jax.lax.rsqrt(jnp.maximum(s / warmup_steps, 1.0)),
        "decay_every": lambda step, s: decay_factor ** (step // steps_per_decay).astype(s.dtype),
        "cosine_decay": lambda step, s: (
            0.5 + 0.5 * jnp.cos(jnp.pi * (jnp.maximum(s - warmup_steps, 0.0) / steps_per_cycle % 1))
        ),
    }
    names = [name.strip() for name in factors.split("*")]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"LEARNING_RATE_FACTORS is {factors!r}, with unknown factors {unknown}; expected names from "
            f"{sorted(known)}, joined by '*'. Correct or remove the unknown factors."
        )
    divisors = {"decay_every": ("STEPS_PER_DECAY", steps_per_decay)}
    divisors |= {"cosine_decay": ("STEPS_PER_CYCLE", steps_per_cycle)}
    warming = ("linear_warmup", "linear_decay", "rsqrt_decay", "rsqrt_normalized_decay")
    divisors |= dict.fromkeys(warming, ("WARMUP_STEPS", warmup_steps))
    for name in names:
        setting, steps = divisors.get(name, ("", 1))
        if steps < 1:
            raise ValueError(
                f"{setting} is {steps}; expected at least 1, because {name!r} of LEARNING_RATE_FACTORS "
                f"divides by it. Set {setting}, or remove {name!r} from LEARNING_RATE_FACTORS."
            )

    def schedule(step: Array) -> Array:
        step = jnp.maximum(jnp.asarray(step) - step_offset, 0)
        since = step.astype(jnp.float32)
        rate = jnp.asarray(1.0, jnp.float32)
        for name in names:
            rate = rate * known[name](step, since)
        return jnp.maximum(rate, min_learning_rate)

    return schedule


def adafactor(
    learning_rate: annotations.PositiveFloat | Schedule,
    *,
    start_step: int = 0,
    decay_rate: annotations.PositiveFloat = 0.8,
    clipping_threshold: annotations.PositiveFloat = 1.0,
    weight_decay_rate: annotations.NonNegativeFloat = 0.0,
    multiply_by_parameter_scale: bool = False,
    factored: bool = False,
    epsilon1: annotations.NonNegativeFloat = 1e-30,
) -> optax.GradientTransformation:
    """optax.adafactor (Shazeer & Stern, 2018) with T5X's defaults and absolute steps.

    The counters of its state start at `start_step`, that of the checkpoint, while the second
    moment starts at zero. With 1,100,000 (LM-adapted T5) the update is clipped for tens of
    thousands of steps: each step moves a parameter by an RMS of exactly the learning rate.

    Args:
      learning_rate: a number, or a function of the absolute step.
      start_step: step of the checkpoint that training starts from.
      decay_rate: exponent c in the decay 1 - (step + 1)^-c of the second moment.
      clipping_threshold: largest RMS of an update, before the learning rate.
      weight_decay_rate: not multiplied by the learning rate.
      multiply_by_parameter_scale: T5's setting for pre-training.
      factored: keeps row and column means of the second moment for matrices of at least 128 x 128.
      epsilon1: added to the squared gradient.
    """
    transformation = optax.adafactor(
        learning_rate,
        decay_rate=decay_rate,
        clipping_threshold=clipping_threshold,
        weight_decay_rate=weight_decay_rate or None,
        multiply_by_parameter_scale=multiply_by_parameter_scale,
        factored=factored,
        eps=epsilon1,
    )

    def init(params: optax.Params) -> optax.OptState:
        return optax.tree.set(transformation.init(params), count=jnp.asarray(start_step, jnp.int32))

    return optax.GradientTransformation(init, transformation.update)


def for_trainable(
    optimizer: optax.GradientTransformation, trainable: tuple[str, ...]
) -> optax.GradientTransformation:
    """`optimizer` for what a pattern of `trainable` matches; nothing else moves.

    Our trainer hands it only trainable leaves; under a trainer that differentiates
    the whole model the frozen leaves get zero updates and no slots.
    """

    return optax.multi_transform(
        {params_lib.TRAINABLE: optimizer, params_lib.FROZEN: optax.set_to_zero()},
        lambda tree: params_lib.trainable_labels(tree, trainable),
    )
