"""SIGTERM and Ctrl-C: between training steps, never within one."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM came, and what was to be saved is. What handles Ctrl-C handles it too."""


def catch() -> None:
    """From here on either ends a command at once where nothing is to be saved."""
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by `nohup`
        signal.signal(signal.SIGINT, _end)


def raise_control_c() -> None:
    """From here on Ctrl-C is an exception again, of which other processes are told."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, _) -> None:
    # No exception: raised while a module is read, an object goes, or JAX is told that garbage was
    # collected, it is lost or another error; and what threads still compile would abort a process
    # that tidies up.
    told = "terminated" if number == signal.SIGTERM else "interrupted"
    os.write(2, f"prompt-tuning: {told}\n".encode())
    os._exit(128 + number)


class DeferredSignals:
    """Defers both signals; a second one acts at once. Use as a context manager.

    Within a step, buffers of the old state are given away and the new state is not
    there yet: nothing could be saved. Several processes stop where JAX's preemption
    service says, so that all stop after the same step; it has SIGTERM's handler then.

    Attributes:
      received: the exception of the signal that was received, KeyboardInterrupt or Terminated; None before.
    """

    def __init__(self):
        # Reading JAX takes a second, and a command asks this file for its handler first.
        import jax

        self._several = jax.process_count() > 1
        self._undeferred = False
        self._handlers: dict[signal.Signals, signal.Handlers] = {}
        self.received: type[KeyboardInterrupt] | None = None

    def stops_at(self, step: int) -> bool:
        """Whether to stop after this step; of several processes each is to ask at each step."""
        if self._several:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.received = Terminated
        return self.received is not None

    @contextlib.contextmanager
    def undeferred(self) -> Iterator[None]:
        """Within it the first signal acts at once: for what gives nothing away, and takes long."""
        self._undeferred = not self._several
        try:
            yield
        finally:
            self._undeferred = False

    def _note(self, number: int, _) -> None:
        self._restore()
        if self._several:
            os.kill(
                os.getpid(), signal.SIGTERM
            )  # to the preemption service, which tells the others
        else:
            self.received = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        # Where the signal has come while a line was written, there is none about it.
        with contextlib.suppress(RuntimeError):
            logging.warning(
                "Received a signal: stopping when this step is saved. A second signal stops at "
                "once."
            )
        if self._undeferred:
            raise self.received

    def __enter__(self) -> "DeferredSignals":
        # Another thread gets no signals, and another's handler is theirs.
        ours = {signal.SIGINT: (_end, signal.default_int_handler), signal.SIGTERM: (_end,)}
        if self._several:
            del ours[signal.SIGTERM]
        if threading.current_thread() is threading.main_thread():
            now = {number: signal.getsignal(number) for number in ours}
            self._handlers = {number: how for number, how in now.items() if how in ours[number]}
        for number in self._handlers:
            signal.signal(number, self._note)
        return self

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __exit__(self, *_) -> None:
        self._restore()
