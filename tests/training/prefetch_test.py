"""Batches made ready ahead: the same ones, with the position after each."""

import itertools
import threading

import pytest

from prompt_tuning.training import prefetch


class Counting:
    """An iterator of numbers with a position; raises at `end`."""

    def __init__(self, end=1000):
        self.taken, self.end = 0, end

    @property
    def position(self):
        return {"epoch": 0, "examples": self.taken}

    def __next__(self):
        if self.taken == self.end:
            raise ValueError("no more")
        self.taken += 1
        return {"number": self.taken}


def double(batch):
    return {"number": 2 * batch["number"]}


def test_batches_come_in_order_with_the_position_after_each():
    with prefetch.Prefetch(Counting(), double) as ahead:
        seen = list(itertools.islice(ahead, 5))
    assert seen == [({"number": 2 * i}, {"epoch": 0, "examples": i}) for i in range(1, 6)]


def test_a_batch_is_ready_before_it_is_asked_for_and_no_more_than_a_few():
    made = threading.Semaphore(0)
    batches = Counting()

    def place(batch):
        made.release()
        return batch

    with prefetch.Prefetch(batches, place):
        # Those that wait, and one that has no room yet.
        for _ in range(prefetch.AHEAD + 1):
            assert made.acquire(timeout=10)
        assert not made.acquire(timeout=0.2)
        assert batches.taken == prefetch.AHEAD + 1


def test_an_error_is_raised_where_its_batch_is_asked_for():
    with prefetch.Prefetch(Counting(end=2), double) as ahead:
        assert [next(ahead)[0]["number"] for _ in range(2)] == [2, 4]
        with pytest.raises(ValueError, match="no more"):
            next(ahead)


def test_the_thread_ends_with_the_block():
    with pytest.raises(KeyError), prefetch.Prefetch(Counting(), double):
        raise KeyError("of the loop")
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}
