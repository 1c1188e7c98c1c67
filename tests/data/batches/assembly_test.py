"""Training batches of examples, packed and padded."""

import dataclasses

import numpy as np
import pytest

from prompt_tuning.data import pipeline
from prompt_tuning.data.batches import assembly, soft_tokens

CONFIG = pipeline.DatasetConfig(None, {"inputs": 6, "targets": 3}, "train", 4)
SOFT = soft_tokens.SoftTokens(np.array([300, 301], np.int32))


def example(first, length):
    return {"inputs": np.append(np.full(length, first), 1), "targets": np.array([first, 1])}


@pytest.mark.parametrize("pack", [False, True])
def test_a_batch_has_each_example_with_its_soft_tokens(pack):
    examples = [example(10 + i, length) for i, length in enumerate((2, 1, 3, 9))]
    config = dataclasses.replace(CONFIG, pack=pack)
    batch = assembly.make_assembler(config, SOFT, examples)(examples)
    ids = batch["encoder_input_tokens"]
    assert (len(ids) < 4) == pack and ("encoder_segment_ids" in batch) == pack
    assert np.sum(ids == 300) == np.sum(ids == 301) == 4
    assert [np.sum(ids == 10 + i) for i in range(4)] == [2, 1, 3, 5]  # the last one is cut
    assert sorted(batch["decoder_target_tokens"][batch["decoder_target_tokens"] > 1]) == [
        *range(10, 14)
    ]
