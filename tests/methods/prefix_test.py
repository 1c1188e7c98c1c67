"""Prefix tuning: where its keys and values are, that packing and decoding have them too, and that it learns.

That logits are PEFT's is in inference/converter_test.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.methods import combination, prefix
from prompt_tuning.models import decoding


class Site(nn.Module):
    """A module that calls hooks."""


LAYER = "decoder/layers_0/prefix"


@pytest.fixture(scope="module")
def prefixed(deep):
    return dataclasses.replace(deep, method=combination.combine([deep.method, prefix.Prefix(3)]))


def test_it_stands_in_front_of_each_row():
    learned = {"key": jnp.array([[[1.0]], [[2.0]]]), "value": jnp.array([[[3.0]], [[4.0]]])}
    own = jnp.full((2, 1, 1, 1), 7.0)
    found = prefix.Prefix(2).keys_values(
        Site().bind({"params": {"prefix": learned}}), (own, own + 1)
    )
    for part, row in zip(found, ([1, 2, 7], [3, 4, 8]), strict=True):
        np.testing.assert_array_equal(part[:, 0, :, 0], [row, row])


def test_each_layer_of_the_decoder_has_its_own(prefixed):
    config = dataclasses.replace(prefixed.config, num_decoder_layers=3, remat_policy="full")
    deeper = dataclasses.replace(prefixed, config=config)
    shapes = params.flatten(nn.unbox(deeper.abstract_params()))
    added = deeper.adapter_paths - {deeper.prompt_path}
    assert {path: shapes[path].shape for path in added} == {
        f"decoder/layers_{i}/prefix/{part}": (3, 2, 16)
        for i in range(3)
        for part in ("key", "value")
    }


@pytest.mark.parametrize("policy", ["none", "full"])
def test_packed_examples_are_as_alone_and_every_vector_counts(
    prefixed, examples, random_params, policy
):
    config = dataclasses.replace(prefixed.config, remat_policy=policy)
    of = dataclasses.replace(prefixed, config=config)
    trainable, frozen = params.split(random_params(of), (".*/prefix/.*",))

    def total(tree, batch):
        logits = of.logits(params.merge(tree, frozen), batch)
        return jnp.sum(logits[..., 3]), logits

    compiled = jax.jit(jax.grad(total, has_aux=True))
    found = examples.check(lambda batch: compiled(trainable, batch)[1])
    # A row of one example is told no segments.
    plain = {name: x for name, x in examples.alone.items() if "segment" not in name}
    gradient, alone = compiled(trainable, plain)
    np.testing.assert_allclose(alone[0, :3], found[:3], atol=2e-5)
    gradient = params.flatten(gradient)
    assert gradient.keys() == {f"{LAYER}/key", f"{LAYER}/value"}
    for path, leaf in gradient.items():
        assert (np.abs(leaf).max(-1) > 1e-5).all(), path


@pytest.mark.parametrize(
    "decoder", [decoding.Greedy(), decoding.BeamSearch(3, alpha=0.0), decoding.Sampling(2)]
)
def test_decoding_scores_its_answers_as_teacher_forcing(prefixed, examples, random_params, decoder):
    of, weights = dataclasses.replace(prefixed, decoder=decoder), random_params(prefixed)
    ids = examples.alone["encoder_input_tokens"]
    predict = jax.jit(of.predict, static_argnums=2)
    tokens, scores = predict(weights, ids, 4, jax.random.key(1))
    count = tokens.shape[1]
    targets = np.asarray(tokens).reshape(-1, 4)
    batch = {
        "encoder_input_tokens": np.repeat(ids, count, axis=0),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": targets > 0,
    }
    assert (targets > 0).sum() > len(targets)
    expected = jax.jit(of.score)(weights, batch)
    np.testing.assert_allclose(np.ravel(scores), expected, atol=1e-4)


def test_labels_are_ranked_as_teacher_forcing_scores_them(prefixed, examples, random_params):
    weights, ids = random_params(prefixed), examples.alone["encoder_input_tokens"][:1]
    labels = np.array([[8, 9, 1], [10, 1, 0]], np.int32)
    ranked, scores = jax.jit(prefixed.rank_labels)(weights, ids, labels)
    batch = {
        "encoder_input_tokens": np.repeat(ids, 2, axis=0),
        "decoder_input_tokens": np.pad(labels, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": labels,
        "decoder_loss_weights": labels > 0,
    }
    expected = np.asarray(jax.jit(prefixed.score)(weights, batch))
    order = np.argsort(-expected)
    np.testing.assert_array_equal(ranked[0], labels[order])
    np.testing.assert_allclose(scores[0], expected[order], atol=1e-4)


def test_it_learns(learn):
    found = learn("prompts/prefix.gin", PROMPT_LENGTH=3)
    assert {path: leaf.shape for path, leaf in found.after.items()} == {
        f"{LAYER}/key": (3, 2, 16),
        f"{LAYER}/value": (3, 2, 16),
    }
    assert 0.5 < found.before[f"{LAYER}/key"].std() < 1.5
