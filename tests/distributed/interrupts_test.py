"""Signals are held back once; several processes agree."""

import os
import signal
import subprocess
import sys
import threading

import jax
import pytest
from jax.experimental import multihost_utils

from prompt_tuning.distributed import interrupts


def control_c():
    os.kill(os.getpid(), signal.SIGINT)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def command(monkeypatch):
    """As in a command's process, which it is no end of."""

    def end(number, _):
        raise interrupts.Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(interrupts, "_end", end)
    interrupts.catch()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


PROGRAM = """
import gc, os, signal
from prompt_tuning.distributed import interrupts
{before}
interrupts.catch()
{then}
gc.callbacks.append(lambda *_: os.kill(os.getpid(), {number}))
gc.collect()
gc.callbacks.clear()
"""


def ends(number, before="", then=""):
    """Exit code of a program that gets a signal where an exception would be lost, as JAX's callback is."""
    program = PROGRAM.format(number=int(number), before=before, then=then)
    return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_ends_at_once_wherever_the_signal_comes(number, code):
    assert ends(number) == code


@pytest.mark.parametrize("before", ["signal.SIG_IGN", "lambda *_: None"])
def test_control_c_that_another_handles_is_left_to_it(before):
    assert ends(signal.SIGINT, before=f"signal.signal(signal.SIGINT, {before})") == 0


def test_several_processes_are_told_of_control_c():
    """Its exception is lost here, where it is one."""
    assert ends(signal.SIGINT, then="interrupts.raise_control_c()") == 0
    ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    assert ends(signal.SIGINT, before=ignored, then="interrupts.raise_control_c()") == 0


@pytest.mark.parametrize(
    ("send", "raised"), [(control_c, KeyboardInterrupt), (terminate, interrupts.Terminated)]
)
def test_the_first_is_held_back_and_the_second_acts(command, caplog, send, raised):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with interrupts.DeferredSignals() as signals:
        assert not signals.stops_at(1)
        send()
        assert signals.stops_at(2) and signals.received is raised
        assert "A second signal stops at once" in caplog.text
        with pytest.raises(KeyboardInterrupt) as caught:
            send()
        assert caught.type is raised
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_acts_at_once_where_it_may(command):
    with interrupts.DeferredSignals() as signals:
        with pytest.raises(interrupts.Terminated), signals.undeferred():
            terminate()
        assert signals.received is interrupts.Terminated
    with interrupts.DeferredSignals() as signals:
        with signals.undeferred():
            pass
        terminate()
        assert signals.stops_at(1)


def test_they_act_as_ever_afterwards():
    with pytest.raises(RuntimeError), interrupts.DeferredSignals():
        raise RuntimeError
    with pytest.raises(KeyboardInterrupt):
        control_c()


def test_a_handler_of_another_is_left_to_it():
    """As SIGTERM's is where no command runs, in a notebook."""
    came = []
    others = {
        n: signal.signal(n, lambda *_: came.append(1)) for n in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with interrupts.DeferredSignals() as signals:
            control_c()
            terminate()
            assert came == [1, 1] and not signals.stops_at(1)
    finally:
        for number, handler in others.items():
            signal.signal(number, handler)


def test_threads_get_no_signals():
    asked = []

    def run():
        with interrupts.DeferredSignals() as signals:
            asked.append(signals.stops_at(1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert asked == [False]


def test_several_processes_stop_where_the_service_says(monkeypatch):
    """Ctrl-C in one is told to it as SIGTERM, which is its own."""
    told, agreed = [], 7
    before = signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda step: step == agreed
    )
    try:
        with interrupts.DeferredSignals() as signals, signals.undeferred():
            control_c()
            assert told == [1] and not signals.stops_at(6) and signals.stops_at(7)
            assert signals.received is interrupts.Terminated
    finally:
        signal.signal(signal.SIGTERM, before)
