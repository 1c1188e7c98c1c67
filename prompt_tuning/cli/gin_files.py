"""Gin files as text: what is read of them before and beside gin."""

import io
import os
import re
from collections.abc import Callable


def used_macros(text: str) -> set[str]:
    """Macros that a gin text reads; what looks like one within a string is none."""
    outside = re.sub(r"""'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*\"""", "''", text)
    return set(re.findall(r"%([A-Z][A-Z0-9_]*)", outside))


def is_model(path: str) -> bool:
    """Whether a file sets the defaults of a model: those in a folder `models`."""
    return os.path.basename(os.path.dirname(path)) == "models"


def open_once() -> Callable[[str], io.TextIOBase]:
    """Returns an `open` for one command: a model's file is empty when it is opened again.

    A second include would reset what was set since. So models/hugging_face.gin, which includes
    models/t5_1_1.gin, may be the only model's file, or follow another.
    """
    read = set()

    def open_file(path: str) -> io.TextIOBase:
        file = os.path.realpath(path)
        if file in read and is_model(file):
            return io.StringIO()
        read.add(file)
        return open(file)

    return open_file
