"""Few lengths, close to what batches need."""

import numpy as np
import pytest

from prompt_tuning.data.batches import bucketing


def example(inputs, targets=1):
    return {"inputs": np.full(inputs, 7, np.int32), "targets": np.full(targets, 7, np.int32)}


def test_at_most_six_lengths_that_leave_little_empty(rng):
    """Counts what is compiled, too."""
    lengths = 100 + np.clip(rng.lognormal(2.4, 0.7, 20_000), 2, 300).astype(int)
    needs = bucketing.draw_batches(lengths[:2000], 8).max(axis=1)
    buckets = bucketing.Bucketing.choose(needs, (612, 8))
    shapes, real, positions = set(), 0, 0
    for start in range(0, len(lengths), 8):
        some = lengths[start : start + 8]
        batch = buckets.pad([example(n) for n in some], 8)
        shapes.add(batch["encoder_input_tokens"].shape)
        real, positions = real + some.max() * 8, positions + batch["encoder_input_tokens"].size
    assert len(shapes) <= len(buckets.inputs) <= 6
    assert real / positions > 0.9


@pytest.mark.parametrize(
    ("needs", "room", "lengths"),
    [
        (np.repeat([10, 20, 30, 40], 25), 612, (16, 24, 32, 40, 56, 612)),
        (np.arange(10, 500), 512, (136, 264, 328, 392, 496, 512)),
        (np.repeat(300, 9), 306, (306,)),  # 304 would save too little
        (np.repeat(40, 9), 300, (40, 56, 300)),
        (np.repeat([100, 101, 110, 120], 25), 300, (104, 120, 152, 300)),
        (np.array([20]), 20, (20,)),
    ],
)
def test_lengths_are_apart_and_end_with_the_room(needs, room, lengths):
    assert bucketing.Bucketing.choose(needs, (room, 8)) == bucketing.Bucketing(lengths, 8)


@pytest.mark.parametrize(("longest", "length"), [(3, 8), (8, 8), (9, 20), (20, 20)])
def test_a_batch_gets_the_first_that_holds_it(longest, length):
    buckets = bucketing.Bucketing((8, 20), 4)
    batch = buckets.pad([example(2, 4), example(longest)], 3)
    assert batch["encoder_input_tokens"].shape == (3, length)
    assert batch["decoder_target_tokens"].shape == (3, 4)
    assert (batch["encoder_input_tokens"] > 0).sum(axis=1).tolist() == [2, longest, 0]
    assert "encoder_segment_ids" not in batch


@pytest.mark.parametrize("size", [(21, 1), (1, 5)])
def test_an_example_beyond_the_room_is_an_error(size):
    buckets = bucketing.Bucketing((8, 20), 4)
    with pytest.raises(ValueError, match=r"at most 20 and 4. Trim them to TASK_FEATURE"):
        buckets.pad([example(2), example(*size)], 2)


def test_drawn_batches_are_of_the_sample_and_always_the_same(rng):
    sizes = rng.integers(1, 99, (50, 2))
    drawn = bucketing.draw_batches(sizes, 64)
    assert drawn.shape[1:] == (64, 2)
    assert {tuple(size) for size in drawn.reshape(-1, 2)} == {tuple(size) for size in sizes}
    np.testing.assert_array_equal(bucketing.draw_batches(sizes, 64), drawn)


def test_rounding_up():
    assert [bucketing.round_up(n) for n in (1, 8, 9)] == [8, 8, 16]
    assert bucketing.round_up(np.array([1, 10]), 5).tolist() == [5, 10]
