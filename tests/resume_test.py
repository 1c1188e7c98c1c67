"""A run that died goes on to the same bits: prompts, metrics, states; packed, long files, several seeds.

tests/training/trainer_test.py has a packed run in memory that is stopped twice, tests/end_to_end_test.py
one that Ctrl-C stops.
"""

import json
import signal
import subprocess
import sys

import pytest

from prompt_tuning.cli import main as cli
from prompt_tuning.training import reporting, writer_lock

# A command that is killed in its third save, or told to end in its third step.
STOPPED = """
import itertools, os, signal, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)  # both as the tests themselves have it
jax.config.update("jax_disable_most_optimizations", True)
from prompt_tuning.cli import main as cli
from orbax import checkpoint as orbax
from prompt_tuning.training import reporting
saves, steps = itertools.count(1), itertools.count(1)
def kill(handler, directory, as_ever=orbax.CompositeCheckpointHandler.finalize):
    if next(saves) == 3:  # all arrays are written
        os.kill(os.getpid(), signal.SIGKILL)
    as_ever(handler, directory)
def terminate(log, sums, as_ever=reporting.StepLog.add):
    as_ever(log, sums)
    if next(steps) == 3:
        signal.raise_signal(signal.SIGTERM)
if sys.argv.pop(1) == "kill":
    orbax.CompositeCheckpointHandler.finalize = kill
else:
    reporting.StepLog.add = terminate
cli.main()
"""
SETTINGS = {"TRAIN_STEPS": 1006, "EVAL_PERIOD": 2, "LOG_PERIOD": 1, "EVALUATOR_NUM_EXAMPLES": 8}


@pytest.fixture
def long_file(tiny_job, tmp_path):
    """So many rows that tf.data shuffles them."""
    header, *rows = (tiny_job.folder / "train.tsv").read_text().splitlines(keepends=True)
    path = tmp_path / "long.tsv"
    path.write_text(header + "".join((rows * 13)[:2100]))
    return path


def told(folder):
    """{file: what a run left there, but for the clock}."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if file.name == "_CHECKPOINT_METADATA":  # with the checksums of all arrays
            found[name] = json.loads(file.read_text())["custom_metadata"]
        elif file.suffix == ".jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            found[name] = [{k: x[k] for k in x if not k.startswith("timing")} for x in lines]
        elif file.suffix in (".npy", ".json"):
            found[name] = file.read_bytes()
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"PACK": False, "BATCH_SIZE": 64},
        {"BATCH_SIZE": 512, "TRAIN_FILE": "long"},
        {"BATCH_SIZE": 64, "RANDOM_SEED": (3, 4)},
    ],
    ids=["unpacked", "long file", "seeds"],
)
def test_a_run_that_died_ends_as_one_that_did_not(
    tiny_job, tmp_path, long_file, settings, monkeypatch
):
    if "TRAIN_FILE" in settings:
        settings = settings | {"TRAIN_FILE": long_file}
    whole, died = (
        tiny_job.command("train", MODEL_DIR=tmp_path / name, **SETTINGS, **settings)
        for name in ("whole", "died")
    )
    cli.run(whole)
    write = reporting.StepLog.write

    def full(log, step, others):
        loss = write(log, step, others)
        if step == 1005:
            raise OSError(28, "No space left on device")
        return loss

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"state of step 1004"):
        patch.setattr(reporting.StepLog, "write", full)
        cli.run(died)
    cli.run(died)
    wanted, found = told(tmp_path / "whole"), told(tmp_path / "died")
    assert found == wanted
    folder = "seed_4/" if "RANDOM_SEED" in settings else ""
    assert [line["step"] for line in found[f"{folder}train/metrics.jsonl"]] == [*range(1001, 1007)]
    state = found[f"{folder}checkpoint_1006/_CHECKPOINT_METADATA"]
    # The prompt, its second moment with two placeholders, and three counters of steps.
    assert state["metadata"]["position"]["epoch"] >= 1 and len(state["arrays"]) == 7


def test_a_command_that_was_killed_in_a_save_and_told_to_end_ends_as_one_that_was_not(
    tiny_job, tmp_path
):
    whole, stopped = (
        tiny_job.command("train", MODEL_DIR=tmp_path / name, BATCH_SIZE=64, **SETTINGS)
        for name in ("whole", "stopped")
    )
    cli.run(whole)
    codes = []
    for how in ("kill", "terminate"):
        command = [sys.executable, "-c", STOPPED, how, *stopped]
        codes.append(subprocess.run(command, capture_output=True).returncode)
        left = sorted(path.name.partition(".")[0] for path in tmp_path.glob("stopped/checkpoint_*"))
        # 1004: half written by the first, whole by the second.
        assert left[-1] == ("checkpoint_1004" if how == "kill" else "checkpoint_1005")
    assert codes == [-signal.SIGKILL, 128 + signal.SIGTERM]
    cli.run(stopped)
    wanted, found = told(tmp_path / "whole"), told(tmp_path / "stopped")
    assert not list(tmp_path.glob("stopped/*tmp*"))
    assert {name for name in found if "1005" not in name} == {
        x for x in wanted if "_1004/" not in x
    }
    assert all(found[name] == wanted[name] for name in found.keys() & wanted.keys())


def test_a_folder_has_one_trainer(tiny_job, tmp_path):
    command = tiny_job.command("train", MODEL_DIR=tmp_path / "run", BATCH_SIZE=8, **SETTINGS)
    with writer_lock.hold(tmp_path / "run"):
        with pytest.raises(ValueError, match=r"MODEL_DIR .*run is in use: process \d+ on "):
            cli.run(command)
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert names == {writer_lock.LOCK, writer_lock.HOLDER}
