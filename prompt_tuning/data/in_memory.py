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
    signature = {
        name: tf.TensorSpec([None] * spec.shape.rank, spec.dtype) for name, spec in specs.items()
    }
    return read_by_number(examples.__getitem__, signature)


def read_by_number(
    get: Callable[[int], Mapping[str, Any]], signature: Mapping[str, tf.TensorSpec]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """A function for tf.data's map, from an example's number to its features.

    The position of a data set of numbers is all that there is to save, which T5X does
    (`SaveCheckpointConfig.save_dataset`); a Python generator or a stateful function cannot be saved.

    Args:
      get: gives the same example for the same number each time.
      signature: of the features.
    """

    def values_of(number: np.ndarray) -> list[np.ndarray]:
        example = get(int(number))
        return [
            np.array(example[name], spec.dtype.as_numpy_dtype) for name, spec in signature.items()
        ]

    def read(number: tf.Tensor) -> dict[str, tf.Tensor]:
        dtypes = [spec.dtype for spec in signature.values()]
        values = tf.numpy_function(values_of, [number], dtypes, stateful=False)
        return {
            name: tf.ensure_shape(value, spec.shape)
            for (name, spec), value in zip(signature.items(), values, strict=True)
        }

    return read
