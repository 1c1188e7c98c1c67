"""Runs the T5X commands of docs/from_t5x.md with T5X's own programs, and prompt-tuning on the same settings.

The commands are read from the document. Training is killed (SIGKILL) after its first save and resumed; the prompt must be
that of a run without a stop, bit for bit. The accuracy of that prompt in `eval` and its predictions in `infer` must be those of `prompt-tuning`, and so
must the accuracies of training without dropout and shuffling, up to rounding. Needs T5X (`prompt-tuning[t5x]`) and takes minutes:

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
    # Few steps: each multiplies the rounding differences, which are 2 % of the prompt after 50 steps.
    "TRAIN_STEPS": 14010,
    "EVAL_PERIOD": 5,
}
TOLERANCE = 1.0  # percentage points
MAX_DIFFERENCE = 1e-4  # RMS of the difference of two prompts, relative to the prompt's
TIMEOUT_SECONDS = 1800


def read_commands() -> list[str]:
    """The lines of the section "Inside T5X": a variable, export, train, eval, infer."""
    section = DOCUMENT.read_text().partition("\n## Inside T5X\n")[2]
    block = re.search(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[1]
    lines = block.replace("\\\n", "").splitlines()
    return [re.sub(" +", " ", line) for line in lines if line]


def to_prompt_tuning(command: str, folders: dict[str, str]) -> str:
    """The command of this package for one of T5X's: another program, another run file, other folders."""
    command = re.sub(r"python -m t5x\.(\w+)", r"prompt-tuning \1", command)
    command = re.sub(r"t5x/prompt_(\w+)\.gin", r"runs/\1.gin", command)
    for theirs, ours in folders.items():
        command = command.replace(theirs, ours)
    return command


class Shell:
    """Runs command lines in a folder, each with its output in NAME.log."""

    def __init__(self, folder: pathlib.Path, variables: str):
        """`variables` is what is set before each command."""
        self.folder, self._variables = folder, variables

    def start(self, name: str, command: str, **macros: object) -> subprocess.Popen:
        """Starts a command, with macros that override the command's."""
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
        """Runs a command to its end. Raises SystemExit with the end of its log where it fails."""
        code = self.start(name, command, **macros).wait(TIMEOUT_SECONDS)
        if code:
            log = (self.folder / f"{name}.log").read_text()
            raise SystemExit(f"{name} ended with {code}:\n{log[-3000:]}")

    def kill(self, name: str, command: str, after: pathlib.Path) -> None:
        """Starts a command and kills it when a file or folder is there."""
        process, deadline = self.start(name, command), time.monotonic() + TIMEOUT_SECONDS
        while not after.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} has not made {after}; see {self.folder / name}.log")
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()


def check(what: str, have: object, want: object) -> None:
    """Raises SystemExit where the two differ."""
    if have != want:
        raise SystemExit(f"{what}: {have}, expected {want}")
    print(f"same {what}: {str(have)[:200]}", flush=True)


def read_lines(folder: pathlib.Path, pattern: str) -> list[dict]:
    """The JSON lines of the one file that matches."""
    (file,) = folder.glob(pattern)
    return [json.loads(line) for line in file.read_text().splitlines()]


def read_metrics(folder: pathlib.Path) -> dict[int, float]:
    """{step: accuracy} of a run or of an evaluation."""
    lines = read_lines(folder, "inference_eval/*-metrics.jsonl")
    return {line["step"]: line["accuracy"] for line in lines}


def read_digest(folder: pathlib.Path) -> str:
    """Of the last prompt of a run of T5X's."""
    prompt = np.load(folder / "prompts" / f"prompt_{LAST_STEP}.npy")
    return hashlib.sha256(prompt.tobytes()).hexdigest()


def compare_prompts(folder: pathlib.Path, other: pathlib.Path, step: int) -> float:
    """RMS of the difference of two prompts of a step, relative to the RMS of the first."""
    one, two = (np.load(each / "prompts" / f"prompt_{step}.npy") for each in (folder, other))
    return float(np.linalg.norm(one - two) / np.linalg.norm(one))


def check_resuming(shell: Shell, train: str) -> None:
    """A run that is killed after its first save, and resumed, ends as a run without a stop."""
    run, other = shell.folder / "t5x_run", shell.folder / "t5x_run_without_stop"
    shell.kill("train_killed", train, run / f"checkpoint_{FIRST_SAVE}")
    saved = run / "prompts" / f"prompt_{FIRST_SAVE}.npy"
    written = saved.stat().st_mtime_ns
    shell.run("train_resumed", train)
    check("first save after the restart", saved.stat().st_mtime_ns, written)
    shell.run("train_without_stop", train, MODEL_DIR=str(other))
    check("prompt", read_digest(run), read_digest(other))
    check("accuracy at the end", read_metrics(run)[LAST_STEP], read_metrics(other)[LAST_STEP])


def check_training(shell: Shell, train: str) -> None:
    """On the same batches without dropout, both trainers have the same metrics.

    Up to rounding: T5X pads each row to the same length, and the order of sums differs.
    """
    t5x_dir, our_dir = shell.folder / "t5x_run_same_batches", shell.folder / "run_same_batches"
    shell.run("train_same_batches", train, MODEL_DIR=str(t5x_dir), **SAME_BATCHES)
    settings = {"MODEL_DIR": str(our_dir), **SAME_BATCHES}
    shell.run("train_same_batches_here", to_prompt_tuning(train, {}), **settings)
    theirs, ours = read_metrics(t5x_dir), read_metrics(our_dir)
    near = {step: ours[step] for step in theirs if abs(ours[step] - theirs[step]) <= TOLERANCE}
    print(f"accuracy by step: {theirs} in T5X, {near} here", flush=True)
    check(f"steps of accuracies that differ by at most {TOLERANCE}", list(near), list(theirs))
    difference = {step: compare_prompts(t5x_dir, our_dir, step) for step in theirs}
    print(f"difference of the prompts by step: {difference}", flush=True)
    equal = [step for step, value in difference.items() if value <= MAX_DIFFERENCE]
    check(f"steps of prompts that differ by at most {MAX_DIFFERENCE}", equal, list(theirs))


def check_answers(shell: Shell, evaluate: str, infer: str) -> None:
    """The prompt has the same accuracy and the same predictions in both."""
    shell.run("eval", evaluate)
    shell.run("eval_here", to_prompt_tuning(evaluate, {"t5x_scores": "scores"}))
    theirs, ours = (read_metrics(shell.folder / name) for name in ("t5x_scores", "scores"))
    check("accuracy of eval", list(ours.values()), list(theirs.values()))
    shell.run("infer", infer)
    shell.run("infer_here", to_prompt_tuning(infer, {"t5x_answers": "answers"}))
    predictions = [
        [line["prediction"] for line in read_lines(shell.folder / name, "*.jsonl-00000-of-00001")]
        for name in ("answers", "t5x_answers")
    ]
    check("predictions of infer", *predictions)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all; ends with 1 and a message where a command fails or a result differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path, help="a new folder, for all that is written")
    folder = parser.parse_args(arguments).folder.resolve()
    folder.mkdir(parents=True)
    variables, export, train, evaluate, infer = read_commands()
    shell = Shell(folder, variables)
    shell.run("export", export)
    check_resuming(shell, train)
    check_answers(shell, evaluate, infer)
    check_training(shell, train)


if __name__ == "__main__":
    main()
