"""scripts/diff_checkpoints.py."""

import json

import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.checkpoints import lazy_arrays
from prompt_tuning.checkpoints.formats import t5x


@pytest.fixture
def run(load_script, capsys):
    """(arguments) -> (exit status, captured output)."""
    module = load_script("diff_checkpoints")

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            module.main([str(argument) for argument in arguments])
        return ended.value.code, capsys.readouterr()

    return call


def test_compares_checkpoints_of_two_formats(run, tiny, tmp_path):
    stored = {
        p: lazy_arrays.from_numpy(np.asarray(x)) for p, x in params.flatten(tiny.base).items()
    }
    same, other = tmp_path / "checkpoint_1000", tmp_path / "other"
    t5x.save(same, stored, step=1000, dtype="float32")
    code, shown = run(tiny.checkpoint, same, "--compare_step")
    assert code == 0 and json.loads(shown.out)["same"]
    name = "encoder/encoder_norm/scale"
    stored[name] = lazy_arrays.from_numpy(lazy_arrays.read(stored[name]) + 1)
    t5x.save(other, stored, step=1001, dtype="float32")
    code, shown = run(same, other, f"--output={tmp_path}/diff.json")
    assert code == 1
    assert json.loads(shown.out)["different"] == {name: 1.0}
    assert json.loads((tmp_path / "diff.json").read_text()) == json.loads(shown.out)
    few = [same, other, "--frac=0.01"]
    results = [json.loads(run(*few, f"--seed={seed}")[1].out) for seed in range(20)]
    assert {result["compared"] for result in results} == {1}
    # Some seeds sample the parameter that differs, the same ones in each call.
    assert len({result["same"] for result in results}) == 2
    again = [json.loads(run(*few, f"--seed={seed}")[1].out) for seed in range(20)]
    assert again == results
    assert run(*few, f"--check={name}")[0] == 1


def test_non_finite_differences_are_valid_json(run, tmp_path):
    for name, value in (("one", 0), ("other", np.nan)):
        stored = {"a/b": lazy_arrays.from_numpy(np.full((2, 2), value, np.float32))}
        t5x.save(tmp_path / name, stored, step=1, dtype="float32")
    code, shown = run(tmp_path / "one", tmp_path / "other", f"--output={tmp_path}/new/diff.json")
    result = json.loads(shown.out, parse_constant=pytest.fail)
    assert code == 1 and result["different"] == {"a/b": "not finite"}
    assert json.loads((tmp_path / "new/diff.json").read_text()) == result
    code, shown = run(tmp_path / "one", tmp_path / "other", f"--output={tmp_path}/new")
    assert code == 2 and "diff_checkpoints: " in shown.err and shown.out == ""


def test_errors_and_help(run, tiny):
    code, shown = run(tiny.checkpoint, "none")
    assert code == 2 and "none does not exist" in shown.err
    code, shown = run("--help")
    assert code == 0 and "--frac" in shown.out
