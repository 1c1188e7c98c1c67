"""Processes of one run watch each other: where one is gone, the others end and say which.

Process 0 is linked with each other one, and passes on what it hears. A link carries an empty
line a few times within the limit, and one line of JSON where a process ends.
"""

import atexit
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping

import jax

# Of sysexits.h, EX_TEMPFAIL: the same command again may do.
GONE = 75
MENDABLE, INTERRUPTED, FAILED = 2, 130, 1
BEATS = 5  # within the limit
GRACE = 3  # seconds in which processes that fail together may each say so themselves
AGAIN = (
    "This process stops too, because a run needs all processes. Start all of them again, each "
    "with its own command: they resume from the last state in MODEL_DIR."
)


class Watch:
    """A thread that ends this process where another is gone."""

    def __init__(self, own: str, links: Mapping[str, socket.socket], limit: float):
        """Starts to watch.

        Args:
          own: name of this process.
          links: to other processes, by name: of process 0 to all, of the others to it.
          limit: seconds that a process may be silent.
        """
        self._own, self._links, self._limit = own, links, limit
        self._came = dict.fromkeys(links, b"")
        self._failed = threading.Event()
        _delay_aborts()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Tells the others that this process is done. They are watched until they are, too."""
        self._tell({"end": self._own})

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process ends with an error, and of what kind.

        An error of JAX's may come of another that is gone: then this process ends here, and says
        so. It does not where memory is full.
        """
        of_jax = isinstance(error, jax.errors.JaxRuntimeError)
        if of_jax and not str(error).startswith("RESOURCE_EXHAUSTED"):
            self._thread.join(self._limit)
        self._failed.set()
        why, code = "failed with an error", FAILED
        if isinstance(error, KeyboardInterrupt):
            why, code = "was interrupted", INTERRUPTED
        elif isinstance(error, ValueError | OSError):
            code = MENDABLE
        self._tell({"end": self._own, "why": f"{why}: {error}".rstrip(": "), "code": code})
        # JAX's own end waits for processes that are gone by then, and aborts.
        atexit.register(_exit, code)

    def _tell(self, message: Mapping[str, object]) -> None:
        self._send(json.dumps(message))

    def _send(self, line: str) -> None:
        for link in self._links.values():
            try:
                link.sendall(f"{line}\n".encode())
            except OSError:  # It is found where it is read from.
                continue

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for name, link in self._links.items():
                selector.register(link, selectors.EVENT_READ, name)
            heard = dict.fromkeys(self._links, time.monotonic())
            beaten = 0.0
            while heard:
                for key, _ in selector.select(self._limit / BEATS):
                    heard[key.data] = time.monotonic()
                    if not self._hear(key.data):
                        selector.unregister(key.fileobj)
                        del heard[key.data]
                if time.monotonic() - beaten > self._limit / BEATS:
                    beaten = time.monotonic()
                    self._send("")
                for name, last in heard.items():
                    if (silent := time.monotonic() - last) > self._limit:
                        self._gone(name, f"has not responded for {silent:.0f} s")

    def _hear(self, name: str) -> bool:
        """Reads what a process says; False where it is done."""
        try:
            read = self._links[name].recv(65536)
        except OSError:
            read = b""
        if not read:
            self._gone(name, "has exited: it was killed, it crashed, or its machine is off")
        *lines, self._came[name] = (self._came[name] + read).split(b"\n")
        for message in (json.loads(line) for line in lines if line):
            if "why" in message:
                self._gone(message["end"], message["why"], message["code"])
            return False
        return True

    def _gone(self, name: str, why: str, code: int = GONE) -> None:
        """Tells the others, and ends this process."""
        self._tell({"end": name, "why": why, "code": code})
        if code == GONE or not self._failed.wait(GRACE):
            leave(f"{name} {why}. {AGAIN}", code)


def leave(message: str, code: int) -> None:
    """Ends this process with a message, whatever its other threads wait for."""
    # Not `print`: another thread may hold standard error.
    os.write(2, f"prompt-tuning: {message}\n".encode())
    os._exit(code)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _delay_aborts() -> None:
    """An abort of this process takes effect after 6 seconds; until then other threads go on.

    A collective on the CPU (Gloo) and JAX's client abort at once where another process is
    gone, and neither says which. The handler is the C library's `sleep`, which may be called in
    one; its argument, the signal's number, is the seconds.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
