"""Endless batches of examples in epochs, from any position: of whatever gives the examples."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data import vocabularies
from prompt_tuning.data.batches import batching
from prompt_tuning.data.files import lazy
from prompt_tuning.data.text import truncation

# (seed, epoch, examples to leave out at its beginning) -> the others, in that epoch's order.
Epoch = Callable[[int, int, int], Iterator[batching.Example]]
Assemble = Callable[[Sequence[batching.Example]], batching.Batch]


class Batches:
    """An endless iterator of batches that can start from any position.

    `position` after a batch is where the next one begins, so that a run that goes on
    from it sees what an uninterrupted one sees.

    Attributes:
      name: of what is learned.
    """

    def __init__(self, name: str, epoch: Epoch, assemble: Assemble, batch_size: int, seed: int):
        """Starts at the first example of the first epoch.

        Args:
          name: of what is learned.
          epoch: gives examples.
          assemble: makes a batch of `batch_size` examples.
          batch_size: examples of a step.
          seed: of the order.
        """
        self.name, self._epoch_examples, self._seed = name, epoch, seed
        self._assemble, self._batch_size = assemble, batch_size
        self.position = {"epoch": 0, "examples": 0}

    def with_seed(self, seed: int) -> "Batches":
        """The same examples in another order, from the first position."""
        other = copy.copy(self)
        other._seed = seed
        other.position = {"epoch": 0, "examples": 0}
        return other

    @property
    def position(self) -> dict[str, int]:
        """Where the next batch begins: {"epoch", "examples"}. Set it to go on from there."""
        return {"epoch": self._epoch, "examples": self._taken}

    @position.setter
    def position(self, position: Mapping[str, int]) -> None:
        self._epoch, self._taken = position["epoch"], position["examples"]
        self._examples = self._epoch_examples(self._seed, self._epoch, self._taken)

    def _next_example(self) -> batching.Example:
        example = next(self._examples, None)
        if example is None:
            self._epoch, self._taken = self._epoch + 1, 0
            self._examples = self._epoch_examples(self._seed, self._epoch, 0)
            example = next(self._examples)
        self._taken += 1
        return example

    def __iter__(self) -> Iterator[batching.Batch]:
        return self

    def __next__(self) -> batching.Batch:
        return self._assemble([self._next_example() for _ in range(self._batch_size)])


def shuffled(examples: Sequence[batching.Example]) -> Epoch:
    """Epochs of examples that are read by number, each in an order of its own that follows the seed."""

    def epoch(seed: int, number: int, skip: int) -> Iterator[batching.Example]:
        order = np.random.default_rng([seed, number]).permutation(len(examples))
        return (examples[i] for i in order[skip:])

    return epoch


def in_order(examples: Sequence[batching.Example]) -> Epoch:
    """Epochs of examples that are read by number, each in their own order."""
    return lambda seed, number, skip: (examples[i] for i in range(skip, len(examples)))


def sample(examples: Sequence[batching.Example], size: int) -> list[batching.Example]:
    """So many examples at most, always the same, in order: fair, however they are sorted."""
    if len(examples) <= size:
        return list(examples)
    order = np.random.default_rng(0).choice(len(examples), size, replace=False)
    return [examples[i] for i in np.sort(order)]


def tokenized(
    inputs: Sequence[str], targets: Sequence[str], vocabulary: vocabularies.Vocabulary
) -> list[dict[str, np.ndarray]]:
    """Texts as the ids that a task makes of them, each with its end token; see `batching`."""
    return [
        {"inputs": _ids(text, vocabulary), "targets": _ids(target, vocabulary)}
        for text, target in zip(inputs, targets, strict=True)
    ]


def of_file(
    examples: lazy.Lazy, vocabulary: vocabularies.Vocabulary, max_inputs: int | None = None
) -> lazy.Lazy:
    """Texts with other features (`files.read_examples`) as seqio's tokenising gives them.

    Args:
      examples: of a file.
      vocabulary: the model's.
      max_inputs: input tokens, with the end token, that a field is shortened to where the examples
        have one to shorten; None for none.
    """

    def tokenize(example: Mapping[str, Any]) -> batching.Example:
        inputs, targets = example["inputs"], example["targets"]
        made = {name: value for name, value in example.items() if name != truncation.SPANS}
        if max_inputs is not None and truncation.SPANS in example:
            spans = example[truncation.SPANS]
            inputs = truncation.truncate(inputs, spans, vocabulary.encode, max_inputs - 1)
        made |= {"inputs_pretokenized": inputs, "targets_pretokenized": targets}
        made |= {"inputs": _ids(inputs, vocabulary), "targets": _ids(targets, vocabulary)}
        return made

    return examples.map(tokenize)


def _ids(text: str, vocabulary: vocabularies.Vocabulary) -> np.ndarray:
    return np.array([*vocabulary.encode(text), batching.EOS_ID], np.int32)
