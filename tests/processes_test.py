"""Several processes, each with devices of its own, do what one with all devices does."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from prompt_tuning import cli

MAIN = (
    "import jax; jax.config.update('jax_num_cpu_devices', 4); "
    "from prompt_tuning import cli; cli.main()"
)


def run(arguments):
    """Runs a command line in two processes of four devices each; exit codes and what they told."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for index in range(2):
        meeting = [
            f"--coordinator_address={address}",
            "--process_count=2",
            f"--process_index={index}",
        ]
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", MAIN, *arguments, *meeting],
                env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [process.communicate(timeout=300)[1] for process in started]
    return [process.returncode for process in started], told


def metrics(folder):
    text = (folder / "inference_eval/eval-metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def names(folder):
    """Files that are ours."""
    found = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if "events" not in name and "checkpoint" not in name)


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
    assert metrics(one) == metrics(two) and names(one) == names(two)


def test_two_processes_evaluate_as_one(tiny_job, tmp_path):
    """The table of results is read when the first process has written them."""
    without = {"PROMPT_FILE": None, "PROMPT": None, "BATCH_SIZE": 8}
    one, two = tmp_path / "one", tmp_path / "two"
    cli.run(tiny_job.command("eval", EVAL_OUTPUT_DIR=one, **without))
    codes, told = run(tiny_job.command("eval", EVAL_OUTPUT_DIR=two, **without))
    assert codes == [0, 0], told
    assert metrics(one) == metrics(two) and names(one) == names(two)


@pytest.mark.parametrize(
    ("verb", "settings", "part"),
    [
        (
            "infer",
            {"PROMPT_FILE": None, "PROMPT": None, "INFER_OUTPUT_DIR": "x"},
            "infer runs in one process, and there are 2; start NUM_SHARDS",
        ),
        ("export", {"EXPORT_DIR": "x"}, "export writes in one process, and there are 2; start one"),
    ],
)
def test_what_a_single_process_does(tiny_job, tmp_path, monkeypatch, verb, settings, part):
    monkeypatch.chdir(tmp_path)
    codes, told = run(tiny_job.command(verb, **settings))
    assert codes == [2, 2] and all(part in each for each in told)
    assert not (tmp_path / "x").exists()
