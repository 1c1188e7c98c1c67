"""Soft tokens in the batches that seqio makes for T5X."""

import numpy as np
import pytest
import tensorflow as tf

from prompt_tuning.data.batches import soft_tokens
from prompt_tuning.t5x import feature_converter

LENGTHS = {"inputs": 6, "targets": 3}
ROWS = [
    {"inputs": [7, 8, 1], "targets": [9, 1]},
    {"inputs": [5, 6, 7, 8, 9, 1], "targets": [4, 3, 1]},
    {"inputs": [3, 1], "targets": [2, 1]},
]
IDS = np.array([100, 101], np.int32)


def convert(soft, lengths=LENGTHS, **settings):
    """The rows of batches, as T5X gets them."""
    ids = tf.TensorSpec([None], tf.int32)
    examples = tf.data.Dataset.from_generator(
        lambda: iter(ROWS), output_signature={"inputs": ids, "targets": ids}
    )
    converter = feature_converter.SoftTokenConverter(soft, **settings)
    return list(converter(examples, lengths).as_numpy_iterator())


@pytest.mark.parametrize("place", ["prefix", "suffix", (0, 1)])
def test_a_row_holds_what_our_own_batches_hold(place):
    soft = soft_tokens.SoftTokens(IDS, place)
    for row, given in zip(convert(soft, pack=False), ROWS, strict=True):
        filled = soft.insert({"inputs": np.array(given["inputs"], np.int32)})["inputs"]
        # Lengths count text: the row has room for both.
        assert row["encoder_input_tokens"].tolist() == [*filled, *[0] * (8 - len(filled))]
        targets = given["targets"] + [0] * (3 - len(given["targets"]))
        assert row["decoder_target_tokens"].tolist() == targets
        assert row["decoder_input_tokens"].tolist() == [0, *targets[:-1]]


def test_packed_examples_have_each_their_own():
    soft = soft_tokens.SoftTokens(IDS)
    (row,) = convert(soft, {"inputs": 20, "targets": 9}, pack=True)
    expected = [[*IDS, *given["inputs"]] for given in ROWS]
    segments = row["encoder_segment_ids"]
    found = [row["encoder_input_tokens"][segments == i + 1].tolist() for i in range(len(ROWS))]
    assert sorted(found) == sorted(expected)
