"""Several methods at once: all parameters are there, and all act."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.methods import attention_pattern, base, combination, ia3, per_layer, prefix
from prompt_tuning.methods import prompt as prompt_method

PROMPT = prompt_method.Prompt(3)


class Times(base.Method):
    """x -> x·factor + 1."""

    factor: int = 0

    def __init__(self, factor):
        object.__setattr__(self, "factor", factor)

    def embed_input(self, site, x, soft_ids):
        return x * self.factor + 1

    def penalty(self, params):
        return jnp.float32(self.factor)


def test_none_is_left_out_and_one_method_stays_itself():
    assert combination.combine([None, None]) == base.NO_METHOD
    assert combination.combine([None, PROMPT]) is PROMPT
    both = combination.combine([None, PROMPT, ia3.IA3(), None])
    assert both.parts == (PROMPT, ia3.IA3())


def test_methods_act_one_after_the_other():
    both = combination.combine([Times(2), Times(10)])
    assert both.embed_input(None, 3, None) == (3 * 2 + 1) * 10 + 1


def test_penalties_are_added():
    assert combination.combine([PROMPT, ia3.IA3()]).penalty({}) is None
    assert combination.combine([PROMPT, Times(2), ia3.IA3(), Times(3)]).penalty({}) == 5


def test_soft_tokens_are_those_of_the_method_that_has_some():
    both = combination.combine([ia3.IA3(), prompt_method.Prompt(3, place="suffix")])
    assert both.soft_tokens == base.SoftTokens(3, "suffix")
    assert combination.combine([ia3.IA3(), prefix.Prefix(2)]).soft_tokens == base.SoftTokens()
    assert combination.combine([PROMPT, prefix.Prefix(2)]).num_extra_keys == 2


def test_two_methods_with_one_path_are_an_error(deep):
    twice = combination.combine([PROMPT, prompt_method.Prompt(2)])
    with pytest.raises(
        ValueError, match=r"add \['encoder/prompt/prompt'\]; .* Remove the gin file"
    ):
        dataclasses.replace(deep, method=twice).abstract_params()


def test_all_methods_together_are_exact_in_packed_rows(deep, examples, random_params):
    method = combination.combine(
        [
            PROMPT,
            per_layer.LayerPrompt(3),
            ia3.IA3(),
            prefix.Prefix(2),
            attention_pattern.AttentionPattern(["input->input"]),
        ]
    )
    of = dataclasses.replace(deep, method=method)
    trainable, frozen = params.split(random_params(of), (".*/(prompt|ia3_scaling|prefix/.*)",))
    assert params.flatten(trainable).keys() == of.adapter_paths

    def total(tree, batch):
        logits = of.logits(params.merge(tree, frozen), batch)
        return jnp.sum(logits[..., 3]), logits

    compiled = jax.jit(jax.grad(total, has_aux=True))
    examples.check(lambda batch: compiled(trainable, batch)[1])
    for path, leaf in params.flatten(compiled(trainable, examples.alone)[0]).items():
        assert np.abs(leaf).max() > 1e-6, path
