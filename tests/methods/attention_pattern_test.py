"""Who sees whom in the encoder, and that a prompt learns with it."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_tuning.methods import attention_pattern, combination

# Soft tokens 0 and 1 in front of input tokens 2 and 3: rows see columns.
TYPES = {
    "input->input": ["....", "....", "..xx", "..xx"],
    "input->prompt": ["....", "....", "xx..", "xx.."],
    "prompt->input": ["..xx", "..xx", "....", "...."],
    "prompt->prompt": ["xx..", "xx..", "....", "...."],
    "prompt->prompt;causal": ["x...", "xx..", "....", "...."],
}
SOFT = np.array([[True, True, False, False]])


def matrix(lines):
    return np.array([[letter == "x" for letter in line] for line in lines])


@pytest.mark.parametrize(
    "allowed",
    [
        ["input->prompt"],
        ["input->input"],
        ["prompt->input"],
        ["prompt->prompt"],
        ["prompt->prompt;causal"],
        ["input->input", "prompt->prompt;causal"],
        ["input->input", "prompt->input"],
        ["input->input", "prompt->prompt", "prompt->input"],
    ],
)
def test_what_is_allowed_is_seen(allowed):
    given = set(allowed)
    found = attention_pattern.AttentionPattern(given).allowed_pairs(SOFT)
    assert given == set(allowed)
    # The input always sees the prompt, and a soft token itself.
    expected = matrix(TYPES["input->prompt"]) | np.diag([True, True, False, False])
    for name in allowed:
        expected |= matrix(TYPES[name])
    np.testing.assert_array_equal(found, expected[None, None])


def test_by_default_all_is_seen():
    pattern = attention_pattern.AttentionPattern()
    for soft in (SOFT, SOFT[:, ::-1], ~SOFT):
        assert np.asarray(pattern.allowed_pairs(soft)).all()


def test_a_suffix_and_rows_that_differ():
    soft = np.array([[False, True, True, False], [True, False, False, False]])
    found = attention_pattern.AttentionPattern(["prompt->prompt;causal"]).allowed_pairs(soft)
    np.testing.assert_array_equal(found[0, 0], matrix([".xx.", ".x..", ".xx.", ".xx."]))
    np.testing.assert_array_equal(found[1, 0], matrix(["x...", "x...", "x...", "x..."]))


def masked(of, pattern):
    return dataclasses.replace(of, method=combination.combine([of.method, pattern]))


def test_packed_examples_are_as_alone(deep, examples, random_params):
    weights, found = random_params(deep), []
    for allowed in (["input->input"], attention_pattern.ALL):
        pattern = attention_pattern.AttentionPattern(allowed)
        compiled = jax.jit(masked(deep, pattern).logits)
        found.append(examples.check(lambda batch, of=compiled: of(weights, batch)))
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_prompt_that_does_not_see_the_input_is_the_same_for_all(deep, examples, random_params):
    pattern = attention_pattern.AttentionPattern(["input->input", "prompt->prompt"])
    of, ids = masked(deep, pattern), examples.alone
    net, weights = of.module, random_params(deep)
    encode = jax.jit(lambda ids: net.apply({"params": weights}, ids, method=net.encode))
    encoded = encode(ids["encoder_input_tokens"])
    np.testing.assert_allclose(encoded[0, :3], encoded[1, :3], atol=1e-6)
    assert np.abs(encoded[0, 3] - encoded[1, 3]).max() > 1e-2


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (["input->output"], r"has \['input->output'\]; expected names from .*prompt->input"),
        ("input->input", "is the string 'input->input'; expected a list"),
        (["prompt->prompt", "prompt->prompt;causal"], "expected only one of them"),
    ],
)
def test_what_is_no_pattern(allowed, message):
    with pytest.raises(ValueError, match=f"PROMPT_ATTENTION .*{message}"):
        attention_pattern.AttentionPattern(allowed)


def test_it_learns(learn, deep):
    found = learn("prompts/attention_pattern.gin", PROMPT_ATTENTION=["input->input"])
    assert found.after.keys() == {deep.prompt_path}
