"""The job of the torture scripts: commands on t5_mini and the embedded reviews."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

MODEL = ("models/t5_mini.gin", "tasks/reviews.gin")
START = 14_000  # step of t5_mini


def command(verb: str, *gin_files: str, **macros: Any) -> list[str]:
    """Returns a command line; without gin files it uses that of runs/ for the verb."""
    files = [*MODEL, *(gin_files or [f"runs/{verb}.gin"])]
    flags = [f"--gin.{name}={_gin_value(value)}" for name, value in macros.items()]
    return [
        sys.executable,
        "-m",
        "prompt_tuning",
        verb,
        *(f"--gin_file={file}" for file in files),
        *flags,
    ]


def train(model_dir: pathlib.Path, steps: int, **macros: Any) -> list[str]:
    """Returns the command line of `steps` training steps."""
    return command("train", MODEL_DIR=model_dir, TRAIN_STEPS=START + steps, **macros)


def start(arguments: Sequence[str], log: pathlib.Path, **environment: str) -> subprocess.Popen:
    """Starts a command and appends its output to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            arguments,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env=os.environ | environment,
        )


def finish(arguments: Sequence[str], log: pathlib.Path, **environment: str) -> int:
    """Runs a command and returns its exit code."""
    return start(arguments, log, **environment).wait()


def _gin_value(value: Any) -> str:
    return repr(str(value) if isinstance(value, pathlib.Path) else value)
