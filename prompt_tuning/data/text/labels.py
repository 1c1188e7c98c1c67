"""Labels of a classification task, and how a vocabulary writes them."""

import collections
import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from prompt_tuning.data import vocabularies
from prompt_tuning.data.files import records
from prompt_tuning.data.text import postprocessors

# Targets with at most this many distinct values are labels.
FEW_TARGETS = 20
# Of more examples, a sample decides.
SAMPLED = 20_000
# Labels that a message lists.
MAX_LISTED = 8
FIX = "Set LABEL_MAP to map them to other words, or use a model whose vocabulary has their characters."
PYTHON_FIX = "Use other words as labels, or a model whose vocabulary has their characters."


def are_labels(counts: Mapping[Hashable, int]) -> bool:
    """Whether targets with these counts are labels, not free text.

    Targets are labels where they have few distinct values, or where at least half of the
    distinct values occur more than once.
    """
    recurring = sum(count > 1 for count in counts.values())
    return len(counts) <= FEW_TARGETS or 2 * recurring >= len(counts)


def count_targets(targets: Iterable[str]) -> dict[str, int]:
    """{target: count} in order of appearance, without blank and unknown ones."""
    return dict(
        collections.Counter(t for t in targets if t.strip() and t != postprocessors.UNKNOWN)
    )


def find_labels(targets: Iterable[str]) -> dict[str, int]:
    """{label: count} of targets, in order of appearance; {} where targets are free text."""
    counts = count_targets(targets)
    return counts if are_labels(counts) else {}


def find_file_labels(examples: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """`find_labels` of a file's examples with text: of all where a sample of them has labels."""
    counts = find_labels(example["targets"] for example in records.sample(examples, SAMPLED))
    if counts and len(examples) > SAMPLED:
        counts = find_labels(example["targets"] for example in examples)
    return counts


def write(text: str, vocabulary: vocabularies.Vocabulary) -> str:
    """The text as the vocabulary writes it: encoded and decoded."""
    return vocabulary.decode(vocabulary.encode(text))


def written_labels(labels: Iterable[str], vocabulary: vocabularies.Vocabulary) -> dict[str, str]:
    """{text that the vocabulary writes: label}; the first label of those with the same text."""
    names: dict[str, str] = {}
    for label in labels:
        names.setdefault(write(label, vocabulary), label)
    return names


def label_ids(labels: Sequence[str], vocabulary: vocabularies.Vocabulary) -> Int[np.ndarray, "N L"]:
    """The ids of LABELS, each with its end token, filled up with 0.

    Raises:
      ValueError: see `check_labels`.
    """
    if not labels:
        raise ValueError(f"LABELS is {labels!r}; expected two labels or more. Set LABELS to them")
    check_labels(labels, vocabulary, "LABELS")
    rows = [[*vocabulary.encode(label), vocabularies.EOS_ID] for label in labels]
    length = max(map(len, rows))
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)


def check_labels(
    labels: Iterable[str], vocabulary: vocabularies.Vocabulary, setting: str, fix: str = FIX
) -> None:
    """Raises ValueError for labels that the vocabulary cannot write or cannot distinguish.

    Args:
      labels: texts; equal ones count once.
      vocabulary: of the model.
      setting: where the labels are from, for the message.
      fix: the last sentence of the message.
    """
    if faults := _faults(labels, vocabulary):
        raise ValueError(_message(faults, vocabulary, setting, fix))


def warn_of_labels(
    labels: Iterable[str], vocabulary: vocabularies.Vocabulary, setting: str, fix: str = FIX
) -> None:
    """Logs a warning where `check_labels` raises."""
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
    """Whether the vocabulary has no token for any part of a text but its white space."""
    return all(
        i == vocabularies.UNK_ID or vocabulary.piece(i) == "▁" for i in vocabulary.encode(text)
    )


def join_labels(
    labels: Sequence[str], separator: str = ", ", show: Callable[[str], str] = repr
) -> str:
    """The labels as one text, MAX_LISTED at most."""
    more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
    return separator.join(map(show, labels[:MAX_LISTED])) + more
