"""Several processes, each with devices of its own, do what one with all devices does."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning.checkpoints import train_state
from prompt_tuning.cli import main as cli
from prompt_tuning.data import evaluation_task

MAIN = (
    "import jax; jax.config.update('jax_num_cpu_devices', 4); "
    "from prompt_tuning.cli import main as cli\n{before}\ncli.main()"
)
# The second gets SIGTERM after its second step.
STOPPED = """
import itertools, signal
from prompt_tuning.training import reporting
taken = itertools.count(1)
def add(log, sums, as_ever=reporting.StepLog.add):
    as_ever(log, sums)
    if next(taken) == 2 and jax.process_index() == 1:
        signal.raise_signal(signal.SIGTERM)
reporting.StepLog.add = add
"""
# Process 1 is killed after the third step, process 0 waits for it.
KILLED = """
import os, signal
from prompt_tuning.training import reporting
def write(log, step, others, as_ever=reporting.StepLog.write):
    loss = as_ever(log, step, others)
    if step == 1003 and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss
reporting.StepLog.write = write
"""
# Each process keeps the rows of training that its own devices get, each batch in a file.
FED = """
import itertools, sys, threading
import numpy as np
from prompt_tuning.distributed import partitioning
numbers = itertools.count()
def place(batch, mesh, as_ever=partitioning.place_batch):
    placed = as_ever(batch, mesh)
    if threading.current_thread().name == "prefetch":
        shards = placed["encoder_input_tokens"].addressable_shards
        name = f"FOLDER/{next(numbers)}_{jax.process_index()}.npy"
        np.save(name, np.concatenate([np.asarray(each.data) for each in shards]))
    return placed
partitioning.place_batch = place
"""

SHORT_WINDOWS = """
from prompt_tuning.data import evaluation_task
evaluation_task.WINDOW = 1
"""
# Each process says whether the folder is complete when it has waited.
SLOW_EXPORT = """
import os, sys, time
from prompt_tuning.checkpoints import atomic
from prompt_tuning.checkpoints.formats import t5x
def save(*arguments, as_ever=t5x.save, **settings):
    time.sleep(1)
    as_ever(*arguments, **settings)
def wait(what, as_ever=atomic.wait_for_writer):
    as_ever(what)
    print("is exported:", os.path.exists("FOLDER"), file=sys.stderr)
t5x.save, atomic.wait_for_writer = save, wait
"""


def run(arguments, before="", others=(), count=2):
    """Runs a command line in two processes, or `count`, of four devices each; exit codes and what they told.

    `before` is done by each before it starts; `others` are arguments of the last alone.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for index in range(count):
        meeting = [
            f"--coordinator_address={address}",
            "--process_count=2",
            f"--process_index={index}",
            *(others if index == count - 1 else ()),
        ]
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", MAIN.replace("{before}", before), *arguments, *meeting],
                env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [process.communicate(timeout=900)[1] for process in started]
    return [process.returncode for process in started], told


def metrics(folder):
    text = (folder / "inference_eval/eval-metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def losses(folder):
    """Of the steps that are told."""
    text = (folder / "train/metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


def names(folder):
    """Files that are ours."""
    found = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if "events" not in name and "checkpoint" not in name)


@pytest.fixture(scope="module")
def few(tiny_job, tmp_path_factory):
    """(folder) -> a command that trains on 32 examples, two batches an epoch, for two epochs."""
    file = tmp_path_factory.mktemp("few") / "train.tsv"
    file.write_text("\n".join((tiny_job.folder / "train.tsv").read_text().splitlines()[:33]))
    settings = {"TRAIN_FILE": file, "TRAIN_STEPS": 1004, "BATCH_SIZE": 16, "PACK": False}
    periods = {"EVAL_PERIOD": 2, "LOG_PERIOD": 1}
    return lambda folder: tiny_job.command("train", MODEL_DIR=folder, **settings, **periods)


@pytest.fixture(scope="module")
def uninterrupted(few, tmp_path_factory):
    """The folder of such a run, and in `fed` what processes gave to their devices."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "fed").mkdir()
    codes, told = run(few(folder), before=FED.replace("FOLDER", str(folder / "fed")))
    assert codes == [0, 0], told
    return folder


@pytest.mark.parametrize(("partitions", "stops"), [(1, [1004]), (8, [1002, 1004])])
def test_two_processes_train_as_one(tiny_job, tmp_path, partitions, stops):
    """With 8 partitions the weights are shared between the processes; that run is stopped once."""
    settings = {"BATCH_SIZE": 16, "EVAL_PERIOD": 2, "NUM_PARTITIONS": partitions}
    one, two = tmp_path / "one", tmp_path / "two"
    cli.run(tiny_job.command("train", MODEL_DIR=one, TRAIN_STEPS=1004, **settings))
    for last in stops:
        codes, told = run(tiny_job.command("train", MODEL_DIR=two, TRAIN_STEPS=last, **settings))
        assert codes == [0, 0], told
    alone, together = (np.load(folder / "prompts/prompt_1004.npy") for folder in (one, two))
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    earlier = [f"config_{last}.gin" for last in stops[:-1]]  # of the run that was stopped
    assert metrics(one) == metrics(two) and sorted([*names(one), *earlier]) == names(two)
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-6)


def test_two_processes_train_weights_as_one(tiny_job, tmp_path):
    """The weights are sharded over both processes, which write a state and resume from it."""
    settings = {"BATCH_SIZE": 16, "LOG_PERIOD": 1, "NUM_PARTITIONS": 8, "PROMPT": None}
    files = ("runs/train.gin", "optimizers/weights.gin")

    def command(folder, last):
        arguments = tiny_job.command(
            "train", *files, MODEL_DIR=folder, TRAIN_STEPS=last, **settings
        )
        return [*arguments, "--gin.trainer.train.eval_dataset=None"]

    one, two = tmp_path / "one", tmp_path / "two"
    cli.run(command(one, 1002))
    for last in (1001, 1002):
        codes, told = run(command(two, last))
        assert codes == [0, 0], told
    assert "Resuming from step 1001" in told[0]
    written = {path.name for path in (two / "checkpoint_1002/state").glob("ocdbt.process_*")}
    assert written == {"ocdbt.process_0", "ocdbt.process_1"}
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-6)
    alone, together = (
        safetensors.numpy.load_file(folder / "model_1002/model.safetensors")
        for folder in (one, two)
    )
    assert alone.keys() == together.keys()
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_two_processes_train_several_seeds_as_one(tiny_job, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    settings = {"TRAIN_STEPS": 1002, "BATCH_SIZE": 16, "EVAL_PERIOD": 2, "RANDOM_SEED": (0, 1)}
    cli.run(tiny_job.command("train", MODEL_DIR=one, **settings))
    codes, told = run(tiny_job.command("train", MODEL_DIR=two, **settings))
    assert codes == [0, 0], told
    for seed in ("seed_0", "seed_1"):
        assert metrics(one / seed) == metrics(two / seed)
        np.testing.assert_allclose(losses(two / seed), losses(one / seed), rtol=1e-6)


def test_each_example_is_fed_once_an_epoch(uninterrupted):
    """Of what processes have read, each example goes to one device of one of them."""
    for epoch in ((0, 1), (2, 3)):
        files = [
            uninterrupted / f"fed/{batch}_{process}.npy" for batch in epoch for process in (0, 1)
        ]
        arrays = [np.load(file) for file in files]
        assert [len(array) for array in arrays] == [8] * 4
        rows = {row.tobytes().rstrip(b"\0") for array in arrays for row in array}
        assert len(rows) == 32


def test_one_that_is_killed_ends_the_other_and_a_restart_goes_on(few, uninterrupted, tmp_path):
    codes, told = run(few(tmp_path), before=KILLED)
    assert codes == [75, -signal.SIGKILL], told
    assert "prompt-tuning: process 1 (on " in told[0] and "has exited: it was killed" in told[0]
    assert not (tmp_path / "prompts/prompt_1004.npy").exists()
    codes, told = run(few(tmp_path))
    assert codes == [0, 0] and "Resuming from step 1002" in told[0], told
    prompts = [folder / "prompts/prompt_1004.npy" for folder in (tmp_path, uninterrupted)]
    assert prompts[0].read_bytes() == prompts[1].read_bytes()
    assert losses(tmp_path) == losses(uninterrupted)


def test_processes_with_other_settings_do_not_start(tiny_job, tmp_path):
    command = tiny_job.command("train", MODEL_DIR=tmp_path / "run", TRAIN_STEPS=1004)
    codes, told = run(command, others=["--gin.TRAIN_STEPS=1005"])
    assert codes == [2, 2] and not (tmp_path / "run").exists()
    for each in told:
        assert "process 1 (on " in each and "settings: TRAIN_STEPS = 1005\n" in each


def test_a_run_with_other_settings_is_refused_by_all_processes(few, uninterrupted):
    before = sorted(uninterrupted.rglob("*"))
    codes, told = run([*few(uninterrupted), "--gin.LEARNING_RATE=0.1"])
    assert codes == [2, 2], told
    assert all("at step 1004 with other settings" in each for each in told)
    assert all("LEARNING_RATE: 0.3 -> 0.1\n" in each for each in told)
    assert sorted(uninterrupted.rglob("*")) == before


def test_a_process_that_nobody_joins_ends(tiny_job, tmp_path):
    command = tiny_job.command("train", MODEL_DIR=tmp_path / "run", TRAIN_STEPS=1004)
    codes, told = run(command, others=["--initialization_timeout=1"], count=1)
    assert codes == [2] and "not all processes connected" in told[0] and "Check" not in told[0]


def test_all_stop_after_the_same_step(tiny_job, tmp_path):
    settings = {
        "TRAIN_STEPS": 100_000,
        "EVAL_PERIOD": 50_000,
        "LOG_PERIOD": 50_000,
        "BATCH_SIZE": 8,
    }
    command = tiny_job.command("train", MODEL_DIR=tmp_path, **settings)
    codes, told = run(command, before=STOPPED)
    assert codes == [143, 143], told
    (step,) = {re.search(r"step (\d+) is saved", each)[1] for each in told}
    assert 1002 < train_state.latest_step(tmp_path) == int(step) < 50_000


def test_two_processes_evaluate_as_one(tiny_job, tmp_path):
    """The table of results is read when the first process has written them."""
    without = {"PROMPT_FILE": None, "PROMPT": None, "BATCH_SIZE": 8}
    one, two = tmp_path / "one", tmp_path / "two"
    cli.run(tiny_job.command("eval", EVAL_OUTPUT_DIR=one, **without))
    codes, told = run(tiny_job.command("eval", EVAL_OUTPUT_DIR=two, **without))
    assert codes == [0, 0], told
    assert metrics(one) == metrics(two) and names(one) == names(two)


def test_two_processes_infer_as_one(tiny_job, tmp_path, monkeypatch):
    """Also where a partial file is resumed, of which the complete windows are kept."""
    monkeypatch.setattr(evaluation_task, "WINDOW", 1)
    settings = {"PROMPT_FILE": None, "PROMPT": None, "MODE": "predict_with_aux", "BATCH_SIZE": 8}
    one, two = tmp_path / "one", tmp_path / "two"
    (path,) = map(
        pathlib.Path, cli.run(tiny_job.command("infer", INFER_OUTPUT_DIR=one, **settings))
    )
    two.mkdir()
    shutil.copy(f"{path}.settings.json", two)
    (two / f"{path.name}.partial").write_text("kept\n" * 8 + "of no window\n")
    command = tiny_job.command("infer", INFER_OUTPUT_DIR=two, **settings)
    codes, told = run(command, before=SHORT_WINDOWS)
    assert codes == [0, 0], told
    expected = ["kept"] * 8 + path.read_text().splitlines()[8:]
    assert (two / path.name).read_text().splitlines() == expected
    assert names(one) == names(two)


def test_one_of_two_processes_exports_and_the_other_waits(tiny_job, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    before = SLOW_EXPORT.replace("FOLDER", str(two / "checkpoint_1000"))
    codes, told = run(tiny_job.command("export", EXPORT_DIR=two), before=before)
    assert codes == [0, 0] and all("is exported: True" in each for each in told), told
    cli.run(tiny_job.command("export", EXPORT_DIR=one))
    first, second = (
        {
            file.relative_to(folder): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        for folder in (one, two)
    )
    assert first == second and len(first) > 5
