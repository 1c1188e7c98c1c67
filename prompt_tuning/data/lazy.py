"""Sequences whose items are made when they are asked for, so that few are in memory."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np


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
      stream: begins to read; gives the same each time. It is begun again where an item is
        asked for that is not behind the one before, so ask for them in order.
    """
    position: int = 0
    items: Iterator[Any] = iter(())

    def get(number: int) -> Any:
        nonlocal position, items
        if position == 0 or number < position:
            position, items = 0, iter(stream())
        item = next(itertools.islice(items, number - position, None))
        position = number + 1
        return item

    return Lazy(get, range(sum(1 for _ in stream())))
