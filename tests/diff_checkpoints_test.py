"""scripts/diff_checkpoints.py."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.checkpoints import leaves, t5x

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "diff_checkpoints.py"


@pytest.fixture
def run(capsys):
    """(arguments) -> exit status, what is printed."""
    spec = importlib.util.spec_from_file_location("diff_checkpoints", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            module.main([str(each) for each in arguments])
        return ended.value.code, capsys.readouterr()

    return call


def test_checkpoints_of_two_formats(run, tiny, tmp_path):
    stored = {p: leaves.of_array(np.asarray(x)) for p, x in params.flatten(tiny.base).items()}
    same, other = tmp_path / "checkpoint_1000", tmp_path / "other"
    t5x.save(same, stored, step=1000, dtype="float32")
    code, shown = run(tiny.checkpoint, same, "--compare_step")
    assert code == 0 and json.loads(shown.out)["same"]
    name = "encoder/encoder_norm/scale"
    stored[name] = leaves.of_array(leaves.read(stored[name]) + 1)
    t5x.save(other, stored, step=1001, dtype="float32")
    code, shown = run(same, other, f"--output={tmp_path}/diff.json")
    assert code == 1
    assert json.loads(shown.out)["different"] == {name: 1.0}
    assert json.loads((tmp_path / "diff.json").read_text()) == json.loads(shown.out)
    few = ["--frac=0.01", "--seed=3"]
    assert json.loads(run(same, other, *few)[1].out)["compared"] == 1
    assert run(same, other, *few, f"--check={name}")[0] == 1


def test_mistakes_and_help(run, tiny):
    code, shown = run(tiny.checkpoint, "none")
    assert code == 2 and "none does not exist" in shown.err
    code, shown = run("--help")
    assert code == 0 and "--frac" in shown.out
