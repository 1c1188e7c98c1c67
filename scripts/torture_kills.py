"""Runs that are killed or terminated at random moments of their life, and started again until done.

What they leave is compared, byte for byte, with what an uninterrupted run leaves.
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

# Saves, log lines and evaluations often, and at steps of their own: every 3, 4 and 12 steps.
STEPS = 36
SETTINGS = {
    "EVAL_PERIOD": 3,
    "LOG_PERIOD": 4,
    "BATCH_SIZE": 8,
    "EVALUATOR_NUM_EXAMPLES": 16,
    "EVAL_STEPS": 1,
    "KEEP": 2,
}
# Lives are short: each is to take every program from the cache.
ENVIRONMENT = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
TERMINATED = 128 + signal.SIGTERM


def kill(folder: pathlib.Path, tries: int | None) -> dict:
    """SIGKILL at random moments; chains of lives, each until its run is done."""
    chains = _Chains(folder, signal.SIGKILL)
    chains.run(tries or 50)
    found = f"{chains.same} of {chains.ended} runs end bit-identical, {chains.failed} failed starts"
    return chains.row(found)


def sigterm(folder: pathlib.Path, tries: int | None) -> dict:
    """SIGTERM at random moments; each is to save what is done and to end with its code."""
    chains = _Chains(folder, signal.SIGTERM)
    chains.run(tries or 20)
    found = (
        f"{chains.saved} of {sum(chains.moments.values())} exit with {TERMINATED}, all steps saved, within "
        f"{chains.slowest:.1f} s; {chains.same} of {chains.ended} runs end bit-identical"
    )
    return chains.row(found)


class _Chains:
    """Runs in folders of their own, each stopped again and again until it is done."""

    def __init__(self, folder: pathlib.Path, number: signal.Signals):
        self.folder, self.number = folder, number
        self.moments: collections.Counter[str] = collections.Counter()
        self.same = self.ended = self.failed = self.saved = 0
        self.slowest = 0.0
        self.draw = random.Random(int(number))
        whole, log = folder / "whole", folder / "whole.log"
        arguments = torture_job.train(whole, STEPS, **SETTINGS)
        # The first fills the cache of compiled programs, as it is for all that follow.
        for _ in range(2):
            shutil.rmtree(whole, ignore_errors=True)
            began = time.monotonic()
            if torture_job.finish(arguments, log, **ENVIRONMENT):
                raise RuntimeError(f"the uninterrupted run failed; see {log}")
            self.life = time.monotonic() - began
        self.work = _work(log)

    def run(self, tries: int) -> None:
        """So many signals, and then on to the end of the last run."""
        while sum(self.moments.values()) < tries:
            self._chain(tries)

    def _chain(self, tries: int) -> None:
        model_dir = self.folder / f"run_{self.ended}"
        arguments = torture_job.train(model_dir, STEPS, **SETTINGS)
        for life in range(tries + 1):
            log = self.folder / f"{model_dir.name}_{life}.log"
            process = torture_job.start(arguments, log, **ENVIRONMENT)
            if sum(self.moments.values()) < tries and self._stop(process, model_dir, log):
                continue
            if process.wait() == 0:
                break
            self.failed += 1
        self.ended += 1
        self.same += _left(model_dir) == _left(self.folder / "whole")

    def _stop(self, process: subprocess.Popen, model_dir: pathlib.Path, log: pathlib.Path) -> bool:
        """Sends the signal at a moment of the life, every second time of the part behind the start.

        False where the process has ended before.
        """
        wait = self.draw.uniform(0, self.life)
        if sum(self.moments.values()) % 2:
            while process.poll() is None and not _lines(log):
                time.sleep(0.05)
            wait = self.draw.uniform(0, self.work)
        try:
            process.wait(wait)
            return False
        except subprocess.TimeoutExpired:
            pass
        self.moments[_moment(model_dir, log)] += 1
        began = time.monotonic()
        process.send_signal(self.number)
        code = process.wait()
        self.slowest = max(self.slowest, time.monotonic() - began)
        # Before Python runs the command's code the signal ends it, for which a shell reports the same code.
        ended = code in (TERMINATED, -self.number)
        self.saved += ended and _reached(log) <= _saved(model_dir)
        self.failed += code not in (0, TERMINATED, -self.number)
        return code != 0

    def row(self, found: str) -> dict:
        """See scripts/torture.py."""
        signals = sum(self.moments.values())
        moments = ", ".join(f"{count} in {name}" for name, count in self.moments.most_common())
        passed = self.same == self.ended and not self.failed
        if self.number == signal.SIGTERM:
            passed = passed and self.saved == signals
        tried = f"{self.number.name} {signals} times: {moments}"
        return {"tried": tried, "found": found, "passed": passed}


def _moment(model_dir: pathlib.Path, log: pathlib.Path) -> str:
    """What the process is doing, as far as its log and its folder show."""
    if list(model_dir.glob("*tmp*")):
        return "a save"
    if not (lines := _lines(log)):
        return "the start"
    _, step, kind = lines[-1]
    due = (step - torture_job.START) % SETTINGS["EVAL_PERIOD"] == 0
    return "an evaluation" if kind == "loss" and due else "steps and what is between"


def _lines(log: pathlib.Path) -> list[tuple[int, int, str]]:
    """The log's lines of steps: second of the day, step, and "loss" or the name of a task."""
    text = log.read_text()
    found = re.findall(r"^(\d\d):(\d\d):(\d\d) step (\d+)  (\w+)", text, re.MULTILINE)
    return [
        (3600 * int(h) + 60 * int(m) + int(s), int(step), kind) for h, m, s, step, kind in found
    ]


def _work(log: pathlib.Path) -> int:
    """Seconds from the first line of the last run in a log to its last."""
    lines = _lines(log)
    began = max(i for i, (_, step, _) in enumerate(lines) if step == torture_job.START)
    return lines[-1][0] - lines[began][0]


def _reached(log: pathlib.Path) -> int:
    """The last step that the process has logged."""
    return max((step for _, step, _ in _lines(log)), default=0)


def _saved(model_dir: pathlib.Path) -> int:
    return max((int(x.name.split("_")[1]) for x in model_dir.glob("checkpoint_*[0-9]")), default=0)


def _left(model_dir: pathlib.Path) -> dict:
    """Prompts of the schedule's steps and their cards, lines of metrics without times, and answers."""
    left: dict = {}
    for at in range(0, STEPS + 1, SETTINGS["EVAL_PERIOD"]):
        for file in (model_dir / "prompts").glob(f"prompt_{torture_job.START + at}.*"):
            left[file.name] = file.read_bytes()
    for file in (model_dir / "prompts").glob("best.*"):
        left[file.name] = file.read_bytes()
    for file in model_dir.rglob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        left[str(file.relative_to(model_dir))] = [
            {name: x for name, x in row.items() if not name.startswith("timing/")} for row in rows
        ]
    return left
