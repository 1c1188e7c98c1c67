"""Times of complete commands on the embedded model."""

import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import bench_workers

from prompt_tuning import assets
from prompt_tuning.checkpoints.formats import huggingface

Report = Callable[[bench_workers.Json], None]
STEP = re.compile(r"\bstep \d+ ")


def _train(folder: pathlib.Path, steps: int, **settings: str) -> list[str]:
    """A `train` command with `folder` as its MODEL_DIR."""
    last = huggingface.read_step(assets.path("t5_mini")) + steps
    settings = {"MODEL_DIR": repr(str(folder)), "TRAIN_STEPS": str(last), **settings}
    return [
        *(sys.executable, "-m", "prompt_tuning", "train"),
        *(f"--gin_file={name}.gin" for name in ("models/t5_mini", "tasks/reviews", "runs/train")),
        *(f"--gin.{name}={value}" for name, value in settings.items()),
    ]


def _seconds(
    command: list[str], cache: pathlib.Path, is_last_line: Callable[[str], bool] | None = None
) -> float:
    """Seconds until a command logs such a line, or ends. Raises ValueError if it fails."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if is_last_line and is_last_line(line):
                return time.perf_counter() - started
        if process.wait() == 0 and not is_last_line:
            return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    raise ValueError("the command ended before the measured event:\n" + "".join(lines[-12:]))


class _Timings:
    """Seconds by program; each is reported as soon as it is measured."""

    def __init__(self, report: Report):
        self._report, self._seconds = report, collections.defaultdict(list)

    def add(self, program: str, seconds: float) -> None:
        self._seconds[program].append(seconds)
        print(f"  {program}: {seconds:.2f} s", file=sys.stderr)
        repeat = {"repeat": len(self._seconds[program]), "seconds": seconds}
        self._report(_settings(program) | repeat)

    def records(self) -> list[bench_workers.Json]:
        return [_settings(name) | bench_workers.summary(x) for name, x in self._seconds.items()]


def start(repeats: int, report: Report) -> list[bench_workers.Json]:
    """Measures starts with an empty compilation cache, and with the cache of the previous start."""
    timings = _Timings(report)
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            cache = pathlib.Path(folder) / f"cache_{repeat}"
            for state in ("empty", "filled"):
                command = _train(pathlib.Path(folder) / f"{state}_{repeat}", 1000, LOG_PERIOD="1")
                seconds = _seconds(command, cache, lambda line: bool(STEP.search(line)))
                timings.add(f"prompt-tuning, {state} compilation cache", seconds)
    return timings.records()


def stack(repeats: int, seeds: int, steps: int, report: Report) -> list[bench_workers.Json]:
    """Measures one command with several seeds, and one command per seed.

    Prompts are evaluated every 100 steps, as in a study. A first repeat, which is not counted,
    compiles the programs.
    """
    timings = _Timings(report)
    variants = {
        f"prompt-tuning, {seeds} seeds in one command": [tuple(range(seeds))],
        f"prompt-tuning, {seeds} commands": list(range(seeds)),
    }
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder) / "cache"
        for repeat in range(repeats + 1):
            for program, random_seeds in variants.items():
                seconds = 0.0
                for random_seed in random_seeds:
                    settings = {"RANDOM_SEED": repr(random_seed), "EVAL_PERIOD": "100"}
                    model_dir = pathlib.Path(folder) / f"{repeat}_{len(random_seeds)}_{random_seed}"
                    command = _train(model_dir, steps if repeat else 100, **settings)
                    seconds += _seconds(command, cache)
                if repeat:
                    timings.add(program, seconds)
    return timings.records()


def _settings(program: str) -> bench_workers.Json:
    return {"program": program, "settings": {"model": "t5_mini"}, "facts": {}}
