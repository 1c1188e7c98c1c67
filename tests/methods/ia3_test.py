"""IA3: what its factors are of, that decoding has them too, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.methods import combination, ia3

ENCODER, DECODER = ("encoder/layers_0", "encoder/layers_1"), "decoder/layers_0"
ATTENTIONS_OF_DECODER = (f"{DECODER}/self_attention", f"{DECODER}/encoder_decoder_attention")


@pytest.fixture(scope="module")
def scaled(deep):
    return dataclasses.replace(deep, method=combination.combine([deep.method, ia3.IA3()]))


@pytest.fixture(scope="module")
def weights(scaled, random_params):
    return random_params(scaled)


@pytest.fixture(scope="module")
def logits(scaled, weights):
    compiled = jax.jit(scaled.logits)
    return lambda batch: compiled(weights, batch)


def test_each_attention_and_feed_forward_part_has_its_factors(scaled):
    shapes = params.flatten(nn.unbox(scaled.abstract_params()))
    attentions = [*(f"{layer}/attention" for layer in ENCODER), *ATTENTIONS_OF_DECODER]
    expected = {
        f"{place}/{name}/ia3_scaling": (2, 16)
        for place in attentions
        for name in ("key_scaling", "value_scaling")
    } | {f"{layer}/mlp/scaling/ia3_scaling": (16,) for layer in (*ENCODER, DECODER)}
    added = scaled.adapter_paths - {scaled.prompt_path}
    assert {path: shapes[path].shape for path in added} == expected


def folded(weights):
    """The base with the factors in its kernels: columns of key and value, rows of wo."""
    kernels = {"key_scaling": "key", "value_scaling": "value", "scaling": "wo"}
    flat = params.flatten(weights)
    for path in [path for path in flat if path.endswith("/ia3_scaling")]:
        place, name, _ = path.rsplit("/", 2)
        factors, kernel = flat.pop(path), f"{place}/{kernels[name]}/kernel"
        flat[kernel] = flat[kernel] * (factors[:, None] if name == "scaling" else factors.ravel())
    return params.unflatten(flat)


def test_factors_are_of_keys_values_and_hidden_activations(deep, weights, logits, examples):
    compiled, plain = jax.jit(deep.logits), folded(weights)
    expected = examples.check(lambda batch: compiled(plain, batch))
    np.testing.assert_allclose(examples.check(logits), expected, atol=2e-5)


def test_cached_steps_give_the_teacher_forced_logits(scaled, weights, logits, examples):
    net, variables, batch = scaled.module, {"params": weights}, examples.alone
    ids, inputs = batch["encoder_input_tokens"], batch["decoder_input_tokens"]

    @jax.jit
    def two_steps():
        encoded = net.apply(variables, ids, method=net.encode)
        cache, found = net.apply(variables, encoded, 5, method=net.start_cache), []
        for i in range(2):
            last = (inputs[:, i], jnp.int32(i), cache, ids)
            step, cache = net.apply(variables, *last, method=net.step)
            found.append(step)
        return jnp.stack(found, axis=1)

    np.testing.assert_allclose(two_steps(), logits(batch)[:, :2], atol=2e-5)


def test_it_learns(learn):
    found = learn("prompts/ia3.gin", LEARNING_RATE=0.03)
    assert len(found.after) == 2 * 3 + 5
    assert all(path.endswith("/ia3_scaling") for path in found.after)
    for leaf in found.before.values():
        np.testing.assert_array_equal(leaf, 1.0)
