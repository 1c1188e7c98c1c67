"""Losses of labels: by hand, through the model, and that a prompt learns by them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.cli import main as cli
from prompt_tuning.data.batches import batching, soft_tokens
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import label_losses

LABELS = [[5, 6, 1], [7, 1]]


def logits(*log_probabilities):
    """[rows, 2 labels, 3 tokens, V 8] whose labels have these log-likelihoods a token."""
    out = np.full((len(log_probabilities), 2, 3, 8), -1e9, np.float32)
    for row, of_labels in enumerate(log_probabilities):
        for n, (label, mean) in enumerate(zip(LABELS, of_labels, strict=True)):
            for index, token in enumerate([*label, *[1] * (3 - len(label))]):
                out[row, n, index, token] = mean
                # The rest of the probability is elsewhere.
                out[row, n, index, 0] = np.log1p(-np.exp(mean))
    return jnp.asarray(out)


TARGETS = np.array([[5, 6, 1, 0], [7, 1, 0, 0], [0, 0, 0, 0]], np.int32)


@pytest.mark.parametrize("normalize", [True, False])
def test_perceptron(normalize):
    loss = label_losses.LabelLoss(LABELS, hinge=0.5, length_normalize=normalize)
    actual = loss(logits((-1.0, -1.2), (-1.0, -3.0), (-1.0, -1.0)), TARGETS)
    # The first row is right, by less than the margin; the second is wrong; the third is empty.
    ahead = -1.0 - -1.2 if normalize else -3.0 - -2.4
    behind = -1.0 - -3.0 if normalize else -3.0 - -6.0
    np.testing.assert_allclose(actual[0], [0.5 - ahead, 0.5 + behind, 0], atol=1e-5)
    np.testing.assert_array_equal(actual[1], [ahead > 0, 0, 0])
    np.testing.assert_array_equal(actual[2], [1, 1, 0])
    far = loss(logits((-0.1, -9.0)), TARGETS[:1])
    assert far[0][0] == 0


def test_cross_entropy():
    loss = label_losses.LabelLoss(LABELS, kind="cross_entropy")
    actual, *_ = loss(logits((-1.0, -1.2), (-1.0, -3.0), (-1.0, -1.0)), TARGETS)
    expected = [np.log(1 + np.exp(-0.2)), np.log(1 + np.exp(2.0)), 0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_target_that_is_no_label_is_no_number():
    actual, *_ = label_losses.LabelLoss(LABELS)(logits((-1.0, -1.0)), np.array([[5, 1, 0]]))
    assert np.isnan(actual[0])


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"kind": "hinge"}, "LABEL_LOSS_KIND is 'hinge'; expected one of"),
        ({"hinge": -1.0}, "HINGE is -1.0; expected a number of at least 0"),
        (
            {"labels": [[5, 1], [5, 1, 0]]},
            "LABELS have the ids .* two or more labels with different ids",
        ),
    ],
)
def test_settings_that_fit_nothing(settings, part):
    with pytest.raises(ValueError, match=part):
        label_losses.LabelLoss(**({"labels": LABELS} | settings))


@pytest.mark.parametrize("kind", label_losses.KINDS)
def test_a_prompt_learns_to_rank(tiny, few_steps, rng, kind):
    loss = label_losses.LabelLoss([[9, 1], [10, 11, 1]], kind=kind, hinge=1.0)
    model = dataclasses.replace(tiny.model, label_loss=loss)
    soft = soft_tokens.SoftTokens(np.arange(256, 260))
    examples = [
        soft.insert({"inputs": np.append(rng.integers(3, 90, 3), 1), "targets": np.array(target)})
        for target in ([9, 1], [9, 1], [10, 11, 1])
    ]
    batch = batching.pad(examples, 4, 8, 4)
    start = {prompt_method.PATH: rng.normal(size=(4, 16)).astype(np.float32)}
    losses, _ = few_steps(model, start, batch)
    assert losses[-1] < 0.9 * losses[0]
    params = jax.jit(model.init)(jax.random.key(0))
    _, sums = jax.jit(model.loss)(params, batch)
    labels, scores = jax.jit(model.rank_labels)(
        params, batch["encoder_input_tokens"], loss.padded()
    )
    assert float(sums["tokens"]) == 3  # rows
    lengths = np.count_nonzero(labels, axis=-1)
    best = np.argmax(np.asarray(scores) / lengths, axis=-1)
    right = [
        np.array_equal(labels[i, best[i]][:3], batch["decoder_target_tokens"][i, :3])
        for i in range(3)
    ]
    assert float(sums["correct"]) == sum(right)


def test_by_command(tiny_job, tmp_path):
    files = ["runs/train.gin", "optimizers/perceptron.gin"]
    settings = {"LABELS": ["good", "bad"], "MODEL_DIR": tmp_path, "TRAIN_STEPS": 1002}
    result = cli.run(tiny_job.command("train", *files, **settings, BATCH_SIZE=16))
    assert result["step"] == 1002
    with pytest.raises(ValueError, match="PACK=True does not work with LABEL_LOSS"):
        cli.run(tiny_job.command("train", *files, **settings, PACK=True))
