"""Batches in few rows: full, even, of few shapes, and nothing lost."""

import logging

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from prompt_tuning.data.batches import packing

PROMPT = 100
ROOM = (512 + PROMPT, 8)


def sentences(count, seed=0):
    """Sizes [n, 2] like those of SST-2 with a prompt: 14 tokens in the mean, 64 at most, a label."""
    tokens = np.random.default_rng(seed).lognormal(2.4, 0.7, count)
    inputs = PROMPT + np.clip(tokens, 2, 64).astype(int)
    return np.stack([inputs, np.full(count, 2)], axis=1)


def example(number, inputs, targets):
    return {
        "inputs": np.full(inputs, number, np.int32),
        "targets": np.full(targets, number, np.int32),
    }


def batches_of(sizes, batch_size):
    """The sizes in batches, each example numbered from 1 in its batch."""
    for start in range(0, len(sizes), batch_size):
        some = sizes[start : start + batch_size]
        yield [example(i, *size) for i, size in enumerate(some.tolist(), start=1)]


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
    plan = packing.Packing.choose(sentences(2000), batch_size, ROOM)
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
    plan = packing.Packing.choose(sentences(2000), 128, ROOM, row_multiple=8)
    assert plan.rows % 8 == 0
    for examples in batches_of(sentences(10 * 128, seed=2), 128):
        real = plan.pack(examples)["encoder_segment_ids"] > 0
        shards = real.reshape(8, -1).sum(axis=1)
        assert np.ptp(shards) <= 0.02 * shards.mean()


def test_rows_are_a_multiple_also_of_a_small_batch():
    plan = packing.Packing.choose(sentences(99), 6, ROOM, row_multiple=4)
    (examples,) = batches_of(sentences(6), 6)
    assert plan.rows in (4, 8)
    assert len(sizes_of(plan.pack(examples))) == 6


def test_what_is_chosen_is_told_and_always_the_same(caplog):
    with caplog.at_level(logging.INFO):
        plan = packing.Packing.choose(sentences(2000), 32, ROOM, row_multiple=8)
    assert plan == packing.Packing.choose(sentences(2000), 32, ROOM, row_multiple=8)
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
    plan = packing.Packing.choose(np.array([[length, 8]]), 32, (length, 8))
    assert (plan.rows, plan.shapes[0][0]) == (rows, row_length)


def test_batches_like_no_sample_fit():
    plan = packing.Packing.choose(sentences(2000), 32, ROOM, row_multiple=8)
    (longest,) = batches_of(np.tile(ROOM, (32, 1)), 32)
    assert set(sizes_of(plan.pack(longest)).values()) == {ROOM}
    # Short inputs of long targets gather in few rows beside one that fills a row.
    skewed = [example(1, *ROOM), *(example(i, 101, 8) for i in range(2, 33))]
    assert len(sizes_of(plan.pack(skewed))) == 32


def test_more_or_longer_examples_than_agreed_are_an_error():
    plan = packing.Packing.choose(sentences(99), 4, ROOM)
    (longer,) = batches_of(np.tile((700, 8), (4, 1)), 4)
    (more,) = batches_of(np.tile(ROOM, (9, 1)), 9)
    for examples in (longer, more):
        with pytest.raises(ValueError, match=r"a row needs \d+ input and \d+ target positions"):
            plan.pack(examples)


sizes_within = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=24
).map(np.array)


@hypothesis.given(sample=sizes_within, sizes=sizes_within, multiple=st.sampled_from([1, 2, 8]))
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
def test_any_batch_fits_and_comes_back_exactly(sample, sizes, multiple):
    plan = packing.Packing.choose(sample, 24, (40, 12), multiple)
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
    row_of = packing.assign(lengths, 2)
    assert np.bincount(row_of, lengths, 2).tolist() == [16 * load for load in loads]


def test_what_is_uneven_is_dealt_to_the_blocks_in_turn():
    examples = [example(number, number, 1) for number in (40, 30, 20, 10)]
    ids = packing.Packing(4, ((40, 8),), blocks=2).pack(examples)["encoder_input_tokens"]
    assert ids[:, 0].tolist() == [40, 10, 30, 20]
