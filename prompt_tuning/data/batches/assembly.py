"""Training batches of few shapes, from examples: packed or padded."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from prompt_tuning.data.batches import batching, bucketing, packing, soft_tokens


class Config(Protocol):
    """What of `pipeline.DatasetConfig` is read here."""

    batch_size: int
    pack: bool

    @property
    def room(self) -> batching.Lengths: ...


def make_assembler(
    config: Config,
    soft: soft_tokens.SoftTokens,
    sample: Sequence[batching.Example],
    row_multiple: int = 1,
) -> Callable[[Sequence[batching.Example]], batching.Batch]:
    """Makes training batches of few shapes, which are chosen from the lengths of a sample.

    Args:
      config: how long examples may be, how many make a batch, whether they share rows.
      soft: to put into each input.
      sample: a fair one: of a file that is sorted by length, rows are chosen badly.
      row_multiple: what the rows of a packed batch are a multiple of.
    """
    size, room = config.batch_size, (config.room.inputs + len(soft), config.room.targets)

    def fitted(examples: Sequence[batching.Example]) -> list[batching.Example]:
        return [soft.put_into(config.room.trim(example)) for example in examples]

    sizes = np.array([(len(e["inputs"]), len(e["targets"])) for e in fitted(sample)])
    if config.pack:
        packer = packing.Packing.choose(sizes, size, room, row_multiple)
        return lambda examples: packer.pack(fitted(examples))
    longest = bucketing.draw_batches(sizes[:, 0], size).max(axis=1)
    buckets = bucketing.Bucketing.choose(longest, room)
    lengths = ", ".join(map(str, buckets.inputs))
    logging.info("Padding batches: %d examples in %d rows of %s positions.", size, size, lengths)
    return lambda examples: buckets.pad(fitted(examples), size)
