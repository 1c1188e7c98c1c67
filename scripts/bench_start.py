"""How long `prompt-tuning train` takes from the command to its first step, on the embedded model.

Unlike all else in scripts/bench.py it imports TensorFlow, as the command does.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import bench_workers

from prompt_tuning import assets
from prompt_tuning.checkpoints import huggingface

STEP = re.compile(r"\bstep \d+ ")


def seconds_to_first_step(folder: pathlib.Path, cache: pathlib.Path) -> float:
    """Runs the command in a new MODEL_DIR until it tells of a step. Raises ValueError where it does not."""
    steps = huggingface.read_step(assets.path("t5_mini")) + 1000
    command = [
        *(sys.executable, "-m", "prompt_tuning", "train"),
        *(f"--gin_file={name}.gin" for name in ("models/t5_mini", "tasks/reviews", "runs/train")),
        f"--gin.MODEL_DIR={str(folder)!r}",
        f"--gin.TRAIN_STEPS={steps}",
        "--gin.LOG_PERIOD=1",
    ]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if STEP.search(line):
                return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    raise ValueError("the command told of no step:\n" + "".join(lines[-12:]))


def measure(repeats: int) -> list[bench_workers.Json]:
    """Records of starts with an empty compilation cache, and with the one that those filled."""
    cold, warm = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            cache = pathlib.Path(folder) / f"cache_{number}"
            for kind, found in (("cold", cold), ("warm", warm)):
                run = pathlib.Path(folder) / f"{kind}_{number}"
                found.append(seconds_to_first_step(run, cache))
                print(f"  {kind}: {found[-1]:.2f} s", file=sys.stderr)
    return [
        {"program": name, "settings": {"model": "t5_mini"}, "facts": {}}
        | bench_workers.summary(each)
        for name, each in (("ours, nothing compiled", cold), ("ours, compiled before", warm))
    ]
