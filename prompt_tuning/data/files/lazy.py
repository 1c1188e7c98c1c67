"""Sequences whose items are made when they are asked for, so that few are in memory."""

import itertools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

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
