"""Ctrl-C between training steps, never within one."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """Holds Ctrl-C back: yields what says whether it came. A second one acts at once.

    Within a step, buffers of the old state are given away and the new state is not
    there yet: nothing could be saved.
    """
    asked = threading.Event()

    def note(*_) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logging.warning("stopping after this step; Ctrl-C again stops at once, without saving")

    # Another thread gets no signals, and another's handler is theirs.
    mine = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if mine:
        signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
