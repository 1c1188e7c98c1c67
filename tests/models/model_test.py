"""The model as a trainer sees it: loss, score, predict, gradients and their cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoding, model

CONFIG = config_lib.T5Config(
    vocab_size=64,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.1,
)
PROMPT_LENGTH = 20
TRAINABLE = ("encoder/prompt/.*",)


@pytest.fixture(scope="module")
def prompted() -> model.EncoderDecoderModel:
    return model.EncoderDecoderModel(CONFIG, prompt_method.Prompt(PROMPT_LENGTH))


@pytest.fixture(scope="module")
def weights(prompted):
    return jax.jit(prompted.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    soft = np.tile(64 + np.arange(PROMPT_LENGTH), (2, 1))
    targets = np.array([[5, 9, 33, 1, 0, 0], [40, 1, 0, 0, 0, 0]], np.int32)
    inputs = np.concatenate([soft, rng.integers(2, 64, (2, 44))], axis=1)
    return {
        "encoder_input_tokens": inputs.astype(np.int32),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }


@pytest.fixture(scope="module")
def log_probs(prompted, weights, batch):
    """log softmax and log Z of every target position, float64."""
    logits = np.asarray(jax.jit(prompted.logits)(weights, batch), np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    return logits - log_z[..., None], log_z


def of_targets(log_probs, batch):
    return np.take_along_axis(log_probs, batch["decoder_target_tokens"][..., None], -1)[..., 0]


def test_loss_and_sums(prompted, weights, batch, log_probs):
    divisors = {None: 1, "NUM_REAL_TARGET_TOKENS": 6, "AVERAGE_PER_SEQUENCE": 2, 4.0: 4}
    tuned = dataclasses.replace(prompted, z_loss=0.01)
    actual = jax.jit(
        lambda: [
            dataclasses.replace(tuned, loss_normalizing_factor=factor).loss(weights, batch)
            for factor in divisors
        ]
    )()
    log_probs, log_z = log_probs
    real = batch["decoder_target_tokens"] > 0
    z_loss = 0.01 * (log_z[real] ** 2).sum()
    total = -of_targets(log_probs, batch)[real].sum() + z_loss
    expected = {
        "loss": total,
        "z_loss": z_loss,
        "correct": (log_probs.argmax(-1) == batch["decoder_target_tokens"])[real].sum(),
        "tokens": 6,
    }
    for (loss, sums), divisor in zip(actual, divisors.values(), strict=True):
        np.testing.assert_allclose(loss, total / divisor, rtol=1e-5)
        assert sums.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(sums[name], expected[name], rtol=1e-5, err_msg=name)


def test_weights_weigh_the_tokens(prompted, weights, batch, log_probs):
    shares = np.array([[0, 2, 0, 0.5, 0, 0], [0, 0, 0, 0, 0, 0]], np.float32)
    plain = dataclasses.replace(prompted, z_loss=0.0)
    loss, sums = jax.jit(plain.loss)(weights, batch | {"decoder_loss_weights": shares})
    expected = -(of_targets(log_probs[0], batch) * shares).sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert float(sums["tokens"]) == 2.5


def test_score_is_the_log_probability_without_z_loss_and_smoothing(
    prompted, weights, batch, log_probs
):
    smoothed = dataclasses.replace(prompted, z_loss=1.0, label_smoothing=0.5)
    expected = (of_targets(log_probs[0], batch) * batch["decoder_loss_weights"]).sum(-1)
    actual = jax.jit(smoothed.score)(weights, batch)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_dropout_acts_only_with_an_rng_and_follows_it(prompted, weights, batch, log_probs):
    plain = dataclasses.replace(prompted, z_loss=0.0)
    keys = jax.vmap(jax.random.key)(jnp.array([1, 1, 2]))
    losses = jax.jit(jax.vmap(lambda key: plain.loss(weights, batch, key)[0]))(keys)
    once, again, other = losses.tolist()
    still = -(of_targets(log_probs[0], batch) * batch["decoder_loss_weights"]).sum()
    assert once == again
    assert min(abs(once - other), abs(once - still)) > 1e-2


def test_greedy_and_beam_search_give_what_transformers_gives(golden):
    ids, stored = golden.arrays["inputs"], golden.arrays
    length = stored["greedy"].shape[1]
    greedy = model.EncoderDecoderModel(golden.config, decoder=decoding.Greedy())
    tokens, _ = jax.jit(greedy.predict, static_argnums=2)(golden.params, ids, length)
    np.testing.assert_array_equal(tokens[:, 0], stored["greedy"])
    beams = dataclasses.replace(greedy, decoder=decoding.BeamSearch(4, alpha=0.0))
    tokens, scores = jax.jit(beams.predict, static_argnums=2)(golden.params, ids, length)
    np.testing.assert_array_equal(tokens, stored["beams"])
    np.testing.assert_allclose(scores, stored["beam_scores"], rtol=0, atol=1e-5)


def test_beam_scores_are_those_of_score(prompted, weights, batch):
    """The soft tokens are read in decoding as in scoring."""
    searching = dataclasses.replace(prompted, decoder=decoding.BeamSearch(2, alpha=0.0))
    ids = batch["encoder_input_tokens"]
    predict = jax.jit(searching.predict, static_argnums=2)
    tokens, scores = predict(weights, ids, 6)
    for n in range(2):
        targets = np.asarray(tokens[:, n])
        scored = {
            "encoder_input_tokens": ids,
            "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (targets > 0).astype(np.float32),
        }
        expected = jax.jit(prompted.score)(weights, scored)
        np.testing.assert_allclose(scores[:, n], expected, rtol=1e-4)
    other_prompt = params.merge(
        params.split(weights, TRAINABLE)[1],
        params.unflatten({prompt_method.PATH: weights["encoder"]["prompt"]["prompt"] + 1}),
    )
    assert not np.allclose(predict(other_prompt, ids, 6)[1], scores)


def loss_of_split(prompted, frozen, batch):
    return lambda trainable: prompted.loss(params.merge(trainable, frozen), batch)[0]


def test_gradient_is_for_the_prompt_alone(prompted, weights, batch):
    trainable, frozen = params.split(weights, TRAINABLE)
    gradient = jax.jit(jax.grad(loss_of_split(prompted, frozen, batch)))(trainable)
    (path, values), *others = params.flatten(gradient).items()
    assert (path, values.shape, others) == (prompt_method.PATH, (PROMPT_LENGTH, 16), [])
    # Against a central difference along the gradient itself.
    direction = jax.tree.map(lambda g: g / jnp.linalg.norm(g), gradient)
    loss = jax.jit(loss_of_split(prompted, frozen, batch))
    ahead, behind = (
        float(loss(jax.tree.map(lambda p, d, step=step: p + step * d, trainable, direction)))
        for step in (0.01, -0.01)
    )
    np.testing.assert_allclose((ahead - behind) / 0.02, jnp.linalg.norm(values), rtol=2e-2)


def flops(prompted, batch, trainable_patterns) -> float:
    """Of one compiled loss and gradient."""
    weights = nn.unbox(prompted.abstract_params())
    trainable, frozen = params.split(weights, trainable_patterns)

    def step(trainable, frozen, batch):
        return jax.value_and_grad(loss_of_split(prompted, frozen, batch))(trainable)

    # The batch is an argument: as a constant it would let XLA skip work.
    compiled = jax.jit(step).lower(trainable, frozen, batch).compile()
    return compiled.cost_analysis()["flops"]


def test_prompt_tuning_costs_at_most_0_70_of_full_fine_tuning(prompted, batch):
    # 2/3 in the limit: the forward pass and one of two matrix products of the backward pass.
    wide = dataclasses.replace(
        CONFIG, embed_dim=128, head_dim=64, mlp_dim=512, num_encoder_layers=1, num_decoder_layers=1
    )
    prompted = dataclasses.replace(prompted, config=wide)
    assert flops(prompted, batch, TRAINABLE) <= 0.70 * flops(prompted, batch, (".*",))


def test_logits_are_the_same_on_one_device_and_on_eight(prompted, weights, batch, log_probs):
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    assert mesh.size == 8
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    many = {key: jax.device_put(np.tile(ids, (4, 1)), rows) for key, ids in batch.items()}
    actual = jax.nn.log_softmax(jax.jit(prompted.logits)(weights, many))
    real = batch["decoder_target_tokens"] > 0
    np.testing.assert_allclose(actual[:2][real], log_probs[0][real], rtol=0, atol=2e-5)


def test_rank_labels_orders_labels_by_their_score(prompted, weights, batch):
    labels = np.array([[5, 9, 1, 0], [7, 1, 0, 0], [60, 61, 62, 1]], np.int32)
    ids = batch["encoder_input_tokens"]
    tokens, scores = jax.jit(prompted.rank_labels)(weights, ids, labels)
    alone = np.stack([jax.jit(prompted.score)(weights, one_target(ids, x)) for x in labels], 1)
    order = np.argsort(-alone, axis=1)
    np.testing.assert_array_equal(tokens, labels[order])
    np.testing.assert_allclose(scores, np.take_along_axis(alone, order, 1), rtol=1e-5)
    assert len({tuple(row) for row in order}) > 1 or order[0].tolist() != [0, 1, 2]


SHORT_AND_LONG = np.array([[7, 1, 0, 0], [60, 61, 62, 1], [5, 9, 1, 0]], np.int32)
NEUTRAL = np.array([[64, 65, 66, 67, 1]], np.int32)


@pytest.mark.parametrize("normalization", decoding.NORMALIZATIONS)
def test_label_scores_are_normalized(prompted, weights, batch, normalization):
    """By hand: log-softmax of the logits of each label, in numpy."""

    label_logits = jax.jit(prompted.logits)

    def sums(ids):
        columns = []
        for label in SHORT_AND_LONG:
            logits = np.asarray(label_logits(weights, one_target(ids, label)), np.float64)
            log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            columns.append(sum(log_probs[:, i, t] for i, t in enumerate(label) if t))
        return np.stack(columns, axis=1)

    ids = batch["encoder_input_tokens"]
    expected = {
        "none": sums(ids),
        "length": sums(ids) / [2, 4, 3],
        "calibration": sums(ids) - sums(NEUTRAL),
    }[normalization]
    ranking = decoding.LabelRanking(("no", "a long label", "maybe"), normalization)
    rank = jax.jit(dataclasses.replace(prompted, decoder=ranking).rank_labels)
    tokens, scores = rank(weights, ids, SHORT_AND_LONG, NEUTRAL)
    order = np.argsort(-expected, axis=1)
    np.testing.assert_array_equal(tokens, SHORT_AND_LONG[order])
    np.testing.assert_allclose(scores, np.take_along_axis(expected, order, 1), atol=1e-4)
    # A row alone, and a neutral input for each row, give the same.
    alone, each = rank(weights, ids[:1], SHORT_AND_LONG, NEUTRAL), np.tile(NEUTRAL, (len(ids), 1))
    np.testing.assert_allclose(alone[1][0], scores[0], atol=1e-5)
    np.testing.assert_allclose(rank(weights, ids, SHORT_AND_LONG, each)[1], scores, atol=1e-5)


def one_target(ids, target):
    """A batch that has the same target in each row."""
    targets = np.tile(target, (len(ids), 1))
    return {
        "encoder_input_tokens": ids,
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }


@pytest.mark.parametrize("policy", ["minimal", "full"])
def test_rematerialisation_changes_memory_and_nothing_else(prompted, weights, batch, policy):
    config = dataclasses.replace(CONFIG, remat_policy=policy)
    again = dataclasses.replace(prompted, config=config)
    results, kept = [], []
    for each in (prompted, again):

        def loss(w, each=each):
            return each.loss(w, batch, jax.random.key(3))[0]

        results.append(jax.jit(jax.value_and_grad(loss))(weights))
        _, pull = jax.eval_shape(lambda w, loss=loss: jax.vjp(loss, w), weights)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(pull)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), *results)
    assert kept[1] < kept[0]


def test_packed_sequences_are_counted_one_by_one(prompted, weights):
    batch = one_target(np.full((2, 3), 5), np.array([5, 1, 6, 1], np.int32))
    batch["decoder_segment_ids"] = np.array([[1, 1, 2, 2], [1, 1, 1, 1]], np.int32)
    average = dataclasses.replace(prompted, loss_normalizing_factor="AVERAGE_PER_SEQUENCE")
    assert float(average.normalizer(batch)) == 3


def test_logits_of_bfloat16_weights_are_near_those_of_float32(prompted, weights, batch):
    expected = jax.jit(prompted.logits)(weights, batch)
    halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16), weights)
    for dtype, tolerance in (("float32", 0.02), ("bfloat16", 0.05)):
        config = dataclasses.replace(CONFIG, dtype=dtype)
        small = dataclasses.replace(prompted, config=config)
        actual = jax.jit(small.logits)(halved, batch)
        assert actual.dtype == jnp.float32
        error = np.sqrt(np.mean((actual - expected) ** 2)) / np.std(expected)
        assert 0 < error < tolerance, dtype
