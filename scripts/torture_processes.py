"""Several processes as one: their numbers against one process's, and one that is killed, hangs or is told to end."""

import json
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torture_job

STOPS = 8
STEPS = 20
HEARTBEAT_TIMEOUT = 30  # seconds
# What happens to one of two -> the other's exit code, and what it says.
WAYS = {
    signal.SIGKILL: (75, r"process {} \(on .*\) has exited"),
    signal.SIGSTOP: (75, r"process {} \(on .*\) has not responded"),
    signal.SIGTERM: (143, "Interrupted: step .* is saved"),
}
# Programs are compiled again in each try.
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
MAIN = (
    "import jax; jax.config.update('jax_num_cpu_devices', {devices}); "
    "from prompt_tuning.cli import main as cli; cli.main()"
)


def processes(folder: pathlib.Path, tries: int | None) -> dict[str, Any]:
    """2 × 4 and 4 × 2 processes × devices against 1 × 8, and kills of one of 2 × 4."""
    told, apart = [], 0.0
    alone = _results(folder, 1)
    for count in (2, 4):
        together = _results(folder, count)
        differences = {
            "losses": np.abs(together["losses"] / alone["losses"] - 1).max(),
            "metrics": np.abs(together["metrics"] - alone["metrics"]).max(),
            "prompt": np.abs(together["prompt"] - alone["prompt"]).max(),
        }
        apart = max(apart, differences["losses"], differences["metrics"])
        found = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
        told.append(f"{count} × {8 // count}: {found}")
    random.seed(0)
    count = tries or STOPS
    stops = [_stop(folder, number) for number in range(count)]
    passed = sum(stop["passed"] for stop in stops)
    slowest = {
        way.name: max((stop["seconds"] for stop in stops if stop["way"] == way.name), default=0)
        for way in WAYS
    }
    return {
        "tried": f"2 × 4 and 4 × 2 processes × devices, {STEPS} steps and eval; one of two killed, hung or "
        f"told to end, {count} times",
        "found": "largest differences from 1 × 8 (of losses relative, of metrics in percent): "
        f"{'; '.join(told)}. {passed} of {count}: the other named it, and the restart was bit-equal; "
        f"seconds until then at most: {slowest}",
        "passed": apart <= 1e-6 and passed == count,
        "stops": stops,
    }


def start(
    command: Sequence[str], count: int, logs: pathlib.Path, **environment: str
) -> list[subprocess.Popen]:
    """Starts a command of torture_job as `count` processes that have 8 devices; a log of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    main = [sys.executable, "-c", MAIN.format(devices=8 // count)]
    started = []
    for index in range(count):
        meeting = [
            f"--coordinator_address={address}",
            f"--process_count={count}",
            f"--process_index={index}",
            f"--heartbeat_timeout={HEARTBEAT_TIMEOUT}",
        ]
        arguments = [*main, *command[3:], *(meeting if count > 1 else ())]
        started.append(torture_job.start(arguments, logs / f"{index}.log", **environment))
    return started


def _train(model_dir: pathlib.Path) -> list[str]:
    return torture_job.train(
        model_dir, STEPS, BATCH_SIZE=16, EVAL_PERIOD=5, LOG_PERIOD=1, RANDOM_SEED=0
    )


def _results(folder: pathlib.Path, count: int) -> dict[str, np.ndarray]:
    """What `count` processes train and evaluate to."""
    own = folder / f"{count}_processes"
    own.mkdir()
    prompt = own / f"run/prompts/prompt_{torture_job.START + STEPS}.npy"
    _finish(start(_train(own / "run"), count, own))
    evaluation = torture_job.command(
        "eval", PROMPT_FILE=prompt, EVAL_OUTPUT_DIR=own / "eval", BATCH_SIZE=16
    )
    _finish(start(evaluation, count, own))
    folders = [own / "run/inference_eval", own / "eval/inference_eval"]
    files = [next(each.glob("*-metrics.jsonl")) for each in folders]
    return {
        "losses": _numbers(own / "run/train/metrics.jsonl", "loss"),
        "metrics": np.concatenate([_numbers(file, "accuracy") for file in files]),
        "prompt": np.load(prompt),
    }


def _finish(started: Sequence[subprocess.Popen]) -> None:
    if any([process.wait() for process in started]):
        raise RuntimeError(f"exit codes {[process.returncode for process in started]}")


def _numbers(file: pathlib.Path, name: str) -> np.ndarray:
    return np.array([json.loads(line)[name] for line in file.read_text().splitlines()])


def _stop(folder: pathlib.Path, number: int) -> dict[str, Any]:
    """Stops a process of two at some moment, and starts both again."""
    reference = folder / "uninterrupted"
    if not reference.exists():
        reference.mkdir()
        _finish(start(_train(reference / "run"), 2, reference, **QUICK))
    own, stopped, way = folder / f"stop_{number}", number % 2, list(WAYS)[number // 2 % len(WAYS)]
    own.mkdir()
    started = start(_train(own / "run"), 2, own, **QUICK)
    lines = random.randrange(1, STEPS // 2)
    _wait_for(lambda: _steps_told(own) >= lines, started)
    time.sleep(random.random() / 2)
    started[stopped].send_signal(way)
    began = time.monotonic()
    code = started[1 - stopped].wait()
    seconds = time.monotonic() - began
    if way is signal.SIGSTOP:
        started[stopped].kill()
    left = started[stopped].wait()
    expected, says = WAYS[way]
    told = re.search(says.format(stopped), (own / f"{1 - stopped}.log").read_text()) is not None
    _finish(start(_train(own / "run"), 2, own, **QUICK))
    prompt = f"run/prompts/prompt_{torture_job.START + STEPS}.npy"
    equal = (own / prompt).read_bytes() == (reference / prompt).read_bytes()
    together = left == code or way is not signal.SIGTERM
    return {
        "way": way.name,
        "process": stopped,
        "after_step": lines,
        "seconds": round(seconds, 2),
        "code": code,
        "passed": code == expected
        and told
        and equal
        and together
        and seconds < 1.5 * HEARTBEAT_TIMEOUT,
    }


def _steps_told(own: pathlib.Path) -> int:
    file = own / "run/train/metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def _wait_for(met: Callable[[], bool], started: Sequence[subprocess.Popen]) -> None:
    while not met() and all(process.poll() is None for process in started):
        time.sleep(0.05)
