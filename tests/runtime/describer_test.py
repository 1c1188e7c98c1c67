"""What describe says is what training holds."""

import json

import jax
import pytest

from prompt_tuning import optimizers
from prompt_tuning.models import model, network
from prompt_tuning.prompts import module
from prompt_tuning.runtime import describer

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
    config = network.T5Config(32128, 4096, 64, 64, 10240, 24, 24)
    xxl = model.EncoderDecoderModel(config, module.Prompt(100))
    describer.describe(model=xxl, trainable=(".*/prompt/.*",), optimizer=adafactor)
    assert capsys.readouterr().out == TABLE_OF_XXL


def test_a_pattern_that_matches_nothing_is_an_error(load):
    with pytest.raises(ValueError, match="TRAINABLE"):
        describer.describe(model=load().model, trainable=("prompt",), optimizer=adafactor)
