"""Several processes: their results compared with one process, and failures of one of them."""

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
# Signal to one of two processes -> exit code and message of the other.
SIGNALS = {
    signal.SIGKILL: (75, r"process {} \(on .*\) has exited"),
    signal.SIGSTOP: (75, r"process {} \(on .*\) has not responded"),
    signal.SIGTERM: (143, "Interrupted: step .* is saved"),
}
# Programs are compiled in each trial.
FAST_COMPILATION = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
MAIN = (
    "import jax; jax.config.update('jax_num_cpu_devices', {devices}); "
    "from prompt_tuning.cli import main as cli; cli.main()"
)


def processes(folder: pathlib.Path, tries: int | None) -> dict[str, Any]:
    """Compares 2 × 4 and 4 × 2 processes × devices with 1 × 8, and stops one of 2 × 4."""
    texts, largest = [], 0.0
    single = _results(folder, 1)
    for count in (2, 4):
        several = _results(folder, count)
        differences = {
            "losses": np.abs(several["losses"] / single["losses"] - 1).max(),
            "metrics": np.abs(several["metrics"] - single["metrics"]).max(),
            "prompt": np.abs(several["prompt"] - single["prompt"]).max(),
        }
        largest = max(largest, differences["losses"], differences["metrics"])
        text = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
        texts.append(f"{count} × {8 // count}: {text}")
    random.seed(0)
    count = tries or STOPS
    stops = [_stop(folder, number) for number in range(count)]
    passed = sum(stop["passed"] for stop in stops)
    slowest = {
        x.name: max((stop["seconds"] for stop in stops if stop["signal"] == x.name), default=0)
        for x in SIGNALS
    }
    return {
        "trial": f"2 × 4 and 4 × 2 processes × devices, {STEPS} steps and eval; one of two killed, "
        f"stopped or terminated, {count} times",
        "result": "largest differences from 1 × 8 (losses relative, metrics in percent): "
        f"{'; '.join(texts)}. {passed} of {count}: the other process named it, and the restart was "
        f"bit-equal; seconds until the other exited, at most: {slowest}",
        "passed": largest <= 1e-6 and passed == count,
        "stops": stops,
    }


def start(
    command: Sequence[str], count: int, logs: pathlib.Path, **environment: str
) -> list[subprocess.Popen]:
    """Starts a command of torture_job as `count` processes with 8 devices and one log each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    main = [sys.executable, "-c", MAIN.format(devices=8 // count)]
    started = []
    for index in range(count):
        flags = [
            f"--coordinator_address={address}",
            f"--process_count={count}",
            f"--process_index={index}",
            f"--heartbeat_timeout={HEARTBEAT_TIMEOUT}",
        ]
        arguments = [*main, *command[3:], *(flags if count > 1 else ())]
        started.append(torture_job.start(arguments, logs / f"{index}.log", **environment))
    return started


def _train(model_dir: pathlib.Path) -> list[str]:
    return torture_job.train(
        model_dir, STEPS, BATCH_SIZE=16, EVAL_PERIOD=5, LOG_PERIOD=1, RANDOM_SEED=0
    )


def _results(folder: pathlib.Path, count: int) -> dict[str, np.ndarray]:
    """Trains and evaluates with `count` processes."""
    output = folder / f"{count}_processes"
    output.mkdir()
    prompt = output / f"run/prompts/prompt_{torture_job.START + STEPS}.npy"
    _finish(start(_train(output / "run"), count, output))
    evaluation = torture_job.command(
        "eval", PROMPT_FILE=prompt, EVAL_OUTPUT_DIR=output / "eval", BATCH_SIZE=16
    )
    _finish(start(evaluation, count, output))
    files = [
        next((output / part / "inference_eval").glob("*-metrics.jsonl")) for part in ("run", "eval")
    ]
    return {
        "losses": _values(output / "run/train/metrics.jsonl", "loss"),
        "metrics": np.concatenate([_values(file, "accuracy") for file in files]),
        "prompt": np.load(prompt),
    }


def _finish(started: Sequence[subprocess.Popen]) -> None:
    if any([process.wait() for process in started]):
        raise RuntimeError(f"exit codes {[process.returncode for process in started]}")


def _values(file: pathlib.Path, name: str) -> np.ndarray:
    return np.array([json.loads(line)[name] for line in file.read_text().splitlines()])


def _stop(folder: pathlib.Path, number: int) -> dict[str, Any]:
    """Sends a signal to one of two processes at a random step, and restarts both."""
    reference = folder / "uninterrupted"
    if not reference.exists():
        reference.mkdir()
        _finish(start(_train(reference / "run"), 2, reference, **FAST_COMPILATION))
    output, stopped = folder / f"stop_{number}", number % 2
    sent = list(SIGNALS)[number // 2 % len(SIGNALS)]
    output.mkdir()
    started = start(_train(output / "run"), 2, output, **FAST_COMPILATION)
    step = random.randrange(1, STEPS // 2)
    _wait_for(lambda: _logged_steps(output) >= step, started)
    time.sleep(random.random() / 2)
    started[stopped].send_signal(sent)
    begin = time.monotonic()
    code = started[1 - stopped].wait()
    seconds = time.monotonic() - begin
    if sent is signal.SIGSTOP:
        started[stopped].kill()
    stopped_code = started[stopped].wait()
    expected_code, message = SIGNALS[sent]
    log = (output / f"{1 - stopped}.log").read_text()
    _finish(start(_train(output / "run"), 2, output, **FAST_COMPILATION))
    prompt = f"run/prompts/prompt_{torture_job.START + STEPS}.npy"
    checks = (
        code == expected_code,
        stopped_code == code or sent is not signal.SIGTERM,
        re.search(message.format(stopped), log),
        (output / prompt).read_bytes() == (reference / prompt).read_bytes(),
        seconds < 1.5 * HEARTBEAT_TIMEOUT,
    )
    return {
        "signal": sent.name,
        "process": stopped,
        "after_step": step,
        "seconds": round(seconds, 2),
        "code": code,
        "passed": all(checks),
    }


def _logged_steps(output: pathlib.Path) -> int:
    file = output / "run/train/metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def _wait_for(met: Callable[[], bool], started: Sequence[subprocess.Popen]) -> None:
    while not met() and all(process.poll() is None for process in started):
        time.sleep(0.05)
