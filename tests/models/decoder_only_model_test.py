"""The model without encoder as a trainer and an answerer see it: loss, decodes, labels, gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.data.batches import batching
from prompt_tuning.models import decoding


def teacher(inputs, targets):
    """A batch of the same inputs with other targets."""
    return {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.int32),
    }


def test_loss_is_of_the_targets_alone(prefix_lm, decoder_only_teacher):
    plain = dataclasses.replace(prefix_lm.model, z_loss=0.0)
    loss, sums = jax.jit(plain.loss)(prefix_lm.params, decoder_only_teacher)
    logits = prefix_lm.logits(prefix_lm.params, decoder_only_teacher)
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    targets = decoder_only_teacher["decoder_target_tokens"]
    of_targets = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, -of_targets[targets > 0].sum(), rtol=1e-5)
    assert float(sums["tokens"]) == (targets > 0).sum()
    scores = jax.jit(plain.score)(prefix_lm.params, decoder_only_teacher)
    np.testing.assert_allclose(scores, np.where(targets > 0, of_targets, 0).sum(1), rtol=1e-5)


def test_loss_of_packed_rows_is_that_of_their_examples(prefix_lm, decoder_only_teacher):
    pairs = zip(
        decoder_only_teacher["encoder_input_tokens"],
        decoder_only_teacher["decoder_target_tokens"],
        strict=True,
    )
    examples = [{"inputs": i[i > 0], "targets": t[t > 0]} for i, t in pairs]
    grad = jax.jit(jax.value_and_grad(lambda w, batch: prefix_lm.model.loss(w, batch)[0]))
    loss, gradient = grad(prefix_lm.params, decoder_only_teacher)
    packed = batching.pack([examples], 1, 64, 40)
    packed_loss, packed_gradient = grad(prefix_lm.params, packed)
    np.testing.assert_allclose(packed_loss, loss, rtol=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3),
        packed_gradient,
        gradient,
    )


def test_greedy_gives_what_transformers_gives(decoder_only_golden, decoder_only):
    both = decoder_only.model.inputs_bidirectional_attention
    expected = decoder_only_golden.arrays[f"{'bidirectional' if both else 'causal'}_greedy"]
    ids = decoder_only.prefixed(decoder_only_golden.arrays["inputs"])
    predict = jax.jit(decoder_only.model.predict, static_argnums=2)
    tokens, _ = predict(decoder_only.params, ids, expected.shape[1])
    np.testing.assert_array_equal(tokens[:, 0], expected)


def test_cached_greedy_is_the_argmax_of_teacher_forced_logits(prefix_lm, decoder_only_teacher):
    ids = decoder_only_teacher["encoder_input_tokens"]
    predict = jax.jit(prefix_lm.model.predict, static_argnums=2)
    tokens, scores = (x[:, 0] for x in predict(prefix_lm.params, ids, 8))
    batch = teacher(ids, np.asarray(tokens))
    best = jnp.argmax(prefix_lm.logits(prefix_lm.params, batch), -1)
    np.testing.assert_array_equal(np.where(tokens > 0, best, 0), tokens)
    expected = jax.jit(prefix_lm.model.score)(prefix_lm.params, batch)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_scores_of_beams_are_those_of_teacher_forcing(prefix_lm, decoder_only_teacher):
    decoder = decoding.BeamSearch(3, alpha=0.0)
    ids = decoder_only_teacher["encoder_input_tokens"]
    searching = dataclasses.replace(prefix_lm.model, decoder=decoder)
    predict = jax.jit(searching.predict, static_argnums=2)
    tokens, scores = predict(prefix_lm.params, ids, 6)
    score = jax.jit(prefix_lm.model.score)
    for n in range(3):
        targets = np.asarray(tokens[:, n])
        found = score(prefix_lm.params, teacher(ids, targets))
        np.testing.assert_allclose(scores[:, n], found, rtol=1e-4, atol=1e-4)
    assert len({tuple(row) for row in np.asarray(tokens).reshape(-1, 6).tolist()}) > 3


def test_rank_labels_orders_labels_by_their_score(decoder_only, decoder_only_teacher):
    labels = np.array([[5, 9, 1, 0], [7, 1, 0, 0], [30, 6, 2, 1]], np.int32)
    ids = decoder_only_teacher["encoder_input_tokens"]
    tokens, scores = jax.jit(decoder_only.model.rank_labels)(decoder_only.params, ids, labels)
    score = jax.jit(decoder_only.model.score)
    rows = [np.tile(label, (len(ids), 1)) for label in labels]
    alone = np.stack([score(decoder_only.params, teacher(ids, targets)) for targets in rows], 1)
    order = np.argsort(-alone, axis=1)
    np.testing.assert_array_equal(tokens, labels[order])
    np.testing.assert_allclose(scores, np.take_along_axis(alone, order, 1), rtol=1e-4)


def test_label_scores_are_calibrated_by_the_input_without_content(
    decoder_only, decoder_only_teacher
):
    labels, neutral = np.array([[7, 1, 0], [5, 9, 1]], np.int32), np.array([[1]], np.int32)
    ids = decoder_only_teacher["encoder_input_tokens"]
    ranking = decoding.LabelRanking(("no", "maybe"), "calibration")
    model = dataclasses.replace(decoder_only.model, decoder=ranking)
    _, scores = jax.jit(model.rank_labels)(decoder_only.params, ids, labels, neutral)
    score = jax.jit(model.score)

    def sums(some):
        rows = [np.tile(label, (len(some), 1)) for label in labels]
        return np.stack([score(decoder_only.params, teacher(some, row)) for row in rows], 1)

    expected = sums(ids) - sums(neutral)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1), rtol=1e-4, atol=1e-4)


def test_gradient_is_for_the_prompt_alone(prefix_lm, decoder_only_teacher):
    trainable, frozen = params.split(prefix_lm.params, (".*/prompt/.*",))

    def loss(trainable):
        whole = params.merge(trainable, frozen)
        return prefix_lm.model.loss(whole, decoder_only_teacher)[0]

    gradient = jax.jit(jax.grad(loss))(trainable)
    ((path, values),) = params.flatten(gradient).items()
    assert path == "decoder/prompt/prompt" and values.shape == (prefix_lm.length, 24)
    assert (np.abs(values).max(-1) > 1e-4).all()


def test_weights_are_held_in_their_dtype_and_the_prompt_in_float32(prefix_lm):
    config = dataclasses.replace(prefix_lm.model.config, weights_dtype="bfloat16")
    halved = dataclasses.replace(prefix_lm.model, config=config)
    boxed = params.flatten(halved.abstract_params())
    assert boxed.pop("decoder/prompt/prompt").names == ("prompt", "prompt_embed")
    assert {str(leaf.value.dtype) for leaf in boxed.values()} == {"bfloat16"}


def test_a_bias_in_each_layer_is_refused(prefix_lm):
    config = dataclasses.replace(prefix_lm.model.config, relative_attention_per_layer=True)
    with pytest.raises(ValueError, match="relative_attention_per_layer=True for a decoder-only"):
        dataclasses.replace(prefix_lm.model, config=config)


@pytest.mark.parametrize("name", ["encoder_positions", "decoder_positions"])
def test_positions_are_refused(prefix_lm, decoder_only_teacher, name):
    batch = decoder_only_teacher | {name: decoder_only_teacher["decoder_target_tokens"]}
    with pytest.raises(ValueError, match=rf"has \['{name}'\]; expected none"):
        prefix_lm.model.logits(prefix_lm.params, batch)
