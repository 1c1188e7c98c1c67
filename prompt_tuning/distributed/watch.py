"""Heartbeats between the processes of a run: if one fails, the others exit and name it.

Process 0 has a socket to each other process and forwards messages. A heartbeat is an empty line;
a process that exits sends one line of JSON.
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

# EX_TEMPFAIL of sysexits.h: starting the same command again may succeed.
EXIT_PEER_FAILED = 75
EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_ERROR = 2, 130, 1
BEATS = 5  # per timeout
GRACE = 3  # seconds for processes that fail together to report their own errors
AGAIN = (
    "This process stops too, because a run needs all processes. Start all of them again, each "
    "with its own command: they resume from the last state in MODEL_DIR."
)


class Watch:
    """A thread that exits this process if another process fails."""

    def __init__(self, process_name: str, links: Mapping[str, socket.socket], limit: float):
        """Starts the thread.

        Args:
          process_name: name of this process.
          links: sockets by process name: to all processes from process 0, else to process 0.
          limit: seconds after which a silent process has failed.
        """
        self._process_name, self._links, self._limit = process_name, links, limit
        self._received = dict.fromkeys(links, b"")
        self._failed = threading.Event()
        _delay_aborts()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Reports that this process is done. The others are watched until they are done."""
        self._report({"end": self._process_name})

    def fail(self, error: BaseException) -> None:
        """Reports the error that ends this process.

        A JAX error other than RESOURCE_EXHAUSTED may be caused by a failed process; this process
        then waits for the heartbeat timeout and exits with the name of that process.
        """
        of_jax = isinstance(error, jax.errors.JaxRuntimeError)
        if of_jax and not str(error).startswith("RESOURCE_EXHAUSTED"):
            self._thread.join(self._limit)
        self._failed.set()
        why, code = "failed with an error", EXIT_ERROR
        if isinstance(error, KeyboardInterrupt):
            why, code = "was interrupted", EXIT_INTERRUPTED
        elif isinstance(error, ValueError | OSError):
            code = EXIT_USER_ERROR
        self._report(
            {"end": self._process_name, "why": f"{why}: {error}".rstrip(": "), "code": code}
        )
        # JAX's shutdown barrier would wait for failed processes and abort.
        atexit.register(_exit, code)

    def _report(self, message: Mapping[str, object]) -> None:
        self._send(json.dumps(message))

    def _send(self, line: str) -> None:
        for link in self._links.values():
            try:
                link.sendall(f"{line}\n".encode())
            except OSError:  # The receiving side handles it.
                continue

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for name, link in self._links.items():
                selector.register(link, selectors.EVENT_READ, name)
            last_heard = dict.fromkeys(self._links, time.monotonic())
            last_sent = 0.0
            while last_heard:
                for key, _ in selector.select(self._limit / BEATS):
                    last_heard[key.data] = time.monotonic()
                    if not self._receive(key.data):
                        selector.unregister(key.fileobj)
                        del last_heard[key.data]
                if time.monotonic() - last_sent > self._limit / BEATS:
                    last_sent = time.monotonic()
                    self._send("")
                for name, last in last_heard.items():
                    if (silent := time.monotonic() - last) > self._limit:
                        self._exit_for(name, f"has not responded for {silent:.0f} s")

    def _receive(self, name: str) -> bool:
        """Reads from a process; returns False if it is done."""
        try:
            read = self._links[name].recv(65536)
        except OSError:
            read = b""
        if not read:
            self._exit_for(name, "has exited: it was killed, it crashed, or its machine is off")
        *lines, self._received[name] = (self._received[name] + read).split(b"\n")
        for message in (json.loads(line) for line in lines if line):
            if "why" in message:
                self._exit_for(message["end"], message["why"], message["code"])
            return False
        return True

    def _exit_for(self, name: str, why: str, code: int = EXIT_PEER_FAILED) -> None:
        """Reports the failed process to the others, and exits."""
        self._report({"end": name, "why": why, "code": code})
        if code == EXIT_PEER_FAILED or not self._failed.wait(GRACE):
            leave(f"{name} {why}. {AGAIN}", code)


def leave(message: str, code: int) -> None:
    """Exits with a message, without waiting for other threads."""
    # Not `print`: another thread may hold the lock of standard error.
    os.write(2, f"prompt-tuning: {message}\n".encode())
    os._exit(code)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _delay_aborts() -> None:
    """Delays aborts of this process by 6 seconds, so that the thread can name the failed process.

    Collectives on the CPU (Gloo) and JAX's client abort when another process has failed, without
    naming it. The handler is C's async-signal-safe `sleep`, called with the signal number, 6.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
