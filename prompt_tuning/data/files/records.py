"""Sequences whose items are read when they are asked for: rows of a file by number, of any size.

In memory are one row, sixteen bytes for each, and the file where it is small.
"""

import array
import functools
import itertools
import logging
import operator
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.files import tables

IN_MEMORY = 64 * 2**20  # bytes of a file that is kept, so that it may change while it is used
TELL_EVERY = 30  # seconds
# Of a stream that is read in several passes at once; the one that has waited longest is closed.
OPEN_READERS = 4


class Lazy(Sequence):
    """`get(0)` … `get(n - 1)`, called anew each time; a slice of it is another such sequence."""

    def __init__(self, get: Callable[[int], Any], numbers: Sequence[int]):
        """`numbers` are the items' in order: range(n) for all of them."""
        self._get, self._numbers = get, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, which):
        if isinstance(which, slice):
            return Lazy(self._get, self._numbers[which])
        return self._get(self._numbers[which])

    def without_every(self, step: int) -> "Lazy":
        """The same without the items step - 1, 2 · step - 1, …"""
        return Lazy(self._get, np.delete(self._numbers, slice(step - 1, None, step)))

    def map(self, change: Callable[[Any], Any]) -> "Lazy":
        """The same, each item changed."""
        return Lazy(lambda number: change(self._get(number)), self._numbers)


def chain(parts: Sequence[Sequence[Any]]) -> Lazy:
    """The items of several sequences, one after the other."""
    ends = np.cumsum([len(part) for part in parts])

    def get(number: int) -> Any:
        part = int(np.searchsorted(ends, number, side="right"))
        return parts[part][number - int(ends[part]) + len(parts[part])]

    return Lazy(get, range(int(ends[-1])))


def of_stream(stream: Callable[[], Iterable[Any]]) -> Lazy:
    """The items of what can only be read from its beginning; it is read once to count them.

    Args:
      stream: begins to read; gives the same each time.
    """
    return Lazy(read_in_order(stream), range(sum(1 for _ in stream())))


def read_in_order(stream: Callable[[], Iterable[Any]]) -> Callable[[int], Any]:
    """A function from an item's number to the item of a stream; None behind its end.

    Reading is quick where numbers rise, also in several threads or passes at once: readers stay
    open and skip forward. Where none is far enough back, the stream is begun again.

    Args:
      stream: begins to read; gives the same each time.
    """
    readers: list[tuple[int, Iterator[Any]]] = []  # each with the number of its next item
    lock = threading.Lock()

    def get(number: int) -> Any:
        with lock:
            behind = [reader for reader in readers if reader[0] <= number]
            start, items = max(behind, key=operator.itemgetter(0), default=(0, None))
            if items is None:
                items = iter(stream())
            else:
                readers.remove((start, items))
            item = next(itertools.islice(items, number - start, None), None)
            readers.append((number + 1, items))
            del readers[:-OPEN_READERS]
            return item

    return get


def sample(examples: Sequence[Any], size: int) -> list[Any]:
    """So many examples at most, always the same, in order: fair, however they are sorted."""
    if len(examples) <= size:
        return list(examples)
    order = np.random.default_rng(0).choice(len(examples), size, replace=False)
    return [examples[i] for i in np.sort(order)]


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
) -> Lazy:
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
    content = _Content(path, table.location, can_stay=table.coding.is_utf8_lines)
    starts, ends = array.array("q"), array.array("q")
    log_time = time.monotonic()
    for number, start, end, row in table.scan(None if content.in_place else content):
        item = None
        if row is not None:
            item = make(row, len(starts), f"{table.location}, line {number}")
        if item is not None:
            starts.append(start)
            ends.append(end)
        observe(number, item)
        if time.monotonic() > log_time + TELL_EVERY:
            log_time = time.monotonic()
            logging.info("%s: %d rows read, %.1f GB", table.location, len(starts), end / 1e9)

    def get(i: int) -> Any:
        record = content.part(starts[i], ends[i])
        # Where a byte order mark may be matters, the line's number does not.
        return make(table.row(record, 1 + (starts[i] > 0)), i, f"{table.location}, row {i}")

    return Lazy(get, range(len(starts)))


class _Content:
    """The bytes of a file by their offset.

    Attributes:
      in_place: whether they are read from the file; else they are to be written first.
    """

    def __init__(self, path: str, location: str, *, can_stay: bool):
        is_here = can_stay and os.path.isfile(path) and not path.endswith(".gz")
        self.in_place = is_here and os.path.getsize(path) > IN_MEMORY
        self._location, self._lock = location, threading.Lock()
        # Open as long as rows are asked for.
        opener = functools.partial(open, path, "rb")
        spooled = functools.partial(tempfile.SpooledTemporaryFile, IN_MEMORY)
        self._file = opener() if self.in_place else spooled()
        weakref.finalize(self, self._file.close)
        self._state = self._now()

    def _now(self) -> tuple[int, int] | None:
        status = os.fstat(self._file.fileno()) if self.in_place else None
        return status and (status.st_size, status.st_mtime_ns)

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise OSError(
                f"{self._location} cannot be copied to {tempfile.gettempdir()}: {error}. Set TMPDIR to a folder "
                "with enough free space."
            ) from error

    def part(self, start: int, end: int) -> bytes:
        if self._now() != self._state:
            raise OSError(
                f"{self._location} has changed while it was in use; expected a file that no other process "
                "writes to. Run the same command again."
            )
        with self._lock:
            self._file.seek(start)
            return self._file.read(end - start)
