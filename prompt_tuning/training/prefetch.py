"""Prefetching of batches to the devices on a background thread."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from prompt_tuning.data import pipeline
from prompt_tuning.data.batches import batching

AHEAD = 2


class Prefetch:
    """Yields (batch on the devices, position after it). Use as a context manager.

    Yields the batches of the iterator in order, and raises its exceptions.
    """

    def __init__(
        self,
        batches: pipeline.Batches,
        put: Callable[[batching.Batch], Mapping[str, jax.Array]],
    ):
        """`put` moves a batch to the devices; only the thread may use `batches` until the exit."""
        self._batches, self._put = batches, put
        self._ready: queue.Queue[tuple[Any, Any, BaseException | None]] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)

    def _fill(self) -> None:
        while not self._stopped.is_set():
            try:
                item = self._put(next(self._batches)), self._batches.position, None
            except BaseException as error:  # raised again by __next__
                item = None, None, error
            self._ready.put(item)
            if item[2] is not None:
                return

    def __iter__(self) -> Iterator[tuple[Mapping[str, jax.Array], Mapping[str, int]]]:
        return self

    def __next__(self) -> tuple[Mapping[str, jax.Array], Mapping[str, int]]:
        batch, position, error = self._ready.get()
        if error is not None:
            raise error
        return batch, position

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            try:  # The thread may be waiting for the full queue.
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue
