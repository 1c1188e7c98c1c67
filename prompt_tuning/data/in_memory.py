"""A seqio source of examples that are in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf


class InMemory(seqio.DataSource):
    """Examples by split; shuffled as a whole, anew in each epoch, by the given seed."""

    def __init__(self, examples: Mapping[str, Sequence[Mapping[str, Any]]]):
        """Examples of a split have the same keys."""
        # Their number is not told: seqio would cache them, and so freeze the order.
        super().__init__(splits=list(examples), performs_internal_shuffling=True)
        self._examples = examples

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """The examples are not in shards."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """One shard."""
        return [split]

    def get_dataset(
        self, split="train", shuffle=True, seed=None, shard_info=None, **_unused
    ) -> tf.data.Dataset:
        """The split's examples; `shard_info` is seqio's to apply."""
        examples = self._examples[split]
        columns = {key: [example[key] for example in examples] for key in examples[0]}
        dataset = tf.data.Dataset.from_tensor_slices(columns)
        return dataset.shuffle(len(examples), seed=seed) if shuffle else dataset
