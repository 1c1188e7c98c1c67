"""Worker processes that are timed alternately, controlled by JSON lines over pipes.

A worker answers {"prepare": function, "settings": {...}} with facts, after a run that compiles,
and {"run": 1} with {"seconds", "peak_bytes"}. It is idle between requests, so programs do not
compete for cores; the pause before each measurement lets spinning threads go to sleep.
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
    """A function to time.

    Attributes:
      run: does the work and waits for the device.
      facts: further entries of the JSON line.
    """

    run: Callable[[], None]
    facts: Json


def serve(hello: Json, programs: Mapping[str, Callable], device_peak: Callable[[], int | None]):
    """Answers requests until standard input ends.

    Args:
      hello: the first line, e.g. {"platform": "cpu", "versions": {...}}.
      programs: name -> function that takes the settings as keywords and returns a Prepared.
      device_peak: returns the peak of an accelerator's memory in bytes, None on a CPU.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Output of libraries must not mix with replies.
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
            _reset_peak()
            started = time.perf_counter()
            prepared.run()
            seconds = time.perf_counter() - started
            peak = device_peak()
            reply({"seconds": seconds, "peak_bytes": _peak_memory() if peak is None else peak})


def _warm_up(run: Callable[[], None]) -> None:
    """Runs for at least one second: the first few of short runs are slower."""
    started = time.perf_counter()
    run()
    while time.perf_counter() - started < 1:
        run()


def memory_growth(run: Callable[[], None]) -> int:
    """Returns the largest increase of the process's memory during `run`, in bytes.

    Valid for the first run only: later runs reuse memory that the process has kept.
    """
    before = _resident("VmRSS")
    _reset_peak()
    run()
    return _peak_memory() - before


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # Linux only, and not in every container.
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> int:
    """Peak of the resident memory since `_reset_peak`, in bytes."""
    return _resident("VmHWM")


def _resident(name: str) -> int:
    """Current ("VmRSS") or peak ("VmHWM") resident memory of the process, in bytes."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(x for x in status.read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of a worker script to time, its settings, and the interpreter."""

    name: str
    script: str
    function: str
    settings: Json
    python: str = sys.executable


class UnavailableError(Exception):
    """A program cannot run here; the message has the reason."""


class Worker:
    """A worker process, seen from its parent."""

    def __init__(self, program: Program):
        """Starts the process and reads its first line. Raises UnavailableError."""
        self._program = program
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, open until `close`
        environment = {
            **os.environ,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "JAX_TRACEBACK_FILTERING": "off",  # The last line is the error.
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
            raise UnavailableError(f"cannot start {program.python}: {error}") from error
        self.hello = self._answer()
        if reason := self.hello.get("missing"):
            self.close()
            raise UnavailableError(f"{reason} ({program.python})")

    def prepare(self) -> Json:
        """Prepares the function and runs it once. Raises UnavailableError."""
        return self._ask({"prepare": self._program.function, "settings": self._program.settings})

    def run(self) -> Json:
        """Times one run. Raises UnavailableError."""
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
        raise UnavailableError(f"exit status {code}:\n{last}")


def measure(
    programs: Sequence[Program], repeats: int, rest: float, report: Callable[[Json], None]
) -> list[Json]:
    """Times programs.

    On a CPU they alternate, so that other load affects all of them. On an accelerator, whose memory
    may be too small for two, one program runs after the other.

    Args:
      programs: the programs.
      repeats: measurements per program.
      rest: idle seconds before each measurement.
      report: called with each measurement: "program", "settings", "facts", "repeat" (from 1),
        "seconds", "peak_bytes".

    Returns:
      One record per program with "seconds" (all), "median", "spread" (range / median),
      "peak_bytes", "facts" and "settings"; or "absent", the reason.
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
                    run.measure()
        else:
            for run in runs:
                run.begin()
                for _ in range(repeats):
                    run.measure()
                run.end()
    return [run.record() for run in runs]


class _Timed:
    """A program with its worker and its measurements."""

    def __init__(self, program: Program, rest: float, report: Callable[[Json], None]):
        self.program, self._rest, self._report = program, rest, report
        self.platform, self._worker, self._absent = "cpu", None, None
        self._facts: Json = {}
        self._repeats: list[Json] = []

    def begin(self) -> None:
        """Starts the worker, unless it is running."""
        if self._worker is None and self._absent is None:
            print(f"  starting {self.program.name}", file=sys.stderr)
            try:
                self._worker = Worker(self.program)
                self.platform = self._worker.hello["platform"]
                self._facts = {**self._worker.hello, **self._worker.prepare()}
            except UnavailableError as reason:
                self._fail(reason)

    def measure(self) -> None:
        """Times one run."""
        if self._worker is not None:
            time.sleep(self._rest)
            try:
                self._repeats.append(self._worker.run())
            except UnavailableError as reason:
                self._fail(reason)
                return
            print(f"  {self.program.name}: {self._repeats[-1]['seconds']:.3f} s", file=sys.stderr)
            number = {"facts": self._facts, "repeat": len(self._repeats)}
            self._report({**self._identity(), **number, **self._repeats[-1]})

    def end(self) -> None:
        """Ends the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _fail(self, reason: UnavailableError) -> None:
        self._absent, self._worker = str(reason), None
        print(f"  Skipped {self.program.name}: {reason}", file=sys.stderr)

    def _identity(self) -> Json:
        return {"program": self.program.name, "settings": self.program.settings}

    def record(self) -> Json:
        """The JSON line."""
        if self._absent is not None:
            return {**self._identity(), "absent": self._absent}
        return {
            **self._identity(),
            "facts": self._facts,
            **summary([repeat["seconds"] for repeat in self._repeats]),
            "peak_bytes": max(repeat["peak_bytes"] for repeat in self._repeats),
        }


def summary(seconds: Sequence[float]) -> Json:
    """All measurements, their median, and their spread."""
    median = statistics.median(seconds)
    return {
        "seconds": list(seconds),
        "median": median,
        "spread": (max(seconds) - min(seconds)) / median,
    }
