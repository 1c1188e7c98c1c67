"""Examples of ids -> numpy batches: soft ids in front, trimmed, padded or packed.

A batch has `encoder_input_tokens`, `decoder_target_tokens`, `decoder_input_tokens`
(targets shifted right, 0 first), `decoder_loss_weights`; a packed one also
`{encoder,decoder}_{segment_ids,positions}`. All int32.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

Example = Mapping[str, np.ndarray]
Batch = dict[str, np.ndarray]
EOS_ID = 1


@dataclasses.dataclass(frozen=True)
class Lengths:
    """The room for an example.

    Attributes:
      inputs: input tokens kept (TASK_FEATURE_LENGTHS["inputs"]), soft tokens not counted.
      targets: target tokens kept.
    """

    inputs: int
    targets: int

    @classmethod
    def from_features(cls, lengths: Mapping[str, int]) -> "Lengths":
        """From TASK_FEATURE_LENGTHS. Raises ValueError where it is not as expected."""
        if set(lengths) != {"inputs", "targets"} or not all(
            isinstance(n, int) and n > 0 for n in lengths.values()
        ):
            raise ValueError(
                f"TASK_FEATURE_LENGTHS is {dict(lengths)}; expected positive numbers for exactly "
                "'inputs' and 'targets', e.g. {'inputs': 512, 'targets': 8}"
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
    ends = ids[-1] == EOS_ID
    return np.append(ids[: length - 1], EOS_ID) if ends else ids[:length]


def add_soft_ids(example: Example, soft_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Puts the prompt's ids in front of the input."""
    return {**example, "inputs": np.concatenate([soft_ids, example["inputs"]]).astype(np.int32)}


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
                batch["encoder_positions"][row, source] = np.arange(len(example["inputs"]))
                batch["decoder_positions"][row, target] = np.arange(len(example["targets"]))
            encoder_end, decoder_end = source.stop, target.stop
    return batch


_SEGMENT_FIELDS = (
    "encoder_segment_ids",
    "decoder_segment_ids",
    "encoder_positions",
    "decoder_positions",
)


def fill_rows(examples: Sequence[Example], inputs: int, targets: int) -> list[list[Example]]:
    """Groups examples into as few rows as first-fit in order of falling length finds.

    Deterministic: examples of equal length keep their order.
    """
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i]["inputs"]))
    groups: list[list[Example]] = []
    room: list[list[int]] = []
    for i in order:
        example = examples[i]
        need = len(example["inputs"]), len(example["targets"])
        for group, free in zip(groups, room, strict=True):
            if need[0] <= free[0] and need[1] <= free[1]:
                group.append(example)
                free[0] -= need[0]
                free[1] -= need[1]
                break
        else:
            groups.append([example])
            room.append([inputs - need[0], targets - need[1]])
    return groups
