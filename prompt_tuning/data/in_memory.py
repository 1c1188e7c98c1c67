"""A seqio source of examples that are in memory, or read by their number."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

# A shuffle keeps so many numbers in memory, about 100 MB: of more examples, each comes from
# among as many that follow each other.
SHUFFLED = 1_000_000


class InMemory(seqio.DataSource):
    """Examples by split, which may be read when they are asked for (`lazy`).

    They are shuffled as a whole, anew in each epoch, by the given seed.

    Attributes:
      examples: by split.
    """

    def __init__(self, examples: Mapping[str, Sequence[Mapping[str, Any]]]):
        """Examples of a split have the same keys, and values of the same kinds."""
        # Their number is not told: seqio would cache them, and so freeze the order.
        super().__init__(splits=list(examples), performs_internal_shuffling=True)
        self.examples = examples

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
        examples = self.examples[split]
        numbers = tf.data.Dataset.range(len(examples))
        if shuffle:
            numbers = numbers.shuffle(min(len(examples), SHUFFLED), seed=seed)
        return numbers.map(_reader(examples))


def _reader(
    examples: Sequence[Mapping[str, Any]],
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """From an example's number to its features."""
    specs = {name: tf.constant(value) for name, value in examples[0].items()}
    dtypes = [spec.dtype for spec in specs.values()]

    def values_of(number: np.ndarray) -> list[np.ndarray]:
        example = examples[number]
        return [
            np.array(example[name], dtype.as_numpy_dtype)
            for name, dtype in zip(specs, dtypes, strict=True)
        ]

    def read(number: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(values_of, [number], dtypes)
        shapes = ([None] * spec.shape.rank for spec in specs.values())
        return {
            name: tf.ensure_shape(value, shape)
            for name, value, shape in zip(specs, values, shapes, strict=True)
        }

    return read
