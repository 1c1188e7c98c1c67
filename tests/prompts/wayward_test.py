"""The distance of a prompt from a text, and that it only holds the prompt back."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.prompts import module, wayward
from prompt_tuning.runtime import state

IDS = (7, 9, 30, 31)


def weights(embedding, prompt):
    return {"token_embedder": {"embedding": embedding}, "encoder": {"prompt": {"prompt": prompt}}}


def test_the_penalty_is_the_mean_squared_distance(rng):
    embedding, prompt = rng.normal(size=(2, 40, 3)).astype(np.float32)
    prompt = prompt[:4]
    penalty = wayward.Wayward(IDS, gamma=0.5)
    by_hand = np.mean([np.sum((p - embedding[i]) ** 2) for p, i in zip(prompt, IDS, strict=True)])
    value, gradient = jax.value_and_grad(penalty)(weights(embedding, prompt))
    np.testing.assert_allclose(value, 0.5 * by_hand, rtol=1e-5)
    moves = gradient["encoder"]["prompt"]["prompt"]
    np.testing.assert_allclose(moves, 0.25 * (prompt - embedding[np.array(IDS)]), rtol=1e-5)
    assert not np.asarray(gradient["token_embedder"]["embedding"]).any()
    assert penalty(weights(embedding, embedding[np.array(IDS)])) == 0


def test_a_table_of_bfloat16(rng):
    embedding = rng.normal(size=(40, 3)).astype(jax.numpy.bfloat16)
    near = embedding[np.array(IDS)].astype(np.float32)
    assert wayward.Wayward(IDS)(weights(embedding, near)) == 0


def test_a_text_as_long_as_the_prompt(tiny):
    model = dataclasses.replace(tiny.model, penalty=wayward.Wayward(IDS[:3]))
    part = "TASK_STRING has 3 pieces, the prompt 4 tokens; leave PROMPT_LENGTH"
    with pytest.raises(ValueError, match=part):
        state.load_model(model, tiny.vocabulary, checkpoint=tiny.checkpoint)


def test_the_loss_has_the_penalty(tiny, rng):
    prompt = rng.normal(size=(4, 16)).astype(np.float32)
    both = params.merge(tiny.base, params.unflatten({module.PATH: prompt}))
    penalty = wayward.Wayward(IDS, gamma=3.0)
    ids = rng.integers(3, 200, (2, 5)).astype(np.int32)
    batch = {
        "encoder_input_tokens": ids,
        "decoder_input_tokens": ids,
        "decoder_target_tokens": ids,
        "decoder_loss_weights": np.ones_like(ids),
    }
    plain, sums = tiny.model.loss(both, batch)
    held, same = dataclasses.replace(tiny.model, penalty=penalty).loss(both, batch)
    np.testing.assert_allclose(held - plain, penalty(both), rtol=1e-4)
    assert sums == same
