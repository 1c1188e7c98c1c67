"""Examples of ids -> numpy batches: trimmed, padded or packed.

A batch has `encoder_input_tokens`, `decoder_target_tokens`, `decoder_input_tokens`
(targets shifted right, 0 first), `decoder_loss_weights`; a packed one also
`{encoder,decoder}_segment_ids`. All int32. Positions are not told: T5 sees distances only,
and those within a segment are those within the row.
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
    ends = ids[-1] == EOS_ID
    return np.append(ids[: length - 1], EOS_ID) if ends else ids[:length]


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


_SEGMENT_FIELDS = ("encoder_segment_ids", "decoder_segment_ids")
