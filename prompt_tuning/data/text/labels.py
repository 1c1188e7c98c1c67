"""Labels of a classification task, and their representation in a vocabulary."""

import collections
import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from prompt_tuning.data import vocabularies
from prompt_tuning.data.files import records
from prompt_tuning.data.text import postprocessors

# Up to this many distinct targets are labels.
FEW_TARGETS = 20
# In larger files, a sample of this size decides whether targets are labels.
SAMPLED = 20_000
# Maximum number of labels in a message.
MAX_LISTED = 8
FIX = "Set LABEL_MAP to map them to other words, or use a model whose vocabulary has their characters."
PYTHON_FIX = "Use other words as labels, or a model whose vocabulary has their characters."


def are_labels(counts: Mapping[Hashable, int]) -> bool:
    """Whether targets with these counts are labels rather than free text.

    Targets are labels if they have few distinct values, or if at least half of the distinct
    values occur more than once.
    """
    recurring = sum(count > 1 for count in counts.values())
    return len(counts) <= FEW_TARGETS or 2 * recurring >= len(counts)


def count_targets(targets: Iterable[str]) -> dict[str, int]:
    """Counts targets except blank and unknown ones, in order of first occurrence."""
    return dict(
        collections.Counter(t for t in targets if t.strip() and t != postprocessors.UNKNOWN)
    )


def find_labels(targets: Iterable[str]) -> dict[str, int]:
    """Returns {label: count} in order of first occurrence; {} if the targets are free text."""
    counts = count_targets(targets)
    return counts if are_labels(counts) else {}


def find_file_labels(examples: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Finds the labels of a file, and reads all of it only if a sample has labels."""
    counts = find_labels(example["targets"] for example in records.sample(examples, SAMPLED))
    if counts and len(examples) > SAMPLED:
        counts = find_labels(example["targets"] for example in examples)
    return counts


def write(text: str, vocabulary: vocabularies.Vocabulary) -> str:
    """Encodes and decodes a text."""
    return vocabulary.decode(vocabulary.encode(text))


def written_labels(labels: Iterable[str], vocabulary: vocabularies.Vocabulary) -> dict[str, str]:
    """Returns {decoded text: label}, with the first label of those that decode to one text."""
    names: dict[str, str] = {}
    for label in labels:
        names.setdefault(write(label, vocabulary), label)
    return names


def label_ids(labels: Sequence[str], vocabulary: vocabularies.Vocabulary) -> Int[np.ndarray, "N L"]:
    """Encodes LABELS with EOS, padded with 0.

    Raises:
      ValueError: there is no label, or as `check_labels`.
    """
    if not labels:
        raise ValueError(f"LABELS is {labels!r}; expected at least two labels. Set LABELS.")
    check_labels(labels, vocabulary, "LABELS")
    rows = [[*vocabulary.encode(label), vocabularies.EOS_ID] for label in labels]
    length = max(map(len, rows))
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)


def check_labels(
    labels: Iterable[str], vocabulary: vocabularies.Vocabulary, setting: str, fix: str = FIX
) -> None:
    """Raises ValueError for labels that the vocabulary cannot represent or distinguish.

    Args:
      labels: texts; duplicates are ignored.
      vocabulary: the model's.
      setting: source of the labels, for the message.
      fix: last sentence of the message.
    """
    if faults := _faults(labels, vocabulary):
        raise ValueError(_message(faults, vocabulary, setting, fix))


def warn_of_labels(
    labels: Iterable[str], vocabulary: vocabularies.Vocabulary, setting: str, fix: str = FIX
) -> None:
    """Logs as a warning what `check_labels` raises."""
    if faults := _faults(labels, vocabulary):
        logging.warning("%s", _message(faults, vocabulary, setting, fix))


def _faults(labels: Iterable[str], vocabulary: vocabularies.Vocabulary) -> list[str]:
    groups = collections.defaultdict(list)
    for label in dict.fromkeys(labels):
        groups[write(label, vocabulary)].append(label)
    faults = [
        f"{join_labels(group, ' and ')} have the same tokens, {text.strip()!r}"
        for text, group in groups.items()
        if len(group) > 1
    ]
    single = [group[0] for group in groups.values() if len(group) == 1]
    unknown = [label for label in single if is_unknown(label, vocabulary)]
    return faults + [f"{label!r} has only unknown tokens" for label in unknown]


def _message(
    faults: Sequence[str], vocabulary: vocabularies.Vocabulary, setting: str, fix: str
) -> str:
    lines = [*faults[:MAX_LISTED], f"and {len(faults) - MAX_LISTED} more"]
    listed = "\n  ".join(lines if len(faults) > MAX_LISTED else faults)
    return (
        f"{setting}: the vocabulary {vocabulary} cannot represent or distinguish labels:\n  {listed}\n"
        f"Expected labels with known tokens that differ from label to label. {fix}"
    )


def is_unknown(text: str, vocabulary: vocabularies.Vocabulary) -> bool:
    """Whether the vocabulary has only unknown tokens for a text, except for white space."""
    return all(
        i == vocabularies.UNK_ID or vocabulary.piece(i) == "▁" for i in vocabulary.encode(text)
    )


def join_labels(
    labels: Sequence[str], separator: str = ", ", show: Callable[[str], str] = repr
) -> str:
    """Joins at most MAX_LISTED labels for a message."""
    more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
    return separator.join(map(show, labels[:MAX_LISTED])) + more
