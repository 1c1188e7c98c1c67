"""A call beside others."""

import threading

import pytest

from prompt_tuning.training import background


def test_goes_on_beside_the_caller_and_gives_its_result():
    go = threading.Event()
    call = background.Background(lambda: go.wait(10) and "done")
    go.set()
    assert call.result() == "done"
    assert call.result() == "done"


def test_raises_what_the_call_raised():
    def fail():
        raise ValueError("no such file")

    call = background.Background(fail)
    with pytest.raises(ValueError, match="no such file"):
        call.result()


def test_does_not_keep_the_process_from_ending():
    go = threading.Event()
    before = set(threading.enumerate())
    background.Background(go.wait)
    (started,) = set(threading.enumerate()) - before
    go.set()  # or a thread that is none would keep this process
    assert started.daemon
