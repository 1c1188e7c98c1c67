"""Sequences that make their items when asked for them."""

import itertools

import pytest

from prompt_tuning.data.files import lazy


def test_items_are_made_anew_and_slices_are_lazy():
    made = []

    def make(number):
        made.append(number)
        return 10 * number

    items = lazy.Lazy(make, range(10))
    part = items[3::3]
    assert len(part) == 3 and made == []
    assert list(part) == [30, 60, 90] and part[-1] == 90 and made == [3, 6, 9, 9]
    assert list(part.map(str)[1:]) == ["60", "90"]


def test_every_so_many_left_out():
    items = lazy.Lazy(lambda number: number, range(10))
    assert list(items.without_every(4)) == [0, 1, 2, 4, 5, 6, 8, 9]
    assert list(items[3::4]) == [3, 7]


def test_one_after_the_other():
    items = lazy.chain(["ab", "", "cde"])
    assert "".join(items) == "abcde" and "".join(items[1:4]) == "bcd"


def test_a_stream_is_read_on_and_begun_again_only_for_what_is_behind():
    begun, taken = [], []

    def stream():
        begun.append(1)
        for number in range(8):
            taken.append(number)
            yield number

    items = lazy.of_stream(stream)
    assert len(items) == 8 and len(begun) == 1
    taken.clear()
    assert list(itertools.chain(items[1:3], items[4:6])) == [1, 2, 4, 5]
    assert len(begun) == 2 and taken == [0, 1, 2, 3, 4, 5]
    assert items[0] == 0 and items[0] == 0 and items[7] == 7 and len(begun) == 4


def test_passes_at_once_have_a_reader_each():
    begun = []

    def stream():
        begun.append(1)
        yield from range(8)

    get = lazy.read_in_order(stream)
    # As tf.data zips a data set with one that is made of it, and the next epoch with them.
    passes = [[get(number), get(number), get(max(number - 3, 0))] for number in range(9)]
    assert passes[:4] == [[0, 0, 0], [1, 1, 0], [2, 2, 0], [3, 3, 0]]
    assert passes[-2:] == [[7, 7, 4], [None, None, 5]]
    assert len(begun) == 6  # The last pass begins four times.


def test_an_error_of_a_stream_is_not_its_end():
    def stream():
        yield 0
        raise ValueError("line 2")

    get = lazy.read_in_order(stream)
    assert get(0) == 0
    for _ in range(2):
        with pytest.raises(ValueError, match="line 2"):
            get(1)
