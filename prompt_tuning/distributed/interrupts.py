"""SIGTERM and Ctrl-C, which stop training only between steps."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """Raised after SIGTERM, when the state is saved. Handled like Ctrl-C."""


def catch() -> None:
    """Installs handlers that exit at once, for code that has nothing to save."""
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by `nohup`
        signal.signal(signal.SIGINT, _end)


def raise_control_c() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt again, so that it is reported to other processes."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, _) -> None:
    # No exception: during an import, a finalizer or a callback of JAX it is lost or becomes another
    # error; and threads that still compile would abort the process during its normal exit.
    reason = "terminated" if number == signal.SIGTERM else "interrupted"
    os.write(2, f"prompt-tuning: {reason}\n".encode())
    os._exit(128 + number)


class DeferredSignals:
    """Defers the first signal; a second one acts at once. Use as a context manager.

    Within a step nothing can be saved: the old state is donated and the new one does not exist
    yet. Several processes stop at the sync point of JAX's preemption service, which handles
    SIGTERM then, so that all stop after the same step.

    Attributes:
      received: the exception of the received signal, KeyboardInterrupt or Terminated; None before.
    """

    def __init__(self):
        # Importing JAX takes a second, and commands install the handlers first.
        import jax

        self._several = jax.process_count() > 1
        self._undeferred = False
        self._handlers: dict[signal.Signals, signal.Handlers] = {}
        self.received: type[KeyboardInterrupt] | None = None

    def stops_at(self, step: int) -> bool:
        """Returns whether to stop after this step. All processes must call it at each step."""
        if self._several:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.received = Terminated
        return self.received is not None

    @contextlib.contextmanager
    def undeferred(self) -> Iterator[None]:
        """Lets the first signal act at once, in long code that donates no buffers."""
        self._undeferred = not self._several
        try:
            yield
        finally:
            self._undeferred = False

    def _note(self, number: int, _) -> None:
        self._restore()
        if self._several:
            # The preemption service notifies the other processes.
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.received = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        # Writing is not reentrant: no log line if the signal interrupted another one.
        with contextlib.suppress(RuntimeError):
            logging.warning(
                "Received a signal: stopping when this step is saved. A second signal stops at "
                "once."
            )
        if self._undeferred:
            raise self.received

    def __enter__(self) -> "DeferredSignals":
        # Only the main thread gets signals, and foreign handlers are kept.
        replaceable = {signal.SIGINT: (_end, signal.default_int_handler), signal.SIGTERM: (_end,)}
        if self._several:
            del replaceable[signal.SIGTERM]
        if threading.current_thread() is threading.main_thread():
            now = {number: signal.getsignal(number) for number in replaceable}
            self._handlers = {
                number: how for number, how in now.items() if how in replaceable[number]
            }
        for number in self._handlers:
            signal.signal(number, self._note)
        return self

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __exit__(self, *_) -> None:
        self._restore()
