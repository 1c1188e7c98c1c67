"""Few row lengths for batches of one example a row: a step is compiled once for each.

Needs no TensorFlow: lengths and examples of any origin will do.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from prompt_tuning.data.batches import batching

# Lengths are multiples of it: what tensor cores want of 16-bit numbers.
MULTIPLE = 8
MOST = 5  # buckets for what has been seen, and for the room
# A bucket that saves a smaller share of all positions is not worth its compiling.
WORTH = 0.02
GROWTH = 1.25  # from the longest that has been seen to a spare bucket before the room
# Large batches differ less, so that fewer of them will do.
DRAWN_EXAMPLES, LEAST_BATCHES = 10_000, 20


def round_up(lengths, multiple: int = MULTIPLE):
    """The next multiple, of a number or of each of an array."""
    return -(-lengths // multiple) * multiple


def draw_batches(sizes: Int[np.ndarray, "n ..."], batch_size: int) -> Int[np.ndarray, "m B ..."]:
    """What batches of such examples will be like: always the same random ones."""
    batches = max(DRAWN_EXAMPLES // batch_size, LEAST_BATCHES)
    return sizes[np.random.default_rng(0).integers(len(sizes), size=(batches, batch_size))]


@dataclasses.dataclass(frozen=True)
class Bucketing:
    """Pads a batch to the least of few lengths that holds its longest input.

    Attributes:
      inputs: lengths of an input row, soft tokens counted, ascending; an input is at most the
        last of them.
      targets: length of a target row.
    """

    inputs: tuple[int, ...]
    targets: int

    @classmethod
    def choose(cls, needs: Int[np.ndarray, " n"], room: tuple[int, int]) -> "Bucketing":
        """At most six buckets of which batches like these will leave little empty.

        Args:
          needs: the longest input of each of some batches, soft tokens counted.
          room: (input, target) tokens that an example has at most, soft tokens counted.
        """
        # As if one more batch had needed the room.
        ever = np.append(np.minimum(round_up(needs), room[0]), room[0])
        lengths, counts = np.unique(ever, return_counts=True)
        while len(lengths) > 1:
            # What it costs to do without a bucket: its batches get the next one.
            wasted = np.diff(lengths) * counts[:-1]
            i = wasted.argmin()
            if len(lengths) <= MOST and wasted[i] > WORTH * (lengths @ counts):
                break
            counts[i + 1] += counts[i]
            lengths, counts = np.delete(lengths, i), np.delete(counts, i)
        kept = lengths.tolist()
        if len(kept) > 1 and (spare := round_up(int(GROWTH * kept[-2]))) < room[0]:
            kept.insert(-1, spare)
        return cls(tuple(kept), room[1])

    def pad(self, examples: Sequence[batching.Example], rows: int) -> batching.Batch:
        """One example a row; rows without an example are 0.

        Raises:
          ValueError: an example is longer than the room.
        """
        inputs = max(len(example["inputs"]) for example in examples)
        targets = max(len(example["targets"]) for example in examples)
        if inputs > self.inputs[-1] or targets > self.targets:
            raise ValueError(
                f"examples have up to {inputs} input and {targets} target tokens; expected at most "
                f"{self.inputs[-1]} and {self.targets}. Trim them to TASK_FEATURE_LENGTHS."
            )
        length = next(length for length in self.inputs if inputs <= length)
        return batching.pad(examples, rows, length, self.targets)
