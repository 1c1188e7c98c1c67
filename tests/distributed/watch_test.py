"""Processes that watch each other: killed, silent, done, failing, aborting."""

import json
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest

from prompt_tuning.distributed import watch

LONG = 60


@pytest.fixture
def left(monkeypatch):
    """(message, code) with which a watch would have ended this process; its thread ends instead."""
    exits = []

    def leave(message, code):
        exits.append((message, code))
        raise SystemExit

    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(watch, "leave", leave)
    monkeypatch.setattr(watch, "_delay_aborts", lambda: None)
    monkeypatch.setattr(watch.atexit, "register", lambda call, code: exits.append(("exit", code)))
    return exits


@pytest.fixture
def hub(left):
    """(limit) -> a watch of process 0, and the other ends of its links to 1 and 2."""
    watches, ours, theirs = [], [], []

    def start(limit=LONG):
        pairs = [socket.socketpair() for _ in range(2)]
        links = {f"process {i}": mine for i, (mine, _) in enumerate(pairs, 1)}
        ours.extend(links.values())
        theirs.extend(other for _, other in pairs)
        watches.append(watch.Watch("process 0", links, limit))
        return watches[-1], *theirs[-2:]

    yield start
    # A thread that outlives `left` would exit the process of all tests.
    for end in theirs:
        end.close()
    for watching in watches:
        joined(watching)
    for end in ours:
        end.close()


def joined(watching):
    """Waits for the end of what a watch does."""
    watching._thread.join(LONG)
    assert not watching._thread.is_alive()


def heard(end):
    """The messages on a link, without the empty lines."""
    end.settimeout(5)
    text = end.recv(65536).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def test_one_that_is_gone_is_named_here_and_to_the_others(hub, left):
    watching, one, two = hub()
    one.close()
    joined(watching)
    (message, code), *_ = left
    assert code == watch.EXIT_PEER_FAILED == 75
    assert message.startswith("process 1 has exited: it was killed") and "MODEL_DIR" in message
    (forwarded,) = heard(two)
    assert (
        forwarded["end"] == "process 1"
        and "has exited" in forwarded["why"]
        and forwarded["code"] == 75
    )


def test_the_failed_process_is_named_not_the_one_that_reports_it(left):
    mine, of_0 = socket.socketpair()
    watching = watch.Watch("process 2", {"process 0": mine}, LONG)
    with mine, of_0:
        of_0.sendall(b'\n{"end": "process 1", "why": "has fai')
        of_0.sendall(b'led", "code": 75}\n')
        of_0.close()
        joined(watching)
    assert left[0][0].startswith("process 1 has failed. ") and len(left) == 1


def test_one_that_is_silent_is_named(hub, left):
    watching, _, two = hub(limit=0.3)
    two.sendall(b'{"end": "process 2"}\n')
    joined(watching)
    assert (
        "process 1 has not responded for 0 s" in left[0][0] and left[0][1] == watch.EXIT_PEER_FAILED
    )


def test_two_hear_of_each_other_until_both_are_done(left):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watches = [
            watch.Watch("process 0", {"process 1": ours}, 0.5),
            watch.Watch("process 1", {"process 0": theirs}, 0.5),
        ]
        time.sleep(1.5)
        # One is done before the other, which then goes first.
        watches[0].end()
        joined(watches[1])
        watches[1].end()
        theirs.close()
        joined(watches[0])
    assert left == []


def test_one_that_is_done_may_go(hub, left):
    watching, one, two = hub()
    for number, end in enumerate((one, two), 1):
        end.sendall(f'{{"end": "process {number}"}}\n'.encode())
        end.close()
    joined(watching)
    assert left == []


@pytest.mark.parametrize(
    ("error", "why", "code"),
    [
        (ValueError("BATCH_SIZE is 3"), "failed with an error: BATCH_SIZE is 3", 2),
        (OSError(28, "no space"), "failed with an error: [Errno 28] no space", 2),
        (KeyboardInterrupt(), "was interrupted", 130),
        (ZeroDivisionError("by zero"), "failed with an error: by zero", 1),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory"), "memory", 1),
    ],
)
def test_an_error_is_reported_to_the_other_processes(hub, left, monkeypatch, error, why, code):
    monkeypatch.setattr(watch, "GRACE", 0)
    watching, one, _ = hub()
    watching.fail(error)
    (report,) = heard(one)
    assert report["end"] == "process 0" and report["why"].endswith(why) and report["code"] == code
    assert left == [("exit", code)]
    # Another hears of it.
    mine, of_0 = socket.socketpair()
    with mine, of_0:
        other = watch.Watch("process 1", {"process 0": mine}, LONG)
        of_0.sendall(json.dumps(report).encode() + b"\n")
        joined(other)
    assert left[1][1] == code and left[1][0].startswith(f"process 0 {report['why']}. ")


def test_processes_that_fail_together_report_their_own_errors(hub, left):
    watching, one, two = hub()
    watching.fail(ValueError("of all"))
    one.sendall(b'{"end": "process 1", "why": "ended with an error: of all", "code": 2}\n')
    two.sendall(b'{"end": "process 2"}\n')
    joined(watching)
    assert left == [("exit", 2)]


def test_an_error_of_jax_waits_for_the_failed_process(hub, left):
    watching, one, _ = hub()
    timer = threading.Timer(0.3, one.close)
    timer.start()
    watching.fail(jax.errors.JaxRuntimeError("Connection closed by peer"))
    timer.join()
    assert left[0][0].startswith("process 1 has exited")


def test_an_abort_waits_for_the_watch():
    program = (
        "import ctypes, threading; from prompt_tuning.distributed import watch; watch._delay_aborts(); "
        "threading.Timer(0.5, watch.leave, ('process 1 has failed', 75)).start(); "
        "ctypes.CDLL(None).abort()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 75 and "prompt-tuning: process 1 has failed\n" in ended.stderr
