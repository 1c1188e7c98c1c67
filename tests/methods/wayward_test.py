"""The distance of a prompt from a text, and that it only holds the prompt back."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.data.batches import batching
from prompt_tuning.methods import combination, multi_task, wayward
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.training import state

IDS = (7, 9, 30, 31)


def weights(embedding, prompt):
    return {"token_embedder": {"embedding": embedding}, "encoder": {"prompt": {"prompt": prompt}}}


def held_near(tiny, penalty):
    return dataclasses.replace(tiny.model, method=combination.combine([tiny.model.method, penalty]))


def test_the_penalty_is_the_mean_squared_distance(rng):
    embedding, prompt = rng.normal(size=(2, 40, 3)).astype(np.float32)
    prompt = prompt[:4]
    penalty = wayward.Wayward(IDS, gamma=0.5).penalty
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
    assert wayward.Wayward(IDS).penalty(weights(embedding, near)) == 0


def test_a_text_as_long_as_the_prompt(tiny):
    model = held_near(tiny, wayward.Wayward(IDS[:3]))
    part = "TASK_STRING has 3 tokens, but the prompt has 4; .* PROMPT_LENGTH"
    with pytest.raises(ValueError, match=part):
        state.load_model(model, tiny.vocabulary, checkpoint=tiny.checkpoint)


def test_a_part_of_each_vector(tiny):
    prompt = multi_task.MultiTaskPrompt(4, 2, "concatenate_features", task_features=6)
    method = combination.combine([prompt, wayward.Wayward(IDS)])
    model = dataclasses.replace(tiny.model, method=method)
    part = r"the prompt has shape \(4, 10\) and the embedding \(256, 16\); .* Set MULTI_TASK_MODE"
    with pytest.raises(ValueError, match=part):
        state.load_model(model, tiny.vocabulary, checkpoint=tiny.checkpoint)


def test_it_learns_and_stays_near_the_text(tiny, few_steps, rng):
    near = tiny.base["token_embedder"]["embedding"][np.array(IDS)]
    inputs = np.concatenate([256 + np.arange(4), rng.integers(3, 90, 3), [1]])
    examples = [{"inputs": inputs, "targets": np.array([9, 1])}] * 4
    batch, start = batching.pad(examples, 4, 8, 2), {prompt_method.PATH: near}
    found = {}
    for gamma in (0.01, 10.0):
        model = held_near(tiny, wayward.Wayward(IDS, gamma))
        losses, trained = few_steps(model, start, batch)
        found[gamma] = losses, np.linalg.norm(trained[prompt_method.PATH] - near)
    (falling, far), (_, close) = found.values()
    assert falling[-1] < 0.95 * falling[0]
    assert 0 < close < 0.5 * far


def test_the_loss_has_the_penalty(tiny, rng):
    prompt = rng.normal(size=(4, 16)).astype(np.float32)
    both = params.merge(tiny.base, params.unflatten({prompt_method.PATH: prompt}))
    penalty = wayward.Wayward(IDS, gamma=3.0)
    ids = rng.integers(3, 200, (2, 5)).astype(np.int32)
    batch = {
        "encoder_input_tokens": ids,
        "decoder_input_tokens": ids,
        "decoder_target_tokens": ids,
        "decoder_loss_weights": np.ones_like(ids),
    }
    plain, sums = jax.jit(tiny.model.loss)(both, batch)
    held, same = jax.jit(held_near(tiny, penalty).loss)(both, batch)
    np.testing.assert_allclose(held - plain, penalty.penalty(both), rtol=1e-4)
    assert sums == same
