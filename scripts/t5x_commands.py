"""Runs the T5X commands of docs/from_t5x.md with T5X, and prompt-tuning with the same settings.

Training is killed (SIGKILL) after its first save and resumed; the prompt must equal, bit for bit,
that of an uninterrupted run. The accuracy of `eval` and the predictions of `infer` with this prompt
must equal those of `prompt-tuning`, and so must training without dropout and shuffling, up to
rounding. Requires T5X (`prompt-tuning[t5x]`) and takes minutes:

    python scripts/t5x_commands.py build/t5x
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "from_t5x.md"
FIRST_SAVE, LAST_STEP = 14100, 14200
SAME_BATCHES = {
    "DROPOUT_RATE": 0.0,
    "SHUFFLE_TRAIN_EXAMPLES": False,
    "PACK": False,
    # Training multiplies rounding differences: they are 2 % of the prompt after 50 steps.
    "TRAIN_STEPS": 14010,
    "EVAL_PERIOD": 5,
}
TOLERANCE = 1.0  # percentage points
MAX_DIFFERENCE = 1e-4  # RMS of the difference of two prompts, relative to the RMS of the prompt
TIMEOUT_SECONDS = 1800


def read_commands() -> list[str]:
    """Reads the section "Inside T5X": lines of a variable, export, train, eval and infer."""
    section = DOCUMENT.read_text().partition("\n## Inside T5X\n")[2]
    block = re.search(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[1]
    lines = block.replace("\\\n", "").splitlines()
    return [re.sub(" +", " ", line) for line in lines if line]


def to_prompt_tuning(command: str, folders: dict[str, str]) -> str:
    """Translates a command of T5X: its program, run file and folders."""
    command = re.sub(r"python -m t5x\.(\w+)", r"prompt-tuning \1", command)
    command = re.sub(r"t5x/prompt_(\w+)\.gin", r"runs/\1.gin", command)
    for t5x_folder, folder in folders.items():
        command = command.replace(t5x_folder, folder)
    return command


class Shell:
    """Runs command lines in a folder, with the output of each in NAME.log."""

    def __init__(self, folder: pathlib.Path, variables: str):
        """Takes a folder, and the assignments that precede each command."""
        self.folder, self._variables = folder, variables

    def start(self, name: str, command: str, **macros: object) -> subprocess.Popen:
        """Starts a command with further macros."""
        flags = "".join(f' --gin.{macro}="{value!r}"' for macro, value in macros.items())
        print(f"{name}: {command}{flags}", flush=True)
        path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with open(self.folder / f"{name}.log", "w") as log:
            return subprocess.Popen(
                ["bash", "-c", f"{self._variables}\nexec {command}{flags}"],
                cwd=self.folder,
                env={**os.environ, "PATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def run(self, name: str, command: str, **macros: object) -> None:
        """Runs a command. Raises SystemExit with the end of its log if it fails."""
        code = self.start(name, command, **macros).wait(TIMEOUT_SECONDS)
        if code:
            log = (self.folder / f"{name}.log").read_text()
            raise SystemExit(f"{name} exited with {code}:\n{log[-3000:]}")

    def kill(self, name: str, command: str, after: pathlib.Path) -> None:
        """Starts a command and kills it when a file or folder exists."""
        process, deadline = self.start(name, command), time.monotonic() + TIMEOUT_SECONDS
        while not after.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} has not written {after}; see {self.folder / name}.log")
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()


def check(name: str, value: object, expected: object) -> None:
    """Raises SystemExit if a value differs from the expected one."""
    if value != expected:
        raise SystemExit(f"{name}: {value}, expected {expected}")
    print(f"equal {name}: {str(value)[:200]}", flush=True)


def read_lines(folder: pathlib.Path, pattern: str) -> list[dict]:
    """Reads JSON lines of the only file that matches."""
    (file,) = folder.glob(pattern)
    return [json.loads(line) for line in file.read_text().splitlines()]


def read_metrics(folder: pathlib.Path) -> dict[int, float]:
    """Reads {step: accuracy} of a run or of an evaluation."""
    lines = read_lines(folder, "inference_eval/*-metrics.jsonl")
    return {line["step"]: line["accuracy"] for line in lines}


def read_digest(folder: pathlib.Path) -> str:
    """Computes the digest of the last prompt of a run."""
    prompt = np.load(folder / "prompts" / f"prompt_{LAST_STEP}.npy")
    return hashlib.sha256(prompt.tobytes()).hexdigest()


def compare_prompts(folder: pathlib.Path, other: pathlib.Path, step: int) -> float:
    """RMS of the difference of two runs' prompts of a step, relative to that of the first."""
    a, b = (np.load(run / "prompts" / f"prompt_{step}.npy") for run in (folder, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def check_resuming(shell: Shell, train: str) -> None:
    """Checks that a run that is killed and resumed equals an uninterrupted one."""
    run, other = shell.folder / "t5x_run", shell.folder / "t5x_run_uninterrupted"
    shell.kill("train_killed", train, run / f"checkpoint_{FIRST_SAVE}")
    saved = run / "prompts" / f"prompt_{FIRST_SAVE}.npy"
    modified = saved.stat().st_mtime_ns
    shell.run("train_resumed", train)
    check("time of the first save after the restart", saved.stat().st_mtime_ns, modified)
    shell.run("train_uninterrupted", train, MODEL_DIR=str(other))
    check("prompt", read_digest(run), read_digest(other))
    check("accuracy at the end", read_metrics(run)[LAST_STEP], read_metrics(other)[LAST_STEP])


def check_training(shell: Shell, train: str) -> None:
    """Checks that both trainers have the same metrics on the same batches without dropout.

    They differ by rounding: T5X pads all rows to one length, and the order of sums differs.
    """
    t5x_dir, run_dir = shell.folder / "t5x_run_same_batches", shell.folder / "run_same_batches"
    shell.run("train_same_batches", train, MODEL_DIR=str(t5x_dir), **SAME_BATCHES)
    settings = {"MODEL_DIR": str(run_dir), **SAME_BATCHES}
    shell.run("train_same_batches_prompt_tuning", to_prompt_tuning(train, {}), **settings)
    expected, accuracy = read_metrics(t5x_dir), read_metrics(run_dir)
    print(f"accuracy by step: {expected} in T5X, {accuracy} in prompt-tuning", flush=True)
    steps = list(expected)
    near = [step for step in steps if abs(accuracy[step] - expected[step]) <= TOLERANCE]
    check(f"steps of accuracies that differ by at most {TOLERANCE}", near, steps)
    difference = {step: compare_prompts(t5x_dir, run_dir, step) for step in steps}
    print(f"difference of the prompts by step: {difference}", flush=True)
    near = [step for step in steps if difference[step] <= MAX_DIFFERENCE]
    check(f"steps of prompts that differ by at most {MAX_DIFFERENCE}", near, steps)


def check_predictions(shell: Shell, evaluate: str, infer: str) -> None:
    """Checks that a prompt has the same accuracy and predictions in both."""
    shell.run("eval", evaluate)
    shell.run("eval_prompt_tuning", to_prompt_tuning(evaluate, {"t5x_scores": "scores"}))
    expected, accuracy = (read_metrics(shell.folder / name) for name in ("t5x_scores", "scores"))
    check("accuracy of eval", list(accuracy.values()), list(expected.values()))
    shell.run("infer", infer)
    shell.run("infer_prompt_tuning", to_prompt_tuning(infer, {"t5x_answers": "answers"}))
    predictions = [
        [line["prediction"] for line in read_lines(shell.folder / name, "*.jsonl-00000-of-00001")]
        for name in ("answers", "t5x_answers")
    ]
    check("predictions of infer", *predictions)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all commands; exits with 1 if one fails or a result differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path, help="new folder for all results")
    folder = parser.parse_args(arguments).folder.resolve()
    folder.mkdir(parents=True)
    variables, export, train, evaluate, infer = read_commands()
    shell = Shell(folder, variables)
    shell.run("export", export)
    check_resuming(shell, train)
    check_predictions(shell, evaluate, infer)
    check_training(shell, train)


if __name__ == "__main__":
    main()
