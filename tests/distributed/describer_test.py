"""What describe says is what training holds."""

import contextlib
import io
import json
import re

import jax
import pytest

from prompt_tuning.distributed import describer
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model
from prompt_tuning.training import optimizers

TABLE_OF_XXL = """\
  total parameters      11,135,741,952
  trainable parameters  409,600
  percent trainable     0.0037 %
  weights in memory     42,479.5 MiB
  optimizer in memory   1.563 MiB
  state on disk, about  3.125 MiB
"""


def adafactor(start_step):
    return optimizers.adafactor(0.3, start_step=start_step)


@pytest.mark.parametrize("trainable", [(".*/prompt/.*",), (".*",)])
def test_numbers_are_those_of_the_real_trees(load, make_run, trainable, capsys):
    loaded = load((2, 4))
    run = make_run(loaded, trainable=trainable)
    found = describer.describe(
        model=loaded.model, trainable=trainable, optimizer=adafactor, as_json=True
    )
    assert json.loads(capsys.readouterr().out) == found
    weights, tuned = (jax.tree.leaves(x) for x in (loaded.params, run.state.trainable))
    slots = jax.tree.leaves(run.state.optimizer)
    total, trained = sum(x.size for x in weights), sum(x.size for x in tuned)
    assert found == {
        "total_params": total,
        "trainable_params": trained,
        "percent_trainable": 100 * trained / total,
        "weights_bytes": sum(x.nbytes for x in weights),
        "optimizer_bytes": sum(x.nbytes for x in slots),
        "checkpoint_bytes": sum(x.nbytes for x in [*tuned, *slots]),
    }


def test_xxl_is_described_without_being_made(capsys):
    config = config_lib.T5Config(32128, 4096, 64, 64, 10240, 24, 24)
    xxl = model.EncoderDecoderModel(config, prompt_method.Prompt(100))
    describer.describe(model=xxl, trainable=(".*/prompt/.*",), optimizer=adafactor)
    assert capsys.readouterr().out == TABLE_OF_XXL


def test_a_pattern_that_matches_nothing_is_an_error(load):
    with pytest.raises(ValueError, match="TRAINABLE"):
        describer.describe(model=load().model, trainable=("prompt",), optimizer=adafactor)


@pytest.fixture(scope="module")
def on_mesh(load):
    """Settings of describe for a step of the tiny model on 8 devices."""
    return {
        "model": load().model,
        "trainable": (".*/prompt/.*",),
        "optimizer": adafactor,
        "batch_size": 8,
        "task_feature_lengths": {"inputs": 6, "targets": 3},
        "mesh": (2, 4),
    }


@pytest.fixture(scope="module")
def described(on_mesh):
    """(what describe returns, what it prints) of a mesh."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        return describer.describe(**on_mesh), shown.getvalue()


def test_a_step_on_a_mesh_is_described(described, load):
    found = json.loads(json.dumps(described[0]))
    assert found == described[0]
    found = found["mesh"]
    held, exchanged = found.pop("device_bytes"), found.pop("collectives")
    assert found == {
        "data": 2,
        "model": 4,
        "batch_size": 8,
        "num_microbatches": 1,
        "lengths": {"inputs": 6, "targets": 3},
        "activation_dtype": "float32",
        "weights_exchanged": [],
    }
    weights = jax.tree.leaves(load((2, 4)).params)
    shards = sum(x.addressable_shards[0].data.nbytes for x in weights)
    assert held["weights"] == shards - 4 * 16 * 4  # less the prompt
    # Four rows of a device, of 4 + 6 inputs, 3 targets, 3 decoder inputs and 3 weights; a key.
    assert held["batch"] == 4 * (4 + 6 + 3 * 3) * 4 + 8
    assert held["total"] == sum(size for name, size in held.items() if name != "total")
    gradient = next(row for row in exchanged if row["axis"] == "data")
    assert (gradient["kind"], gradient["largest"]) == ("all-reduce", "f32[4,16]")
    assert {row["kind"] for row in exchanged if row["axis"] == "model"} >= {"all-reduce"}


def test_the_table_of_a_mesh_has_its_numbers(described):
    facts, shown = described[0]["mesh"], described[1]
    assert "8 examples of 6 input and 3 target tokens, ACTIVATION_DTYPE float32" in shown
    assert "data 2 × model 4" in shown and "widens bfloat16 to float32" in shown
    for name, size in facts["device_bytes"].items():
        label = {"trained": "trained, with optimizer", "temporary": "temporary (activations)"}
        text = re.escape(label.get(name, name))
        assert re.search(rf"{text} +{size / 2**20:,.3f} MiB$", shown, re.M), name
    for row in facts["collectives"]:
        text = re.escape(f"largest {row['largest']}")
        assert re.search(
            rf"{row['kind']} over {row['axis']} +{row['count']} × .*{text}$", shown, re.M
        )
    assert "frozen weights exchanged over model: none\n" in shown


def test_microbatches_are_those_of_the_step(on_mesh, monkeypatch):
    asked = []

    def compiling(*arguments):
        asked.append(arguments[-1])
        raise NotImplementedError

    monkeypatch.setattr(describer.compiled_step.step_lib, "make_step", compiling)
    with pytest.raises(NotImplementedError):
        describer.describe(**on_mesh | {"num_microbatches": 4})
    assert asked == [4]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("mesh", (4, 4), "--mesh is 4x4; expected a mesh of the 8 devices"),
        (
            "batch_size",
            3,
            "BATCH_SIZE / NUM_MICROBATCHES is 3; expected a multiple of the 2 data-parallel shards",
        ),
        ("batch_size", 0, "BATCH_SIZE is 0; expected a positive integer"),
        ("task_feature_lengths", None, "TASK_FEATURE_LENGTHS is None; expected positive integers"),
        ("num_microbatches", 3, "NUM_MICROBATCHES is 3; expected a divisor of BATCH_SIZE=8"),
    ],
)
def test_a_step_that_cannot_be_is_refused(on_mesh, setting, value, message):
    with pytest.raises(ValueError, match=message):
        describer.describe(**on_mesh | {setting: value})
