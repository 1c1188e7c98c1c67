"""Examples of ids -> batches, written out."""

import numpy as np
import pytest

from prompt_tuning.data.batches import batching


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
    room = batching.Lengths(inputs=4, targets=2)
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
        batching.Lengths.from_features(lengths)


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
