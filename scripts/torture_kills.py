"""Runs that are killed or terminated at random moments, and restarted until they are complete.

Their files are compared, byte for byte, with those of an uninterrupted run.
"""

import collections
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time

import torture_job

# Frequent saves, evaluations and log lines, at different steps.
STEPS = 36
SETTINGS = {
    "EVAL_PERIOD": 3,
    "LOG_PERIOD": 4,
    "BATCH_SIZE": 8,
    "EVALUATOR_NUM_EXAMPLES": 16,
    "EVAL_STEPS": 1,
    "KEEP": 2,
}
# Runs are short, so all programs come from the compilation cache.
ENVIRONMENT = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
TERMINATED = 128 + signal.SIGTERM


def kill(folder: pathlib.Path, tries: int | None) -> dict:
    """Sends SIGKILL at random moments; each run is restarted until it is complete."""
    trial = _Trial(folder, signal.SIGKILL)
    trial.run(tries or 50)
    equal = f"{trial.equal} of {trial.complete} runs end bit-identical"
    return trial.row(f"{equal}, {trial.failed} failed starts")


def sigterm(folder: pathlib.Path, tries: int | None) -> dict:
    """Sends SIGTERM at random moments; each run must save its steps and exit with 143."""
    trial = _Trial(folder, signal.SIGTERM)
    trial.run(tries or 20)
    return trial.row(
        f"{trial.saved} of {trial.moments.total()} exit with {TERMINATED}, all steps saved, within "
        f"{trial.slowest:.1f} s; {trial.equal} of {trial.complete} runs end bit-identical"
    )


class _Trial:
    """Runs in separate folders, each stopped repeatedly until it is complete."""

    def __init__(self, folder: pathlib.Path, number: signal.Signals):
        self.folder, self.number = folder, number
        self.moments: collections.Counter[str] = collections.Counter()
        self.equal = self.complete = self.failed = self.saved = 0
        self.slowest = 0.0
        self.rng = random.Random(int(number))
        uninterrupted, log = folder / "uninterrupted", folder / "uninterrupted.log"
        arguments = torture_job.train(uninterrupted, STEPS, **SETTINGS)
        # The first run fills the compilation cache for all later ones.
        for _ in range(2):
            shutil.rmtree(uninterrupted, ignore_errors=True)
            start = time.monotonic()
            if torture_job.finish(arguments, log, **ENVIRONMENT):
                raise RuntimeError(f"the uninterrupted run failed; see {log}")
            self.total_seconds = time.monotonic() - start
        self.step_seconds = _step_seconds(log)

    def run(self, tries: int) -> None:
        """Sends `tries` signals, and completes the last run."""
        while self.moments.total() < tries:
            self._complete_run(tries)

    def _complete_run(self, tries: int) -> None:
        model_dir = self.folder / f"run_{self.complete}"
        arguments = torture_job.train(model_dir, STEPS, **SETTINGS)
        for attempt in range(tries + 1):
            log = self.folder / f"{model_dir.name}_{attempt}.log"
            process = torture_job.start(arguments, log, **ENVIRONMENT)
            if self.moments.total() < tries and self._stop(process, model_dir, log):
                continue
            if process.wait() == 0:
                break
            self.failed += 1
        self.complete += 1
        self.equal += _results(model_dir) == _results(self.folder / "uninterrupted")

    def _stop(self, process: subprocess.Popen, model_dir: pathlib.Path, log: pathlib.Path) -> bool:
        """Sends the signal at a random moment, every second time after the first log line.

        Returns False if the process was complete before.
        """
        wait = self.rng.uniform(0, self.total_seconds)
        if self.moments.total() % 2:
            while process.poll() is None and not _lines(log):
                time.sleep(0.05)
            wait = self.rng.uniform(0, self.step_seconds)
        try:
            process.wait(wait)
            return False
        except subprocess.TimeoutExpired:
            pass
        self.moments[_moment(model_dir, log)] += 1
        start = time.monotonic()
        process.send_signal(self.number)
        code = process.wait()
        self.slowest = max(self.slowest, time.monotonic() - start)
        # Before the handler is set the signal itself ends the process: a shell reports the same code.
        is_terminated = code in (TERMINATED, -self.number)
        self.saved += is_terminated and _reached(log) <= _saved(model_dir)
        self.failed += code not in (0, TERMINATED, -self.number)
        return code != 0

    def row(self, result: str) -> dict:
        """Returns the row of the table."""
        signals = self.moments.total()
        moments = ", ".join(f"{count} in {name}" for name, count in self.moments.most_common())
        passed = self.equal == self.complete and not self.failed
        if self.number == signal.SIGTERM:
            passed = passed and self.saved == signals
        trial = f"{self.number.name} {signals} times: {moments}"
        return {"trial": trial, "result": result, "passed": passed}


def _moment(model_dir: pathlib.Path, log: pathlib.Path) -> str:
    """Names the activity of the process, from its log and its folder."""
    if list(model_dir.glob("*tmp*")):
        return "a save"
    if not (lines := _lines(log)):
        return "the start"
    _, step, kind = lines[-1]
    due = (step - torture_job.START) % SETTINGS["EVAL_PERIOD"] == 0
    return "an evaluation" if kind == "loss" and due else "steps"


def _lines(log: pathlib.Path) -> list[tuple[int, int, str]]:
    """Parses log lines of steps: second of the day, step, and "loss" or the name of a task."""
    text = log.read_text()
    matches = re.findall(r"^(\d\d):(\d\d):(\d\d) step (\d+)  (\w+)", text, re.MULTILINE)
    return [
        (3600 * int(h) + 60 * int(m) + int(s), int(step), kind) for h, m, s, step, kind in matches
    ]


def _step_seconds(log: pathlib.Path) -> int:
    """Seconds from the first to the last line of the last run in a log."""
    lines = _lines(log)
    first = max(i for i, (_, step, _) in enumerate(lines) if step == torture_job.START)
    return lines[-1][0] - lines[first][0]


def _reached(log: pathlib.Path) -> int:
    """The last logged step."""
    return max((step for _, step, _ in _lines(log)), default=0)


def _saved(model_dir: pathlib.Path) -> int:
    return max((int(x.name.split("_")[1]) for x in model_dir.glob("checkpoint_*[0-9]")), default=0)


def _results(model_dir: pathlib.Path) -> dict:
    """Prompts of the scheduled steps with their cards, predictions, and metrics without times."""
    results: dict = {}
    for step in range(0, STEPS + 1, SETTINGS["EVAL_PERIOD"]):
        for file in (model_dir / "prompts").glob(f"prompt_{torture_job.START + step}.*"):
            results[file.name] = file.read_bytes()
    for file in (model_dir / "prompts").glob("best.*"):
        results[file.name] = file.read_bytes()
    for file in model_dir.rglob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        results[str(file.relative_to(model_dir))] = [
            {name: x for name, x in row.items() if not name.startswith("timing/")} for row in rows
        ]
    return results
