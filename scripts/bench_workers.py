"""Programs to time, each in a process of its own, that alternate over pipes of JSON lines.

A worker answers {"prepare": program, "settings": {...}} with facts, after a run that compiles,
and {"run": 1} with {"seconds", "peak_bytes"}. Between turns it has nothing to do, so that one program
never runs on the threads of another; the pause before each turn lets spinning threads go to sleep.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FOLDER = pathlib.Path(__file__).parent
Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a worker can time.

    Attributes:
      run: does the work and waits until it is done.
      facts: what else there is to say, for the JSON line.
    """

    run: Callable[[], None]
    facts: Json


def serve(hello: Json, programs: Mapping[str, Callable], device_peak: Callable[[], int | None]):
    """The worker's side: answers requests until standard input ends.

    Args:
      hello: the first line, e.g. {"platform": "cpu", "versions": {...}}.
      programs: name -> function of the settings, as keywords, that returns a Prepared.
      device_peak: bytes of an accelerator's memory at its fullest; None on a CPU.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What a library prints is no reply.
    prepared = None

    def reply(answer: Json) -> None:
        print(json.dumps(answer), file=replies, flush=True)

    reply(hello)
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            started = time.perf_counter()
            prepared = programs[request["prepare"]](**request["settings"])
            _warm_up(prepared.run)
            reply({**prepared.facts, "prepare_seconds": time.perf_counter() - started})
        else:
            _forget_peak()
            started = time.perf_counter()
            prepared.run()
            seconds = time.perf_counter() - started
            peak = device_peak()
            reply({"seconds": seconds, "peak_bytes": _peak() if peak is None else peak,
                   "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024})  # fmt: skip


def _warm_up(run: Callable[[], None]) -> None:
    """Once where that takes a second; short runs until one has passed: their first few are slower."""
    started = time.perf_counter()
    run()
    while time.perf_counter() - started < 1:
        run()


def growth(run: Callable[[], None]) -> int:
    """By how many bytes the process grows at most while `run` runs, its result included.

    Of the first run only: the next find memory that the process has kept.
    """
    before = _resident("VmRSS")
    _forget_peak()
    run()
    return _peak() - before


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # Linux only, and not in every container.
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The most resident memory since `_forget_peak`, in bytes."""
    return _resident("VmHWM")


def _resident(name: str) -> int:
    """Resident memory of the process now ("VmRSS") or at most ("VmHWM"), in bytes."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(x for x in status.read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


@dataclasses.dataclass(frozen=True)
class Program:
    """One thing to time: a script, the interpreter that runs it, and what it is to do."""

    name: str
    script: str
    program: str
    settings: Json
    python: str = sys.executable


class Absent(Exception):
    """A program cannot run here; the message says why."""


class Worker:
    """The parent's side of a process."""

    def __init__(self, program: Program):
        """Starts it and waits for its first line. Raises Absent."""
        self._program = program
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, it lives as long as the process
        environment = {
            **os.environ,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "JAX_TRACEBACK_FILTERING": "off",  # A report ends with the error, not with a remark.
        }
        try:
            self._process = subprocess.Popen(
                [program.python, str(FOLDER / program.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise Absent(f"{program.python} cannot be started: {error}") from error
        self.hello = self._answer()
        if reason := self.hello.get("missing"):
            self.close()
            raise Absent(f"{reason} ({program.python})")

    def prepare(self) -> Json:
        """Makes the program ready and runs it once. Raises Absent where it fails."""
        return self._ask({"prepare": self._program.program, "settings": self._program.settings})

    def run(self) -> Json:
        """One timed run. Raises Absent where it fails."""
        return self._ask({"run": 1})

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _ask(self, request: Json) -> Json:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Json:
        if line := self._process.stdout.readline():
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        last = "\n".join(self._errors.read().splitlines()[-12:])
        self.close()
        raise Absent(f"it ended with status {code}:\n{last}")


def measure(
    programs: Sequence[Program], repeats: int, rest: float, report: Callable[[Json], None]
) -> list[Json]:
    """Times programs, `repeats` times each, with `rest` seconds of silence before each turn.

    On a CPU they alternate, so that what disturbs the machine disturbs all; on an accelerator,
    whose memory may hold one only, each is loaded, timed and ended in turn.

    Args:
      programs: to time.
      repeats: turns of each.
      rest: seconds before a turn.
      report: called with the figures of each turn as soon as it is measured: "program", "settings",
        "facts", "turn" (from 1), "seconds", "peak_bytes", "process_peak_bytes".

    Returns:
      A record for each, with "seconds" (all), "median", "spread" (largest − smallest, over the
      median), "peak_bytes", "process_peak_bytes", "facts", "settings"; or with "absent", the reason.
    """
    runs = [_Timed(program, rest, report) for program in programs]
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.callback(run.end)
        runs[0].begin()
        if runs[0].platform == "cpu":
            for run in runs[1:]:
                run.begin()
            for _ in range(repeats):
                for run in runs:
                    run.turn()
        else:
            for run in runs:
                run.begin()
                for _ in range(repeats):
                    run.turn()
                run.end()
    return [run.record() for run in runs]


class _Timed:
    """A program in the course of `measure`."""

    def __init__(self, program: Program, rest: float, report: Callable[[Json], None]):
        self.program, self._rest, self._report = program, rest, report
        self.platform, self._worker, self._absent = "cpu", None, None
        self._facts: Json = {}
        self._turns: list[Json] = []

    def begin(self) -> None:
        """Starts the worker, unless it has begun."""
        if self._worker is None and self._absent is None:
            print(f"  {self.program.name}: starts", file=sys.stderr)
            try:
                self._worker = Worker(self.program)
                self.platform = self._worker.hello["platform"]
                self._facts = {**self._worker.hello, **self._worker.prepare()}
            except Absent as reason:
                self._fail(reason)

    def turn(self) -> None:
        """One timed run."""
        if self._worker is not None:
            time.sleep(self._rest)
            try:
                self._turns.append(self._worker.run())
            except Absent as reason:
                self._fail(reason)
                return
            print(f"  {self.program.name}: {self._turns[-1]['seconds']:.3f} s", file=sys.stderr)
            number = {"facts": self._facts, "turn": len(self._turns)}
            self._report({**self._start(), **number, **self._turns[-1]})

    def end(self) -> None:
        """Ends the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _fail(self, reason: Absent) -> None:
        self._absent, self._worker = str(reason), None
        print(f"  {self.program.name} is left out: {reason}", file=sys.stderr)

    def _start(self) -> Json:
        return {"program": self.program.name, "settings": self.program.settings}

    def record(self) -> Json:
        """The JSON line."""
        if self._absent is not None:
            return {**self._start(), "absent": self._absent}
        return {
            **self._start(),
            "facts": self._facts,
            **summary([turn["seconds"] for turn in self._turns]),
            "peak_bytes": max(turn["peak_bytes"] for turn in self._turns),
            "process_peak_bytes": self._turns[-1]["process_peak_bytes"],
        }


def summary(seconds: Sequence[float]) -> Json:
    """All repeats, their median, and how far they lie apart."""
    median = statistics.median(seconds)
    return {
        "seconds": list(seconds),
        "median": median,
        "spread": (max(seconds) - min(seconds)) / median,
    }
