"""How long commands of the package take on the embedded model.

Unlike all else in scripts/bench.py it imports TensorFlow, as the commands do.
"""

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
    """The command that tunes in a new MODEL_DIR."""
    last = huggingface.read_step(assets.path("t5_mini")) + steps
    settings = {"MODEL_DIR": repr(str(folder)), "TRAIN_STEPS": str(last), **settings}
    return [
        *(sys.executable, "-m", "prompt_tuning", "train"),
        *(f"--gin_file={name}.gin" for name in ("models/t5_mini", "tasks/reviews", "runs/train")),
        *(f"--gin.{name}={value}" for name, value in settings.items()),
    ]


def _seconds(command: list[str], cache: pathlib.Path, until: Callable[[str], bool]) -> float:
    """Runs a command until it says such a line, or ends well. Raises ValueError where it does not."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if until(line):
                return time.perf_counter() - started
        if process.wait() == 0:
            return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    raise ValueError("the command did not do what is measured:\n" + "".join(lines[-12:]))


def start(repeats: int, report: Report) -> list[bench_workers.Json]:
    """Records of starts with an empty compilation cache, and with the one that those filled.

    `report` is called with each turn as soon as it is measured.
    """
    names = "ours, nothing compiled", "ours, compiled before"
    cold, warm = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            cache = pathlib.Path(folder) / f"cache_{number}"
            for kind, name, found in zip(("cold", "warm"), names, (cold, warm), strict=True):
                command = _train(pathlib.Path(folder) / f"{kind}_{number}", 1000, LOG_PERIOD="1")
                found.append(_seconds(command, cache, lambda line: bool(STEP.search(line))))
                print(f"  {kind}: {found[-1]:.2f} s", file=sys.stderr)
                report(_turn(name, found))
    return [_record(*each) for each in zip(names, (cold, warm), strict=True)]


def stack(repeats: int, seeds: int, steps: int, report: Report) -> list[bench_workers.Json]:
    """Records of a command with several seeds, and of a command for each, from start to end.

    All find the programs compiled, by one turn of both that is not counted. Evaluated every 100
    steps, as in a study. `report` is called with each turn as soon as it is measured.
    """
    names = f"ours, {seeds} seeds in one command", f"ours, {seeds} commands"
    together, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder) / "cache"
        for number in range(repeats + 1):
            place, found = pathlib.Path(folder) / str(number), []
            for kind, groups in (
                ("together", [tuple(range(seeds))]),
                ("alone", list(range(seeds))),
            ):
                total = 0.0
                for group in groups:
                    settings = {"RANDOM_SEED": repr(group), "EVAL_PERIOD": "100"}
                    run = place / f"{kind}_{group if kind == 'alone' else 'all'}"
                    command = _train(run, steps if number else 100, **settings)
                    total += _seconds(command, cache, lambda line: False)
                found.append(total)
            if number:
                together.append(found[0])
                alone.append(found[1])
                print(f"  {found[0]:.1f} s; {found[1]:.1f} s", file=sys.stderr)
                for each in zip(names, (together, alone), strict=True):
                    report(_turn(*each))
    return [_record(*each) for each in zip(names, (together, alone), strict=True)]


def _turn(program: str, seconds: list[float]) -> bench_workers.Json:
    """Of the last of these."""
    return _settings(program) | {"turn": len(seconds), "seconds": seconds[-1]}


def _record(program: str, seconds: list[float]) -> bench_workers.Json:
    return _settings(program) | bench_workers.summary(seconds)


def _settings(program: str) -> bench_workers.Json:
    return {"program": program, "settings": {"model": "t5_mini"}, "facts": {}}
