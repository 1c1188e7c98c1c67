"""Several examples, each with its own soft tokens, in a row: few empty positions, few shapes.

A batch always has the same number of rows, about equally loaded, so that a block of rows
(a data-parallel shard) has its share of the work. Rows and lengths are chosen from the
lengths of a sample of the data. Needs no TensorFlow: examples of any origin will do.
"""

import dataclasses
import heapq
import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from prompt_tuning.data.batches import batching, bucketing

EXAMPLES_A_ROW = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # that are tried, about
QUANTILES = (0.5, 0.9, 0.98)
FIRST_STEP = 0.04  # from what has been drawn to the next length; each further step is doubled
# A row of n positions costs n + n²/EQUAL_LENGTH: attention's share grows with the row. It is as
# costly as all other products of T5 at about 3,000 (small), 6,000 (large) or 20,000 (xxl).
EQUAL_LENGTH = 6000


def assign(lengths: Int[np.ndarray, " n"], rows: int) -> Int[np.ndarray, " n"]:
    """The row of each example, such that rows are about equally loaded.

    The longest goes first, each into the row with the least load, the first of equals (LPT;
    Graham, 1969). Then examples of the fullest row are swapped for shorter ones of others.

    Let `share` be ceil(examples / rows). No row has more than 2 * share examples, nor more
    tokens than `share` of the longest: before an example is placed, some row holds fewer
    than `share`.
    """
    most = 2 * -(-len(lengths) // rows)
    counts = [0] * rows
    open_rows = [(0, row) for row in range(rows)]
    row_of = np.zeros(len(lengths), int)
    for i in np.argsort(-lengths, kind="stable"):
        load, row = heapq.heappop(open_rows)
        row_of[i] = row
        counts[row] += 1
        if counts[row] < most:
            heapq.heappush(open_rows, (load + int(lengths[i]), row))
    _swap(lengths, row_of, rows)
    return row_of


def _swap(lengths: Int[np.ndarray, " n"], row_of: Int[np.ndarray, " n"], rows: int) -> None:
    """Changes `row_of` until the fullest row cannot be made less full, or need not be."""
    loads = np.bincount(row_of, lengths, rows).astype(int)
    enough = bucketing.round_up(-(-loads.sum() // rows))
    while loads.max() > enough:
        fullest = loads.argmax()
        mine = np.flatnonzero(row_of == fullest)
        moved = lengths[mine, None] - lengths
        fuller = np.maximum(loads[fullest] - moved, loads[row_of] + moved)
        i, other = np.unravel_index(fuller.argmin(), fuller.shape)
        if fuller[i, other] >= loads[fullest]:
            return
        loads[fullest] -= moved[i, other]
        loads[row_of[other]] += moved[i, other]
        row_of[mine[i]], row_of[other] = row_of[other], fullest


def _need(sizes: Int[np.ndarray, "n 2"], row_of: Int[np.ndarray, " n"], rows: int) -> np.ndarray:
    """Positions [2] for inputs and targets that the fullest row needs."""
    loads = np.zeros((rows, 2), int)
    np.add.at(loads, row_of, sizes)
    return loads.max(axis=0)


@dataclasses.dataclass(frozen=True)
class Packing:
    """Packs the examples of a batch into rows.

    Attributes:
      rows: of every batch.
      shapes: (input, target) positions of a row, ascending in both. A batch gets the first
        that holds it; those at the end are for batches that hardly ever come.
      blocks: of rows one after the other, e.g. data-parallel shards, that are loaded equally
        although single rows may not be; they divide `rows`.
    """

    rows: int
    shapes: tuple[tuple[int, int], ...]
    blocks: int = 1

    @classmethod
    def choose(
        cls,
        sizes: Int[np.ndarray, "n 2"],
        batch_size: int,
        room: tuple[int, int],
        row_multiple: int = 1,
    ) -> "Packing":
        """The cheapest rows and lengths for random batches of such examples.

        Args:
          sizes: (input, target) tokens of a sample of the data, soft tokens counted.
          batch_size: examples of a batch.
          room: (input, target) tokens that an example has at most, soft tokens counted. Any
            batch of examples that keep to it fits.
          row_multiple: what `rows` is a multiple of: the number of `blocks`.
        """
        batches = bucketing.draw_batches(sizes, batch_size)
        numbers = {-(-batch_size // each) for each in EXAMPLES_A_ROW}
        lowest, best = np.inf, None
        for rows in sorted({bucketing.round_up(n, row_multiple) for n in numbers}, reverse=True):
            if _cost(rows, batches.sum(axis=1) / rows) >= lowest:
                continue  # not even without an empty position
            needs = np.array([_need(b, assign(b[:, 0], rows), rows) for b in batches])
            worst = -(-batch_size // rows) * np.array(room) * (1, 2)  # see assign
            packing = cls(rows, _shapes(needs, worst), row_multiple)
            shapes = np.array([packing._fit(need) for need in needs])
            if _cost(rows, shapes) < lowest:
                lowest, best = _cost(rows, shapes), (packing, shapes[:, 0])
        packing, lengths = best
        filled = batches[..., 0].sum() / (packing.rows * lengths.sum())
        logging.info(
            "Packing batches: %d examples in %d rows of %d to %d positions, about %d %% filled.",
            batch_size, packing.rows, lengths.min(), lengths.max(), 100 * filled,
        )  # fmt: skip
        return packing

    def _fit(self, need: Sequence[int]) -> tuple[int, int]:
        for shape in self.shapes:
            if need[0] <= shape[0] and need[1] <= shape[1]:
                return shape
        raise ValueError(
            f"a row needs {need[0]} input and {need[1]} target positions; expected at most "
            f"{self.shapes[-1]}: the packing was chosen for fewer or shorter examples"
        )

    def pack(self, examples: Sequence[batching.Example]) -> batching.Batch:
        """A packed batch of all the examples, the same for the same examples.

        Raises:
          ValueError: more or longer examples than the packing was chosen for.
        """
        sizes = np.array([(len(e["inputs"]), len(e["targets"])) for e in examples])
        row_of = assign(sizes[:, 0], self.rows)
        shape = self._fit(_need(sizes, row_of, self.rows))
        groups = [[examples[i] for i in np.flatnonzero(row_of == row)] for row in range(self.rows)]
        # The fullest rows go to the blocks in turn, there and back.
        loads = np.bincount(row_of, sizes[:, 0], self.rows)
        dealt = np.argsort(-loads, kind="stable").reshape(-1, self.blocks)
        dealt[1::2] = dealt[1::2, ::-1]
        return batching.pack([groups[row] for row in dealt.T.flat], self.rows, *shape)


def _cost(rows: int, lengths: np.ndarray) -> float:
    return (rows * lengths * (1 + lengths / EQUAL_LENGTH)).sum()


def _shapes(needs: Int[np.ndarray, "m 2"], worst: Int[np.ndarray, " 2"]) -> tuple:
    """Lengths that most batches need, and from there in growing steps to what the worst needs."""
    levels = list(bucketing.round_up(np.quantile(needs, QUANTILES, axis=0, method="higher")))
    last, step = bucketing.round_up(worst), FIRST_STEP
    while (levels[-1] < last).any():
        longer = bucketing.round_up((levels[-1] * (1 + step)).astype(int) + 1)
        levels.append(np.minimum(longer, last))
        step *= 2
    return tuple(dict.fromkeys((int(inputs), int(targets)) for inputs, targets in levels))
