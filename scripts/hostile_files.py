"""Trials of hostile files: a reader gets a corrupted version of a small valid file.

`Trial.try_content` reads a corrupted file. It may be read, or refused with a message of this
package that names it; anything else is a finding. hostile_checkpoints.py and hostile_data.py have
the readers. tests/hostile_files_test.py tries 25 files per reader, scripts/fuzz.py millions.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

ALLOWED_ERRORS = (ValueError, OSError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


@dataclasses.dataclass(frozen=True)
class Target:
    """A file to corrupt, and its reader.

    Attributes:
      file: name of the file in its folder.
      write: writes the file, and the files that are read with it, to a folder.
      read: reads the folder.
      unpack, pack: conversion between the file's bytes and the bytes to corrupt, where a checksum
        or a compressor protects the rest of the format.
    """

    file: str
    write: Callable[[pathlib.Path], None]
    read: Callable[[pathlib.Path], Any]
    unpack: Callable[[bytes], bytes] = bytes
    pack: Callable[[bytes], bytes] = bytes


class Trial:
    """A target in a folder."""

    def __init__(self, target: Target, folder: pathlib.Path):
        """Writes the valid files and reads them once."""
        self.target, self.folder = target, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.target.write(folder)
        self.file = folder / self.target.file
        self.valid = self.target.unpack(self.file.read_bytes())
        self.target.read(folder)

    def try_content(self, content: bytes) -> str | None:
        """Reads a corrupted file. Returns the error message, or None; AssertionError is a finding."""
        self.file.write_bytes(self.target.pack(content))
        try:
            self.target.read(self.folder)
        except ALLOWED_ERRORS as error:
            # A subclass such as JSONDecodeError has the message of a library.
            assert type(error) in ALLOWED_ERRORS and str(self.folder) in str(error), repr(error)[
                :300
            ]
            return str(error)
        except Exception as error:
            raise AssertionError(f"unexpected error: {error!r}"[:300]) from error
        return None
