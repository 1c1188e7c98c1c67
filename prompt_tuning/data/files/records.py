"""Rows of a TSV, CSV or JSON Lines file, however large: one after the other, or by their number.

In memory are one row, sixteen bytes for each, and the file where it is small.
"""

import array
import functools
import logging
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prompt_tuning.data.files import lazy, tables

IN_MEMORY = 64 * 2**20  # bytes of a file that is kept, so that it may change while it is used
TELL_EVERY = 30  # seconds


def read_rows(path: str, setting: str) -> Iterator[tuple[int, tables.Row]]:
    """(line number, {column: value}) of each row of a UTF-8 file; blank lines are skipped.

    `setting` is the macro that the path is from. Raises as `tables.Table`, and ValueError with the
    line.
    """
    for number, _, _, row in tables.Table(path, setting).scan():
        if row is not None:
            yield number, row


def by_number(
    path: str,
    setting: str,
    make: Callable[[tables.Row, int, str], Any],
    suffixes: Sequence[str] = tables.SUFFIXES,
    encoding: str = "utf-8",
    observe: Callable[[int, Any], None] = lambda number, item: None,
) -> lazy.Lazy:
    """What `make` makes of each row, when it is asked for; all rows are tried once, now.

    A large file stays where it is and must not change; a packed one, one of another encoding and
    one on another machine is copied into a temporary file (TMPDIR), a small one kept in memory.

    Args:
      path: of the file.
      setting: the macro that the path is from, for messages.
      make: of a row, its number from 0 and its place for messages; None of a row to skip.
      suffixes: those that the file may have.
      encoding: FILE_ENCODING.
      observe: gets the line number of each row and what `make` makes of it, in order, while all
        rows are tried; None for a blank line too.
    """
    table = tables.Table(path, setting, suffixes, encoding)
    content = _Content(path, table.place, can_stay=table.coding.is_utf8_lines)
    starts, ends = array.array("q"), array.array("q")
    log_time = time.monotonic()
    for number, start, end, row in table.scan(None if content.in_place else content):
        item = None
        if row is not None:
            item = make(row, len(starts), f"{table.place}, line {number}")
        if item is not None:
            starts.append(start)
            ends.append(end)
        observe(number, item)
        if time.monotonic() > log_time + TELL_EVERY:
            log_time = time.monotonic()
            logging.info("%s: %d rows read, %.1f GB", table.place, len(starts), end / 1e9)

    def get(i: int) -> Any:
        record = content.part(starts[i], ends[i])
        # Where a byte order mark may be matters, the line's number does not.
        return make(table.row(record, 1 + (starts[i] > 0)), i, f"{table.place}, row {i}")

    return lazy.Lazy(get, range(len(starts)))


class _Content:
    """The bytes of a file by their place.

    Attributes:
      in_place: whether they are read from the file; else they are to be written first.
    """

    def __init__(self, path: str, place: str, *, can_stay: bool):
        is_here = can_stay and os.path.isfile(path) and not path.endswith(".gz")
        self.in_place = is_here and os.path.getsize(path) > IN_MEMORY
        self._place, self._lock = place, threading.Lock()
        # Open as long as rows are asked for.
        opener = functools.partial(open, path, "rb")
        spooled = functools.partial(tempfile.SpooledTemporaryFile, IN_MEMORY)
        self._file = opener() if self.in_place else spooled()
        weakref.finalize(self, self._file.close)
        self._state = self._now()

    def _now(self) -> tuple[int, int] | None:
        found = os.fstat(self._file.fileno()) if self.in_place else None
        return found and (found.st_size, found.st_mtime_ns)

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise OSError(
                f"{self._place} cannot be copied to {tempfile.gettempdir()}: {error}. Set TMPDIR to a folder "
                "with enough free space."
            ) from error

    def part(self, start: int, end: int) -> bytes:
        if self._now() != self._state:
            raise OSError(
                f"{self._place} has changed while it was in use; expected a file that no other process "
                "writes to. Run the same command again."
            )
        with self._lock:
            self._file.seek(start)
            return self._file.read(end - start)
