"""What methods share: a few steps of training on one batch."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax
import pytest

from prompt_tuning import optimizers, params
from prompt_tuning.models import model as model_lib

TRAINABLE = (".*/prompt/.*",)


@pytest.fixture
def learn(tiny) -> Callable[..., tuple[list[float], dict[str, np.ndarray]]]:
    """(model, {path: start of what it adds}, batch) -> losses, {path: what was trained}."""

    def go(model: model_lib.EncoderDecoderModel, added: Mapping[str, np.ndarray], batch, steps=12):
        weights = params.merge(tiny.base, params.unflatten(added))
        tuned, frozen = params.split(weights, TRAINABLE)
        assert params.flatten(tuned).keys() == model.added
        adafactor = optimizers.adafactor(0.3, start_step=1000)
        optimizer = optimizers.for_trainable(adafactor, TRAINABLE)

        @jax.jit
        def step(tuned, slots):
            def loss(tree):
                return model.loss(params.merge(tree, frozen), batch)

            (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(tuned)
            updates, slots = optimizer.update(gradient, slots, tuned)
            return optax.apply_updates(tuned, updates), slots, value

        slots, losses = optimizer.init(tuned), []
        for _ in range(steps):
            tuned, slots, value = step(tuned, slots)
            losses.append(float(value))
        return losses, params.flatten(jax.device_get(tuned))

    return go
