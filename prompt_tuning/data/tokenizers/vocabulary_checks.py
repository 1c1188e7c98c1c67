"""Checks of a data set against the vocabulary and TASK_FEATURE_LENGTHS."""

import collections
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from prompt_tuning.data import vocabularies
from prompt_tuning.data.batches import batching
from prompt_tuning.data.text import labels, truncation

# Fractions of unknown tokens that are reported, and that make training useless.
REPORTED, USELESS = 0.05, 0.5


class Config(Protocol):
    """The attributes of `pipeline.DatasetConfig` that are checked."""

    source: Any
    split: str

    @property
    def max_lengths(self) -> batching.MaxLengths: ...


def check_fit(name: str, examples: Sequence[Mapping[str, Any]], config: Config) -> None:
    """Raises ValueError if there is no example or a label is truncated; warns of other truncation."""
    if not examples and config.source is None:
        raise ValueError(
            f"{name} is empty; expected at least one (input, target) pair. Pass the pairs to train on."
        )
    if not examples:
        raise ValueError(
            f"{name} has no example in split {config.split!r}; expected at least one. Choose another split "
            "or data set."
        )
    lengths = config.max_lengths
    sizes = {key: [len(example[key]) for example in examples] for key in ("inputs", "targets")}
    cut_targets = sum(size > lengths.targets for size in sizes["targets"])
    counts = collections.Counter(tuple(example["targets"]) for example in examples)
    # A truncated label can be neither learned nor predicted.
    if cut_targets and labels.are_labels(counts) and len(counts) <= len(examples) // 2:
        raise ValueError(
            f"{cut_targets} of the first {len(examples)} labels of {name} are longer than "
            f"TASK_FEATURE_LENGTHS['targets'] = {lengths.targets} tokens; expected labels that are not cut off. Set "
            f"TASK_FEATURE_LENGTHS['targets'] to at least {max(sizes['targets'])}."
        )
    for key, limit in (("inputs", lengths.inputs), ("targets", lengths.targets)):
        truncation.warn_of_cuts(name, key, sizes[key], limit, config.source)


def check_targets(name: str, examples: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError if examples of a registered task have empty targets."""
    empty = sum(
        set(example["targets"].tolist()) <= {0, vocabularies.EOS_ID} for example in examples
    )
    if empty:
        raise ValueError(
            f"{empty} of the first {len(examples)} examples of {name} have an empty target; expected a text "
            "to predict in each. Correct the task, or set ALLOW_EMPTY_TARGETS=True, which trains the model "
            "to predict an empty text."
        )


def check_examples(
    name: str,
    examples: Sequence[Mapping[str, Any]],
    label_counts: Mapping[str, int],
    vocabulary: vocabularies.Vocabulary,
    *,
    file: str | None,
    training: bool = False,
) -> None:
    """Reports text that the vocabulary cannot represent or distinguish.

    Args:
      name: name of the task.
      examples: {"inputs", "targets"} ids, optionally with "inputs_pretokenized" and
        "targets_pretokenized".
      label_counts: {label: count} of the task; {} for free text.
      vocabulary: the model's vocabulary.
      file: setting and path of a user's file; None for a registered task, whose metrics may compare
        labels differently, so evaluation only reports them.
      training: whether to raise for useless training data and for labels of a registered task.

    Raises:
      ValueError: see `check_unknown` and `labels.check_labels`.
    """
    # For labels, check_labels is more specific than the fraction of unknown tokens.
    for feature in ("inputs",) if label_counts else ("inputs", "targets"):
        ids = [example[feature] for example in examples]
        texts = read_texts(examples, feature)
        check_unknown(f"{file or name}: {feature}", texts, ids, vocabulary, training=training)
    check = labels.check_labels if file or training else labels.warn_of_labels
    fix = labels.FIX if file else labels.PYTHON_FIX
    check(label_counts, vocabulary, f"{file or name}: targets", fix)
    if file and not label_counts:
        _report_inexact(file, read_texts(examples, "targets"), vocabulary)


def read_texts(examples: Sequence[Mapping[str, Any]], feature: str) -> list[str]:
    """Returns the texts of a feature from the examples that have them."""
    key = f"{feature}_pretokenized"
    texts = [example[key] for example in examples if key in example]
    return [text.decode() if isinstance(text, bytes) else text for text in texts]


def _report_inexact(file: str, targets: Sequence[str], vocabulary: vocabularies.Vocabulary) -> None:
    pairs = [(text, labels.write(text, vocabulary)) for text in sorted(set(targets))]
    if inexact := [f"{text!r} as {written!r}" for text, written in pairs if text != written]:
        logging.info(
            "%s: the vocabulary cannot represent %d of %d targets exactly; predictions are compared with "
            "its version of them: %s", file, len(inexact), len(pairs),
            labels.join_labels(inexact, show=str),
        )  # fmt: skip


def check_unknown(
    name: str,
    texts: Sequence[str],
    ids: Sequence[Int[np.ndarray, " T"]],
    vocabulary: vocabularies.Vocabulary,
    *,
    training: bool = False,
) -> None:
    """Logs the fraction of unknown tokens if it is high.

    Args:
      name: name of the texts, for messages.
      texts: texts of the examples that have them.
      ids: tokens of each example.
      vocabulary: vocabulary that made the ids.
      training: whether to raise for useless training data.

    Raises:
      ValueError: `training`, and most characters are unknown, or most texts have the same ids.
    """
    tokens = np.concatenate([np.zeros(0, int), *ids])
    tokens = tokens[tokens != vocabularies.EOS_ID]
    unknown_tokens = np.count_nonzero(tokens == vocabularies.UNK_ID) / max(len(tokens), 1)
    if unknown_tokens <= REPORTED:
        return
    unknown_characters, sample = _find_unknown_characters(texts, vocabulary)
    num_texts, num_rows = len(set(texts)), len({np.asarray(row).tobytes() for row in ids})
    duplicates = 1 - num_rows / num_texts if num_texts > 1 else 0.0
    message = (
        f"{name}: {unknown_tokens:.0%} of the tokens are unknown to the vocabulary {vocabulary} "
        f"({unknown_characters:.0%} of the characters, such as {sample!r})"
    )
    if duplicates >= USELESS:
        message += f"; {duplicates:.0%} of the texts have the same tokens as another text"
    fix = (
        "Expected text in the script and language of the vocabulary. Use a model whose vocabulary "
        "covers this text, such as mT5 or ByT5."
    )
    if max(unknown_characters, duplicates) < USELESS:
        logging.warning("%s. The model does not see unknown characters. %s", message, fix)
    elif training:
        raise ValueError(f"{message}. Nothing can be learned from unknown tokens. {fix}")
    else:
        logging.warning("%s. Predictions for such inputs are arbitrary. %s", message, fix)


def _find_unknown_characters(
    texts: Sequence[str], vocabulary: vocabularies.Vocabulary
) -> tuple[float, str]:
    """Returns the fraction of unknown characters, without white space, and up to eight of them."""
    characters = "".join("".join(texts).split())
    unknown = {c for c in set(characters) if vocabularies.UNK_ID in vocabulary.encode(c)}
    fraction = sum(c in unknown for c in characters) / max(len(characters), 1)
    return fraction, "".join(sorted(unknown))[:8]
