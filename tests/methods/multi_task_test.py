"""Prompts of a shared half and a half for each task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.methods import multi_task
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model


class Site(nn.Module):
    """A module that calls hooks."""


N, P, D = 3, 4, 2
OWN = {
    "add": {"task_prompts": (N, P, D)},
    "concatenate": {"task_prompts": (N, 1, D)},
    "concatenate_features": {"task_prompts": (N, P, 1)},
    "project": {"task_kernels": (N, D, D), "task_biases": (N, D)},
}


def make(mode):
    return multi_task.MultiTaskPrompt(P, N, mode, task_length=1, task_features=1)


def table(mode, weights):
    """What the soft ids of all tasks give: [N, P, D]."""
    ids, x = jnp.arange(N * P)[None], jnp.zeros((1, N * P, D))
    return np.asarray(embed(mode, weights, ids, x)).reshape(N, P, D)


def embed(mode, weights, ids, x):
    site = Site().bind({"params": {"prompt": weights}})
    return make(mode).embed_input(site, x, ids)


def start(mode):
    config = config_lib.T5Config(16, D, 1, 4, 8, 1, 1)
    of = model.EncoderDecoderModel(config, make(mode))
    return of.init_adapter(jax.random.key(0))["encoder"]["prompt"]


@pytest.mark.parametrize("mode", multi_task.MODES)
def test_what_there_is_and_how_it_starts(mode):
    weights = start(mode)
    shared = P - (mode == "concatenate"), D - (mode == "concatenate_features")
    assert {name: leaf.shape for name, leaf in weights.items()} == {
        "prompt": shared,
        **OWN[mode],
    }
    assert {leaf.dtype for leaf in weights.values()} == {np.dtype("float32")}
    # Each task starts as what is shared.
    rows = table(mode, weights)
    for task in range(N):
        np.testing.assert_array_equal(rows[task, : shared[0], : shared[1]], weights["prompt"])


def test_rows_of_each_mode(rng):
    shared, own = rng.normal(size=(P, D)), rng.normal(size=(N, P, D))
    np.testing.assert_allclose(
        table("add", {"prompt": shared, "task_prompts": own}), shared + own, rtol=1e-6
    )
    found = table("concatenate", {"prompt": shared[1:], "task_prompts": own[:, :1]})
    for task in range(N):
        expected = np.concatenate([shared[1:], own[task, :1]])
        np.testing.assert_allclose(found[task], expected, rtol=1e-6)
    found = table("concatenate_features", {"prompt": shared[:, :1], "task_prompts": own[..., :1]})
    for task in range(N):
        expected = np.stack([shared[:, 0], own[task, :, 0]], axis=1)
        np.testing.assert_allclose(found[task], expected, rtol=1e-6)
    kernels, biases = rng.normal(size=(N, D, D)), rng.normal(size=(N, D))
    parts = {"prompt": shared, "task_kernels": kernels, "task_biases": biases}
    found = table("project", parts)
    for task in range(N):
        expected = shared @ (np.eye(D) + kernels[task] / D) + biases[task]
        np.testing.assert_allclose(found[task], expected, rtol=1e-5)


def test_rows_of_text_stay_as_they_are():
    x = jnp.ones((1, 3, D))
    found = embed("add", start("add"), jnp.array([[-5, P, -1]]), x)
    assert (found[0, [0, 2]] == 1).all() and (found[0, 1] != 1).any()


@pytest.mark.parametrize("mode", multi_task.MODES)
def test_gradient_reaches_the_shared_half_and_the_tasks_that_are_there(mode):
    ids, x = jnp.arange(P, 2 * P)[None], jnp.zeros((1, P, D))  # task 1

    def total(weights):
        return jnp.sum(embed(mode, weights, ids, x))

    gradient = jax.grad(total)(start(mode))
    assert (np.asarray(gradient.pop("prompt")) != 0).all()
    for leaf in gradient.values():
        assert (np.asarray(leaf[1]) != 0).all()
        assert not np.asarray(leaf[::2]).any()


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"mode": "multiply"}, "MULTI_TASK_MODE is 'multiply'; expected one of"),
        ({"num_tasks": 0}, "NUM_TASKS is 0; expected at least 1"),
        ({"num_tasks": "2"}, "NUM_TASKS is '2'"),
        ({"length": 0}, "PROMPT_LENGTH is 0; expected"),
        ({"mode": "concatenate", "task_length": 4}, "TASK_PROMPT_LENGTH is 4; .* PROMPT_LENGTH=4"),
        ({"mode": "concatenate"}, "TASK_PROMPT_LENGTH is None"),
        ({"mode": "concatenate_features"}, "TASK_PROMPT_FEATURES is None"),
    ],
)
def test_settings_that_fit_nothing(settings, part):
    with pytest.raises(ValueError, match=part):
        multi_task.MultiTaskPrompt(**({"length": 4, "num_tasks": 2} | settings))


def test_features_of_the_task_are_a_part_of_the_width():
    prompt = multi_task.MultiTaskPrompt(4, 2, "concatenate_features", task_features=D)
    with pytest.raises(
        ValueError, match="TASK_PROMPT_FEATURES is 2; expected less than EMBED_DIM=2"
    ):
        prompt.parameters(config_lib.T5Config(16, D, 1, 4, 8, 1, 1), {})


@pytest.mark.parametrize("mode", multi_task.MODES)
def test_two_tasks_learn_by_command_and_all_parts_move(learn, tiny_job, tmp_path, mode):
    for name in ("train.tsv", "eval.tsv"):
        head, *rows = (tiny_job.folder / name).read_text().splitlines()
        told = [f"<extra_id_{number % 2}>\t{row}" for number, row in enumerate(rows)]
        (tmp_path / name).write_text("\n".join([f"task\t{head}", *told, ""]))
    found = learn(
        "prompts/multi_task.gin",
        TRAIN_FILE=tmp_path / "train.tsv",
        EVAL_FILE=tmp_path / "eval.tsv",
        INPUT_TEMPLATE="{task} {text}",
        NUM_TASKS=2,
        MULTI_TASK_MODE=mode,
        TASK_PROMPT_LENGTH=1,
        TASK_PROMPT_FEATURES=4,
        PROMPT_LENGTH=3,
        PROMPT_PLACE="after_first",
    )
    shared = 3 - (mode == "concatenate"), 16 - 4 * (mode == "concatenate_features")
    expected = {
        "add": {"task_prompts": (2, 3, 16)},
        "concatenate": {"task_prompts": (2, 1, 16)},
        "concatenate_features": {"task_prompts": (2, 3, 4)},
        "project": {"task_kernels": (2, 16, 16), "task_biases": (2, 16)},
    }[mode] | {"prompt": shared}
    assert {path.rpartition("/")[2]: leaf.shape for path, leaf in found.after.items()} == expected
    for path, leaf in found.after.items():
        if path != prompt_method.PATH:
            moved = np.abs(leaf - found.before[path]).reshape(2, -1).mean(1)
            assert (moved > 0.01).all(), path


def test_paths_and_logical_axes_in_the_model():
    config = config_lib.T5Config(16, 8, 2, 4, 8, 1, 1)
    whole = model.EncoderDecoderModel(config, multi_task.MultiTaskPrompt(5, 2)).abstract_params()
    flat = params.flatten(whole)
    assert flat[prompt_method.PATH].names == ("prompt", "prompt_embed")
    own = flat["encoder/prompt/task_prompts"]
    assert own.value.shape == (2, 5, 8) and own.names == ("tasks", "prompt", "prompt_embed")
