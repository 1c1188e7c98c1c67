"""Examples of ids -> numpy batches of few shapes: trimmed, with soft tokens, padded or packed.

A batch has `encoder_input_tokens`, `decoder_target_tokens`, `decoder_input_tokens` (targets
shifted right, 0 first), `decoder_loss_weights`; a packed one also
`{encoder,decoder}_segment_ids`. All are int32. There are no positions: T5 uses distances, and
those within a segment are those within the row.

The step is compiled once per shape, so lengths and rows are chosen from a sample of the data.
"""

import dataclasses
import heapq
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from prompt_tuning.data import vocabularies
from prompt_tuning.data.batches import soft_tokens

Example = Mapping[str, np.ndarray]
Batch = dict[str, np.ndarray]
_SEGMENT_FIELDS = ("encoder_segment_ids", "decoder_segment_ids")

# Lengths are multiples of it: what tensor cores want of 16-bit numbers.
MULTIPLE = 8
MAX_BUCKETS = 5
# A bucket that saves a smaller share of all positions is not worth its compilation.
MIN_SAVING = 0.02
GROWTH = 1.25  # of the longest sampled length, for a spare bucket below the maximum
# Large batches vary less, so fewer of them are drawn.
DRAWN_EXAMPLES, MIN_BATCHES = 10_000, 20
EXAMPLES_PER_ROW = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # candidates
QUANTILES = (0.5, 0.9, 0.98)
FIRST_STEP = 0.04  # from the longest drawn length to the next; each further step is doubled
# A row of n positions costs n + n²/EQUAL_LENGTH: attention's share grows with the row. It costs
# as much as all other products of T5 at about 3,000 (small), 6,000 (large) or 20,000 (xxl).
EQUAL_LENGTH = 6000


@dataclasses.dataclass(frozen=True)
class MaxLengths:
    """Tokens kept of an example.

    Attributes:
      inputs: input tokens kept (TASK_FEATURE_LENGTHS["inputs"]), soft tokens not counted.
      targets: target tokens kept.
    """

    inputs: int
    targets: int

    @classmethod
    def from_features(cls, lengths: Mapping[str, int]) -> "MaxLengths":
        """From TASK_FEATURE_LENGTHS. Raises ValueError where it is not as expected."""
        known = isinstance(lengths, Mapping) and set(lengths) == {"inputs", "targets"}
        if not known or not all(isinstance(n, int) and n > 0 for n in lengths.values()):
            raise ValueError(
                f"TASK_FEATURE_LENGTHS is {lengths!r}; expected positive integers for exactly 'inputs' and "
                "'targets'. Set e.g. TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 8}."
            )
        return cls(lengths["inputs"], lengths["targets"])

    def trim(self, example: Example) -> dict[str, np.ndarray]:
        """The example cut to fit, its last token kept an end token."""
        return {
            **example,
            "inputs": _cut(example["inputs"], self.inputs),
            "targets": _cut(example["targets"], self.targets),
        }


def _cut(ids: np.ndarray, length: int) -> np.ndarray:
    if len(ids) <= length:
        return ids
    cut = ids[:length].copy()
    if ids[-1] == vocabularies.EOS_ID:
        cut[-1] = vocabularies.EOS_ID
    return cut


def pad(examples: Sequence[Example], rows: int, inputs: int, targets: int) -> Batch:
    """One example a row; rows without an example are 0."""
    return pack([[e] for e in examples], rows, inputs, targets, segments=False)


def pack(
    groups: Sequence[Sequence[Example]],
    rows: int,
    inputs: int,
    targets: int,
    *,
    segments: bool = True,
) -> Batch:
    """The examples of a group share a row, one after the other, as segments 1, 2, …"""
    batch = {
        name: np.zeros((rows, inputs if name.startswith("encoder") else targets), np.int32)
        for name in (
            "encoder_input_tokens",
            "decoder_target_tokens",
            "decoder_input_tokens",
            "decoder_loss_weights",
            *(_SEGMENT_FIELDS if segments else ()),
        )
    }
    for row, group in enumerate(groups):
        encoder_end = decoder_end = 0
        for number, example in enumerate(group, start=1):
            source = slice(encoder_end, encoder_end + len(example["inputs"]))
            target = slice(decoder_end, decoder_end + len(example["targets"]))
            batch["encoder_input_tokens"][row, source] = example["inputs"]
            batch["decoder_target_tokens"][row, target] = example["targets"]
            shifted = slice(target.start + 1, target.stop)
            batch["decoder_input_tokens"][row, shifted] = example["targets"][:-1]
            batch["decoder_loss_weights"][row, target] = 1
            if segments:
                batch["encoder_segment_ids"][row, source] = number
                batch["decoder_segment_ids"][row, target] = number
            encoder_end, decoder_end = source.stop, target.stop
    return batch


def round_up(lengths, multiple: int = MULTIPLE):
    """The next multiple, of a number or of each of an array."""
    return -(-lengths // multiple) * multiple


def draw_batches(sizes: Int[np.ndarray, "n ..."], batch_size: int) -> Int[np.ndarray, "m B ..."]:
    """What batches of such examples will be like: always the same random ones."""
    batches = max(DRAWN_EXAMPLES // batch_size, MIN_BATCHES)
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
    def choose(cls, needs: Int[np.ndarray, " n"], max_lengths: tuple[int, int]) -> "Bucketing":
        """At most six buckets of which batches like these will leave little empty.

        Args:
          needs: the longest input of each of some batches, soft tokens counted.
          max_lengths: (input, target) tokens that an example has at most, soft tokens counted.
        """
        # As if one more batch needed the maximum.
        ever = np.append(np.minimum(round_up(needs), max_lengths[0]), max_lengths[0])
        lengths, counts = np.unique(ever, return_counts=True)
        while len(lengths) > 1:
            # What it costs to do without a bucket: its batches get the next one.
            wasted = np.diff(lengths) * counts[:-1]
            i = wasted.argmin()
            if len(lengths) <= MAX_BUCKETS and wasted[i] > MIN_SAVING * (lengths @ counts):
                break
            counts[i + 1] += counts[i]
            lengths, counts = np.delete(lengths, i), np.delete(counts, i)
        kept = lengths.tolist()
        if len(kept) > 1 and (spare := round_up(int(GROWTH * kept[-2]))) < max_lengths[0]:
            kept.insert(-1, spare)
        return cls(tuple(kept), max_lengths[1])

    def pad(self, examples: Sequence[Example], rows: int) -> Batch:
        """One example a row; rows without an example are 0.

        Raises:
          ValueError: an example exceeds the lengths.
        """
        inputs = max(len(example["inputs"]) for example in examples)
        targets = max(len(example["targets"]) for example in examples)
        if inputs > self.inputs[-1] or targets > self.targets:
            raise ValueError(
                f"examples have up to {inputs} input and {targets} target tokens; expected at most "
                f"{self.inputs[-1]} and {self.targets}. Trim them to TASK_FEATURE_LENGTHS."
            )
        length = next(length for length in self.inputs if inputs <= length)
        return pad(examples, rows, length, self.targets)


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
    enough = round_up(-(-loads.sum() // rows))
    while loads.max() > enough:
        fullest = loads.argmax()
        mine = np.flatnonzero(row_of == fullest)
        difference = lengths[mine, None] - lengths
        fuller = np.maximum(loads[fullest] - difference, loads[row_of] + difference)
        i, other = np.unravel_index(fuller.argmin(), fuller.shape)
        if fuller[i, other] >= loads[fullest]:
            return
        loads[fullest] -= difference[i, other]
        loads[row_of[other]] += difference[i, other]
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
        max_lengths: tuple[int, int],
        row_multiple: int = 1,
    ) -> "Packing":
        """The cheapest rows and lengths for random batches of such examples.

        Args:
          sizes: (input, target) tokens of a sample of the data, soft tokens counted.
          batch_size: examples of a batch.
          max_lengths: (input, target) tokens that an example has at most, soft tokens counted. Any
            batch of examples that keep to it fits.
          row_multiple: what `rows` is a multiple of: the number of `blocks`.
        """
        batches = draw_batches(sizes, batch_size)
        numbers = {-(-batch_size // each) for each in EXAMPLES_PER_ROW}
        lowest, best = np.inf, None
        for rows in sorted({round_up(n, row_multiple) for n in numbers}, reverse=True):
            if _cost(rows, batches.sum(axis=1) / rows) >= lowest:
                continue  # not even without an empty position
            needs = np.array([_need(b, assign(b[:, 0], rows), rows) for b in batches])
            worst = -(-batch_size // rows) * np.array(max_lengths) * (1, 2)  # see assign
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

    def pack(self, examples: Sequence[Example]) -> Batch:
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
        return pack([groups[row] for row in dealt.T.flat], self.rows, *shape)


def _cost(rows: int, lengths: np.ndarray) -> float:
    return (rows * lengths * (1 + lengths / EQUAL_LENGTH)).sum()


def _shapes(needs: Int[np.ndarray, "m 2"], worst: Int[np.ndarray, " 2"]) -> tuple:
    """Lengths that most batches need, and from there in growing steps to what the worst needs."""
    levels = list(round_up(np.quantile(needs, QUANTILES, axis=0, method="higher")))
    last, step = round_up(worst), FIRST_STEP
    while (levels[-1] < last).any():
        longer = round_up((levels[-1] * (1 + step)).astype(int) + 1)
        levels.append(np.minimum(longer, last))
        step *= 2
    return tuple(dict.fromkeys((int(inputs), int(targets)) for inputs, targets in levels))


def make_assembler(
    lengths: MaxLengths,
    batch_size: int,
    soft: soft_tokens.SoftTokens,
    sample: Sequence[Example],
    *,
    pack: bool,
    row_multiple: int = 1,
) -> Callable[[Sequence[Example]], Batch]:
    """Makes training batches of few shapes, which are chosen from the lengths of a sample.

    Args:
      lengths: tokens kept of an example.
      batch_size: examples of a batch.
      soft: inserted into each input.
      sample: a fair one: for a file that is sorted by length, rows are chosen badly.
      pack: whether examples share rows.
      row_multiple: the rows of a packed batch are a multiple of it.
    """
    max_lengths = lengths.inputs + len(soft), lengths.targets

    def prepare(examples: Sequence[Example]) -> list[Example]:
        return [soft.insert(lengths.trim(example)) for example in examples]

    sizes = np.array([(len(e["inputs"]), len(e["targets"])) for e in prepare(sample)])
    if pack:
        packing = Packing.choose(sizes, batch_size, max_lengths, row_multiple)
        return lambda examples: packing.pack(prepare(examples))
    longest = draw_batches(sizes[:, 0], batch_size).max(axis=1)
    buckets = Bucketing.choose(longest, max_lengths)
    logging.info(
        "Padding batches: %d examples in %d rows of %s positions.",
        batch_size, batch_size, ", ".join(map(str, buckets.inputs)),
    )  # fmt: skip
    return lambda examples: buckets.pad(prepare(examples), batch_size)
