"""Standard input, output and error of a process that was started with some of them closed."""

import contextlib
import os
import sys


def open_closed() -> None:
    """Opens the null device in place of streams that are closed, as by `2>&-` in a shell.

    Otherwise the next file that is opened gets the descriptor, and log lines are written to it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            file = os.open(os.devnull, os.O_RDWR)  # the lowest descriptor that is free
            setattr(sys, name, os.fdopen(file, "r" if name == "stdin" else "w"))
