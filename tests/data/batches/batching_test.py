"""Trimmed, padded and packed batches: few shapes, even rows, nothing lost."""

import logging

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from prompt_tuning.data.batches import batching, soft_tokens

PROMPT = 100
MAX_LENGTHS = (512 + PROMPT, 8)


def example(inputs, targets):
    return {"inputs": np.array(inputs, np.int32), "targets": np.array(targets, np.int32)}


@pytest.mark.parametrize(
    ("inputs", "kept"),
    [
        ([5, 6, 1], [5, 6, 1]),
        ([5, 6, 7, 1], [5, 6, 7, 1]),
        ([5, 6, 7, 8, 1], [5, 6, 7, 1]),  # the end token stays
        ([5, 6, 7, 8, 9], [5, 6, 7, 8]),  # where there was one
        ([], []),
    ],
)
def test_trim_keeps_the_end_token(inputs, kept):
    room = batching.MaxLengths(inputs=4, targets=2)
    trimmed = room.trim(example(inputs, [4, 4, 1]) | {"row": 3})
    assert trimmed["inputs"].tolist() == kept
    assert trimmed["targets"].tolist() == [4, 1]
    assert trimmed["row"] == 3


@pytest.mark.parametrize(
    "lengths",
    [
        {},
        {"inputs": 4},
        {"inputs": 4, "targets": 0},
        {"inputs": 4, "targets": 2.5},
        {"inputs": 4, "targets": 2, "more": 1},
    ],
)
def test_lengths_are_positive_and_of_inputs_and_targets(lengths):
    with pytest.raises(ValueError, match=r"TASK_FEATURE_LENGTHS is .*; expected positive integers"):
        batching.MaxLengths.from_features(lengths)


def test_pad():
    batch = batching.pad([example([5, 6, 1], [8, 1]), example([7, 1], [1])], 3, 4, 3)
    expected = {
        "encoder_input_tokens": [[5, 6, 1, 0], [7, 1, 0, 0], [0, 0, 0, 0]],
        "decoder_target_tokens": [[8, 1, 0], [1, 0, 0], [0, 0, 0]],
        "decoder_input_tokens": [[0, 8, 0], [0, 0, 0], [0, 0, 0]],
        "decoder_loss_weights": [[1, 1, 0], [1, 0, 0], [0, 0, 0]],
    }
    assert {name: array.tolist() for name, array in batch.items()} == expected
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def test_pack():
    groups = [[example([5, 6, 1], [8, 9, 1]), example([7, 1], [4, 1])], [example([3, 1], [1])]]
    batch = batching.pack(groups, 3, 6, 6)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "encoder_input_tokens": [[5, 6, 1, 7, 1, 0], [3, 1, 0, 0, 0, 0], [0] * 6],
        "encoder_segment_ids": [[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0], [0] * 6],
        "decoder_target_tokens": [[8, 9, 1, 4, 1, 0], [1, 0, 0, 0, 0, 0], [0] * 6],
        # The first of each example sees 0, not the one before it in the row.
        "decoder_input_tokens": [[0, 8, 9, 0, 4, 0], [0] * 6, [0] * 6],
        "decoder_segment_ids": [[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0], [0] * 6],
        "decoder_loss_weights": [[1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0], [0] * 6],
    }


def filled(inputs, targets=1):
    return {"inputs": np.full(inputs, 7, np.int32), "targets": np.full(targets, 7, np.int32)}


def test_at_most_six_lengths_that_leave_little_empty(rng):
    """Counts what is compiled, too."""
    lengths = 100 + np.clip(rng.lognormal(2.4, 0.7, 20_000), 2, 300).astype(int)
    needs = batching.draw_batches(lengths[:2000], 8).max(axis=1)
    buckets = batching.Bucketing.choose(needs, (612, 8))
    shapes, real, positions = set(), 0, 0
    for start in range(0, len(lengths), 8):
        some = lengths[start : start + 8]
        batch = buckets.pad([filled(n) for n in some], 8)
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
    assert batching.Bucketing.choose(needs, (room, 8)) == batching.Bucketing(lengths, 8)


@pytest.mark.parametrize(("longest", "length"), [(3, 8), (8, 8), (9, 20), (20, 20)])
def test_a_batch_gets_the_first_that_holds_it(longest, length):
    buckets = batching.Bucketing((8, 20), 4)
    batch = buckets.pad([filled(2, 4), filled(longest)], 3)
    assert batch["encoder_input_tokens"].shape == (3, length)
    assert batch["decoder_target_tokens"].shape == (3, 4)
    assert (batch["encoder_input_tokens"] > 0).sum(axis=1).tolist() == [2, longest, 0]
    assert "encoder_segment_ids" not in batch


@pytest.mark.parametrize("size", [(21, 1), (1, 5)])
def test_an_example_beyond_the_room_is_an_error(size):
    buckets = batching.Bucketing((8, 20), 4)
    with pytest.raises(ValueError, match=r"at most 20 and 4. Trim them to TASK_FEATURE"):
        buckets.pad([filled(2), filled(*size)], 2)


def test_drawn_batches_are_of_the_sample_and_always_the_same(rng):
    sizes = rng.integers(1, 99, (50, 2))
    drawn = batching.draw_batches(sizes, 64)
    assert drawn.shape[1:] == (64, 2)
    assert {tuple(size) for size in drawn.reshape(-1, 2)} == {tuple(size) for size in sizes}
    np.testing.assert_array_equal(batching.draw_batches(sizes, 64), drawn)


def test_rounding_up():
    assert [batching.round_up(n) for n in (1, 8, 9)] == [8, 8, 16]
    assert batching.round_up(np.array([1, 10]), 5).tolist() == [5, 10]


def sentences(count, seed=0):
    """Sizes [n, 2] like those of SST-2 with a prompt: 14 tokens in the mean, 64 at most, a label."""
    tokens = np.random.default_rng(seed).lognormal(2.4, 0.7, count)
    inputs = PROMPT + np.clip(tokens, 2, 64).astype(int)
    return np.stack([inputs, np.full(count, 2)], axis=1)


def numbered(number, inputs, targets):
    return {
        "inputs": np.full(inputs, number, np.int32),
        "targets": np.full(targets, number, np.int32),
    }


def batches_of(sizes, batch_size):
    """The sizes in batches, each example numbered from 1 in its batch."""
    for start in range(0, len(sizes), batch_size):
        some = sizes[start : start + batch_size]
        yield [numbered(i, *size) for i, size in enumerate(some.tolist(), start=1)]


def sizes_of(batch):
    """{number of the example: its size} of what a batch holds."""
    found = {}
    for row in range(len(batch["encoder_input_tokens"])):
        for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
            kept = [
                batch[f"{side}_tokens"][row][batch[f"{part}_segment_ids"][row] == segment]
                for side, part in (("encoder_input", "encoder"), ("decoder_target", "decoder"))
            ]
            (number,) = set(np.concatenate(kept).tolist())
            assert number not in found
            found[number] = tuple(map(len, kept))
    return found


@pytest.mark.parametrize(("batch_size", "least"), [(32, 0.9), (128, 0.95)])
def test_rows_are_filled_and_shapes_are_few(batch_size, least):
    plan = batching.Packing.choose(sentences(2000), batch_size, MAX_LENGTHS)
    assert len(plan.shapes) <= 12 and list(plan.shapes) == sorted(plan.shapes)
    filled, shapes = [], set()
    for examples in batches_of(sentences(150 * batch_size, seed=1), batch_size):
        batch = plan.pack(examples)
        segments = batch["encoder_segment_ids"]
        assert len(segments) == plan.rows
        filled.append((segments > 0).mean())
        shapes.add((segments.shape[1], batch["decoder_segment_ids"].shape[1]))
    assert np.mean(filled) >= least
    assert len(shapes) <= 6 and shapes <= set(plan.shapes)


def test_shards_are_evenly_loaded():
    plan = batching.Packing.choose(sentences(2000), 128, MAX_LENGTHS, row_multiple=8)
    assert plan.rows % 8 == 0
    for examples in batches_of(sentences(10 * 128, seed=2), 128):
        real = plan.pack(examples)["encoder_segment_ids"] > 0
        shards = real.reshape(8, -1).sum(axis=1)
        assert np.ptp(shards) <= 0.02 * shards.mean()


def test_rows_are_a_multiple_also_of_a_small_batch():
    plan = batching.Packing.choose(sentences(99), 6, MAX_LENGTHS, row_multiple=4)
    (examples,) = batches_of(sentences(6), 6)
    assert plan.rows in (4, 8)
    assert len(sizes_of(plan.pack(examples))) == 6


def test_what_is_chosen_is_told_and_always_the_same(caplog):
    with caplog.at_level(logging.INFO):
        plan = batching.Packing.choose(sentences(2000), 32, MAX_LENGTHS, row_multiple=8)
    assert plan == batching.Packing.choose(sentences(2000), 32, MAX_LENGTHS, row_multiple=8)
    lengths = [inputs for inputs, _ in plan.shapes]
    said = caplog.messages[0]
    assert said.startswith(f"Packing batches: 32 examples in 8 rows of {lengths[0]} to ")
    assert int(said.split(" to ")[1].split()[0]) in lengths
    assert 90 <= int(said.split("about ")[1].split()[0]) <= 100


@pytest.mark.parametrize(
    ("length", "rows", "row_length"), [(800, 32, 800), (13, 4, 104), (12, 16, 24), (1001, 32, 1008)]
)
def test_rows_are_full_but_not_long(length, rows, row_length):
    # Eight times 13 is a multiple of 8, and twice 12; of 1,001 that would cost more attention
    # than it saves.
    plan = batching.Packing.choose(np.array([[length, 8]]), 32, (length, 8))
    assert (plan.rows, plan.shapes[0][0]) == (rows, row_length)


def test_batches_like_no_sample_fit():
    plan = batching.Packing.choose(sentences(2000), 32, MAX_LENGTHS, row_multiple=8)
    (longest,) = batches_of(np.tile(MAX_LENGTHS, (32, 1)), 32)
    assert set(sizes_of(plan.pack(longest)).values()) == {MAX_LENGTHS}
    # Short inputs of long targets gather in few rows beside one that fills a row.
    skewed = [numbered(1, *MAX_LENGTHS), *(numbered(i, 101, 8) for i in range(2, 33))]
    assert len(sizes_of(plan.pack(skewed))) == 32


def test_more_or_longer_examples_than_agreed_are_an_error():
    plan = batching.Packing.choose(sentences(99), 4, MAX_LENGTHS)
    (longer,) = batches_of(np.tile((700, 8), (4, 1)), 4)
    (more,) = batches_of(np.tile(MAX_LENGTHS, (9, 1)), 9)
    for examples in (longer, more):
        with pytest.raises(ValueError, match=r"a row needs \d+ input and \d+ target positions"):
            plan.pack(examples)


sizes_within = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=24
).map(np.array)


@hypothesis.given(sample=sizes_within, sizes=sizes_within, multiple=st.sampled_from([1, 2, 8]))
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
def test_any_batch_fits_and_comes_back_exactly(sample, sizes, multiple):
    plan = batching.Packing.choose(sample, 24, (40, 12), multiple)
    (examples,) = batches_of(sizes, 24)
    batch = plan.pack(examples)
    assert sizes_of(batch) == dict(enumerate(map(tuple, sizes.tolist()), start=1))
    again = plan.pack(examples)
    assert all((again[name] == array).all() for name, array in batch.items())


@pytest.mark.parametrize(
    ("lengths", "loads"),
    [
        ([1, 1, 1, 3], [3, 3]),  # only with the longest first
        ([10, 7, 7, 7, 6, 5], [21, 21]),  # only with a swap: 22 and 20 before
        ([9], [9, 0]),
    ],
)
def test_rows_are_evenly_loaded(lengths, loads):
    lengths = 16 * np.array(lengths)
    row_of = batching.assign(lengths, 2)
    assert np.bincount(row_of, lengths, 2).tolist() == [16 * load for load in loads]


def test_what_is_uneven_is_dealt_to_the_blocks_in_turn():
    examples = [numbered(number, number, 1) for number in (40, 30, 20, 10)]
    ids = batching.Packing(4, ((40, 8),), blocks=2).pack(examples)["encoder_input_tokens"]
    assert ids[:, 0].tolist() == [40, 10, 30, 20]


@pytest.mark.parametrize("pack", [False, True])
def test_an_assembled_batch_has_each_example_with_its_soft_tokens(pack):
    def sequence(first, length):
        return {"inputs": np.append(np.full(length, first), 1), "targets": np.array([first, 1])}

    examples = [sequence(10 + i, length) for i, length in enumerate((2, 1, 3, 9))]
    soft = soft_tokens.SoftTokens(np.array([300, 301], np.int32))
    lengths = batching.MaxLengths(6, 3)
    batch = batching.make_assembler(lengths, 4, soft, examples, pack=pack)(examples)
    ids = batch["encoder_input_tokens"]
    assert (len(ids) < 4) == pack and ("encoder_segment_ids" in batch) == pack
    assert np.sum(ids == 300) == np.sum(ids == 301) == 4
    assert [np.sum(ids == 10 + i) for i in range(4)] == [2, 1, 3, 5]  # the last one is cut
    targets = batch["decoder_target_tokens"]
    assert sorted(targets[targets > 1]) == [*range(10, 14)]
