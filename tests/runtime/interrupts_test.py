"""Ctrl-C is held back once."""

import os
import signal
import threading

import pytest

from prompt_tuning.runtime import interrupts


def control_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_is_held_back_and_the_second_acts(caplog):
    with interrupts.held() as interrupted:
        assert not interrupted()
        control_c()
        assert interrupted()
        assert "stopping after this step" in caplog.text
        with pytest.raises(KeyboardInterrupt):
            control_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_acts_as_ever_afterwards():
    with pytest.raises(RuntimeError), interrupts.held():
        raise RuntimeError
    with pytest.raises(KeyboardInterrupt):
        control_c()


def test_a_handler_of_another_is_left_to_it():
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(1))
    try:
        with interrupts.held() as interrupted:
            control_c()
            assert came == [1] and not interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


def test_threads_get_no_signals():
    asked = []

    def run():
        with interrupts.held() as interrupted:
            asked.append(interrupted())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert asked == [False]
