"""A run's schedule, its state and its folder."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model
from prompt_tuning.training import run, state


@pytest.mark.parametrize(
    ("train_steps", "start_step", "checkpoint_step", "first"),
    [(105, None, 100, 100), (5, 0, 100, 0), (105, 100, None, 100), (1, None, 0, 0)],
)
def test_first_step(train_steps, start_step, checkpoint_step, first):
    assert run.TrainConfig(train_steps, start_step).first_step(checkpoint_step) == first


@pytest.mark.parametrize(
    ("train_steps", "start_step", "checkpoint_step", "part"),
    [
        (100, None, 100, "TRAIN_STEPS=100 is not greater than the starting step 100"),
        (100, 200, 0, "TRAIN_STEPS=100 is not greater than the starting step 200"),
        (100, None, None, "START_STEP. Set it"),
    ],
)
def test_schedules_that_do_nothing(train_steps, start_step, checkpoint_step, part):
    with pytest.raises(ValueError, match=part):
        run.TrainConfig(train_steps, start_step).first_step(checkpoint_step)


@pytest.mark.parametrize("value", ["5", 2.0, True, -1])
@pytest.mark.parametrize(
    "setting",
    ["train_steps", "start_step", "eval_period", "log_period", "keep", "train_steps_relative"],
)
def test_counts_are_whole_numbers(setting, value):
    with pytest.raises(ValueError, match=f"{setting.upper()} is {value!r}; expected an integer"):
        run.TrainConfig(**{"train_steps": 10, setting: value})


@pytest.mark.parametrize("setting", ["eval_period", "log_period", "keep"])
def test_periods_are_positive(setting):
    with pytest.raises(ValueError, match=f"{setting.upper()} is 0; .* at least 1"):
        run.TrainConfig(10, **{setting: 0})


def test_none_is_t5xs_default():
    assert run.TrainConfig(None, train_steps_relative=7).resolve(3).train_steps == 10
    with pytest.raises(ValueError, match="EVAL_PERIOD is None; expected an integer"):
        run.TrainConfig(10, eval_period=None)
    with pytest.raises(ValueError, match="TRAIN_STEPS and TRAIN_STEPS_RELATIVE are not set"):
        run.TrainConfig(None)


def test_relative_steps_count_from_the_start():
    schedule = run.TrainConfig(10, train_steps_relative=7)
    assert schedule.resolve(1000) == run.TrainConfig(1007, 1000)
    assert run.TrainConfig(10, 3).resolve(1000) == run.TrainConfig(10, 3)
    with pytest.raises(
        ValueError, match="TRAIN_STEPS=10 is not greater than the starting step 1000"
    ):
        run.TrainConfig(10).resolve(1000)


def test_stops_count_from_the_first_step_and_the_last_is_one(make_run):
    tuning = make_run(steps=7, eval_period=3, log_period=2)
    steps = range(1001, 1008)
    assert [s for s in steps if tuning.evaluates_at(s)] == [1003, 1006, 1007]
    assert [s for s in steps if tuning.logs_at(s)] == [1002, 1004, 1006, 1007]
    tuning = make_run(steps=7, eval_period=3, log_period=None)
    assert [s for s in steps if tuning.logs_at(s)] == [1003, 1006, 1007]


def test_state_holds_the_prompt_its_slot_and_the_steps(make_run):
    tuning = make_run()
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(tuning.state))
    # The step, the optimizer's step, two placeholders of optax, the prompt and its second moment.
    assert shapes == [(), (), (1,), (1,), (4, 16), (4, 16)]
    assert list(params.flatten(tuning.state.trainable)) == [prompt_method.PATH]
    both = params.flatten(tuning.params())
    assert both.keys() == params.flatten(tuning.loaded.params).keys()


def test_slots_of_trained_weights_lie_where_the_weights_lie(load, make_run):
    tuning = make_run(load((2, 4)), trainable=(".*",))
    slots = {
        "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tuning.state.optimizer)
    }
    trained = params.flatten(tuning.state.trainable)
    assert len(slots) == len(trained) + 1  # the optimizer's count of steps
    for path, leaf in trained.items():
        assert slots[f"trainable/{path}"].sharding == leaf.sharding, path


def test_state_of_a_base_size_prompt_is_below_1_mb(make_run, load, rng):
    wide = model.EncoderDecoderModel(
        config_lib.T5Config(256, 768, 1, 2, 2, 1, 1), prompt_method.Prompt(100)
    )
    shapes = nn.unbox(wide.abstract_params())
    weights = jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    tuning = make_run(dataclasses.replace(load(), model=wide, params=weights))
    # Numbers that cannot be compressed.
    noise = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), tuning.state)
    tuning.state = noise._replace(step=tuning.state.step)
    tuning.save()
    folder = pathlib.Path(tuning.model_dir) / "checkpoint_1000"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert 500_000 < size < 1_000_000


def evaluation(*values):
    """The first metric of each of some tasks."""
    return {f"task {i}": {"accuracy": value, "other": 99.0} for i, value in enumerate(values)}


def test_the_best_prompt_is_kept_apart(make_run):
    tuning, nan = make_run(keep=None), float("nan")
    scores = [(nan, 1.0), (50.0, 40.0), (75.0, 25.0), (nan, 90.0), (50.0, 50.0), (60.0, 20.0)]
    best = []
    for offset, values in enumerate(scores):
        prompt = np.full((4, 16), offset, np.float32)
        trainable = params.unflatten({prompt_method.PATH: jax.numpy.asarray(prompt)})
        step = jax.numpy.asarray(1000 + offset)
        tuning.state = state.TrainState(step, trainable, tuning.state.optimizer)
        tuning.record(evaluation(*values))
        tuning.save()
        file = tuning.model_dir / "prompts" / "best.npy"
        best.append(int(prompt_files.load(file)[0, 0]) if file.exists() else None)
    # Of equal metrics without a loss the later one is best.
    assert best == [None, 1, 2, 2, 4, 4]
    assert prompt_files.load(tuning.model_dir / "prompts" / "prompt_1005.npy")[0, 0] == 5
    card = prompt_files.read_card(file)
    assert (card["step"], card["metrics"]) == (1004, evaluation(50.0, 50.0))
    again = make_run(start_step=500)
    again.resume()
    # Stops are counted from where the run began, whatever START_STEP is now.
    assert (again.best.metric, again.step, again.first_step) == (50.0, 1005, 1000)
    assert again.best == tuning.best


def test_among_equal_metrics_the_loss_decides(make_run):
    """That of the evaluated targets, else that of training; also where it was read from a state."""
    tuning = make_run(steps=9, keep=None)
    losses = [(None, None), (2.0, None), (1.0, None), (3.0, None), (3.0, 5.0), (1.0, 6.0)]
    best = []
    for offset, (training, loss) in enumerate(losses):
        tuning.state = tuning.state._replace(step=jnp.asarray(1000 + offset))
        tuning.training_loss = training
        tuning.record(evaluation(50.0), loss)
        tuning.save()
        best.append(prompt_files.read_card(tuning.prompt_file("best"))["step"])
        tuning = make_run(steps=9, keep=None)
        tuning.resume()
        assert tuning.training_loss == training
    assert best == [1000, 1001, 1002, 1002, 1004, 1004]
    assert "5 of 5 evaluations have the highest" in tuning.best.describe()


def test_a_card_says_what_a_prompt_belongs_to(make_run):
    tuning = make_run()
    tuning.record(evaluation(50.0))
    tuning.save()
    card = prompt_files.read_card(tuning.model_dir / "prompts" / "prompt_1000.npy")
    assert card.pop("created_by").startswith("prompt-tuning ")
    assert card == {
        "length": 4,
        "embed_dim": 16,
        "place": "prefix",
        "base_model": "base",
        "base_model_digest": "digest of the base",
        "task": "a task",
        "labels": [],
        "step": 1000,
        "metrics": {"task 0": {"accuracy": 50.0, "other": 99.0}},
    }
    json.dumps(card)


def test_a_card_has_the_metrics_of_its_own_step(make_run):
    tuning = make_run()
    tuning.record(evaluation(50.0))
    tuning.state = tuning.state._replace(step=jax.numpy.asarray(1002))
    tuning.save()
    card = prompt_files.read_card(tuning.model_dir / "prompts" / "prompt_1002.npy")
    assert (card["step"], card["metrics"]) == (1002, {})
    again = make_run()
    again.resume()
    assert (again.metrics, again.evaluated_step) == (evaluation(50.0), 1000)


def test_a_state_is_never_without_its_prompt(make_run, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.train_state, "save", killed)
    tuning = make_run()
    with pytest.raises(KeyboardInterrupt):
        tuning.save()
    assert tuning.prompt_file("prompt_1000").exists()


def test_what_a_method_adds_is_saved_with_its_paths(make_run, load, shifted):
    loaded = load()
    shift = np.arange(16, dtype=np.float32)
    weights = params.merge(loaded.params, params.unflatten({"encoder/prompt/shift": shift}))
    tuning = make_run(dataclasses.replace(loaded, model=shifted, params=jax.device_put(weights)))
    assert not tuning.trains_weights
    tuning.record(evaluation(50.0))
    tuning.save()
    assert tuning.prompt_file("best") == tuning.model_dir / "prompts" / "best.npz"
    for name in ("best", "prompt_1000"):
        leaves = prompt_files.load_leaves(tuning.prompt_file(name))
        assert leaves.keys() == {prompt_method.PATH, "encoder/prompt/shift"}
        np.testing.assert_array_equal(leaves["encoder/prompt/shift"], shift)
        assert prompt_files.length(tuning.prompt_file(name)) == 4
    tuning.state = tuning.state._replace(
        trainable=jax.tree.map(lambda x: x + 2.0, tuning.state.trainable)
    )
    np.testing.assert_allclose(tuning.prompt_drift()["prompt_distance"], 8.0, rtol=1e-6)


def test_a_prompt_moves_from_its_start(make_run):
    tuning = make_run()
    assert tuning.prompt_drift() == {"prompt_distance": 0.0}
    shifted = jax.tree.map(lambda x: x + 2.0, tuning.state.trainable)
    tuning.state = tuning.state._replace(trainable=shifted)
    np.testing.assert_allclose(
        tuning.prompt_drift()["prompt_distance"], 8.0, rtol=1e-6
    )  # 2 sqrt(16)


def test_a_folder_of_another_run_is_not_gone_on_with(make_run, load):
    make_run().save()
    with pytest.raises(ValueError, match=r"MODEL_DIR .*/run holds a run with another base"):
        make_run(trainable=(".*/prompt/.*", "decoder/.*")).resume()
    with pytest.raises(
        ValueError, match=r"TRAIN_STEPS is 1003, less than step 1005, which the run in"
    ):
        beyond = make_run(folder="long", steps=9)
        beyond.state = beyond.state._replace(step=jax.numpy.asarray(1005))
        beyond.save()
        make_run(folder="long", steps=3).resume()


def saved(make_run, *steps, **settings):
    """A run that was saved after these steps, and is dead."""
    tuning = make_run(steps=9, **settings)
    for step in steps:
        prompt = jax.tree.map(lambda x, step=step: x * 0 + step, tuning.state.trainable)
        tuning.state = tuning.state._replace(step=jnp.asarray(step), trainable=prompt)
        tuning.save()
    return pathlib.Path(tuning.model_dir)


def empty(folder):
    """As after a power cut."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def test_the_state_before_a_damaged_one_is_taken_and_saves_go_on(make_run, caplog):
    folder = saved(make_run, 1002, 1004, 1006)
    assert sorted(path.name for path in folder.glob("check*")) == [
        "checkpoint_1004",
        "checkpoint_1006",
    ]
    empty(folder / "checkpoint_1006")
    again = make_run(steps=9)
    again.resume()
    assert (again.step, again.adapter_params()[prompt_method.PATH][0, 0]) == (1004, 1004.0)
    assert "checkpoint_1006 is damaged or is not the state of a run" in caplog.text
    again.state = again.state._replace(step=jnp.asarray(1006))
    again.save()
    third = make_run(steps=9)
    third.resume()
    assert third.step == 1006
    assert sorted(path.name for path in folder.glob("*check*")) == [
        "checkpoint_1004",
        "checkpoint_1006",
        "damaged_checkpoint_1006",
    ]


def test_a_run_of_damaged_states_is_not_begun_again(make_run):
    folder = saved(make_run, 1002, 1004)
    empty(folder)
    expected = (
        r"(?s)none of its states.*_1004 is damaged.*_1002 is damaged.*Remove these.*MODEL_DIR"
    )
    tuning = make_run(steps=9)
    with pytest.raises(ValueError, match=expected):
        tuning.resume()
    assert tuning.step == 1000 and len(list(folder.glob("checkpoint_*"))) == 2


def test_a_failure_tells_which_states_are_left(make_run, tmp_path):
    folder = saved(make_run, 1002)
    expected = (
        r"training stopped: \[Errno 28\] No space left on device\n.*run has the state of step 1002, "
        r".*new has no state. .* MODEL_DIR .* the same command again: it resumes"
    )
    with pytest.raises(OSError, match=expected), run.failing([folder, tmp_path / "new"]):
        raise OSError(28, "No space left on device")


def test_a_new_run_has_nothing_to_go_on_from(make_run):
    tuning = make_run(folder="nothing there")
    tuning.resume()
    assert (tuning.step, tuning.position, tuning.best.metric) == (1000, None, None)


def test_what_is_trained_must_not_be_bfloat16(load, make_run):
    halved = load(weights_dtype="bfloat16")
    weights = jax.tree.map(lambda x: x.astype(jnp.bfloat16), halved.params["decoder"])
    halved = dataclasses.replace(halved, params={**halved.params, "decoder": weights})
    make_run(halved)
    with pytest.raises(ValueError, match=r"decoder/.* is bfloat16; .* WEIGHTS_DTYPE"):
        make_run(halved, trainable=(".*",))
