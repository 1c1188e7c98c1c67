"""The way of the data, from files and registered tasks to numpy batches, and to evaluation tasks.


Training batches start at any position; evaluation keeps the order. Numpy batches are the border of
TensorFlow and seqio, which are imported only when a registered task is opened.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from prompt_tuning import annotations
from prompt_tuning.data import evaluation_task, sources, tensorflow_import, vocabularies
from prompt_tuning.data.batches import batching, soft_tokens
from prompt_tuning.data.files import fingerprints, records
from prompt_tuning.data.text import labels, metrics, postprocessors
from prompt_tuning.data.tokenizers import vocabulary_checks

CHECKED_EXAMPLES = 2000
# (seed, epoch, examples to skip at its beginning) -> the others, in the order of that epoch.
Epoch = Callable[[int, int, int], Iterator[batching.Example]]
Assemble = Callable[[Sequence[batching.Example]], batching.Batch]


@runtime_checkable
class Source(Protocol):
    """Opens a seqio task or mixture (see `sources`)."""

    def open(self, vocabulary: vocabularies.Vocabulary, split: str): ...


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """What is read, and how; the name and its settings are T5X's.

    Attributes:
      source: gives the seqio task or mixture; None for examples that are in memory.
      task_feature_lengths: {"inputs": T, "targets": L}; soft tokens come on top of T. None for
        the longest of what is evaluated.
      split: of the task.
      batch_size: examples of a step.
      seed: of the order and of random preprocessing; of several, `train` sets each in turn.
      use_cached: reads the task's cache (seqio_cache_tasks).
      pack: training examples share rows.
      shuffle: training examples come in a random order, another one in each epoch.
      mixture_or_task_name: another task than the source's, as in evaluating on one that a
        mixture has.
    """

    source: Source | None
    task_feature_lengths: annotations.FeatureLengths | None
    split: str
    batch_size: annotations.PositiveInt
    seed: int | Sequence[int] = 0
    use_cached: bool = False
    pack: bool = False
    shuffle: bool = True
    mixture_or_task_name: str | None = None

    def __post_init__(self):
        if self.task_feature_lengths is not None:
            _ = self.max_lengths  # raises ValueError where they are wrong
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(
                f"BATCH_SIZE is {self.batch_size!r}; expected a positive integer. Set e.g. BATCH_SIZE = 32."
            )

    @property
    def name(self) -> str | None:
        """Of the registered task or mixture; None where files are read."""
        return self.mixture_or_task_name or getattr(self.source, "name", None)

    @property
    def file(self) -> str | None:
        """The setting and path of the file that is read; None of other sources."""
        return getattr(self.source, "file_of", lambda split: None)(self.split)

    @property
    def opened_source(self) -> Source | None:
        """The source, with the name of `mixture_or_task_name` if that is set."""
        if self.mixture_or_task_name is None:
            return self.source
        return dataclasses.replace(self.source, name=self.mixture_or_task_name)

    @property
    def max_lengths(self) -> batching.MaxLengths:
        """Tokens kept of an example."""
        if self.task_feature_lengths is None:
            raise ValueError(
                "TASK_FEATURE_LENGTHS is None; expected the maximum numbers of input and target tokens. Set e.g. "
                "TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 8}."
            )
        return batching.MaxLengths.from_features(self.task_feature_lengths)

    def fitted(self, examples: Sequence[batching.Example]) -> "DatasetConfig":
        """With the lengths of the longest of these examples, where none are set."""
        if self.task_feature_lengths is not None or not examples:
            return self
        longest = {key: max(len(e[key]) for e in examples) for key in ("inputs", "targets")}
        return dataclasses.replace(self, task_feature_lengths=longest)


class Batches:
    """An endless iterator of batches that can start from any position.

    `position` after a batch is where the next one begins: a run that resumes from it gets the
    batches of an uninterrupted run.

    Attributes:
      name: of the data.
    """

    def __init__(self, name: str, epoch: Epoch, assemble: Assemble, batch_size: int, seed: int):
        """Starts at the first example of the first epoch.

        Args:
          name: of the data.
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
        copied = copy.copy(self)
        copied._seed = seed
        copied.position = {"epoch": 0, "examples": 0}
        return copied

    @property
    def position(self) -> dict[str, int]:
        """Where the next batch begins: {"epoch", "examples"}. Set it to resume from there."""
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


class TrainBatches(Batches):
    """The batches of a file, a registered task or a mixture.

    Every epoch is a shuffled pass with a seed of its own; a mixture is one endless epoch.

    Attributes:
      labels: {label: count} of a file's targets, of a sample of other tasks; {} of free text.
      digests: {task: identity of its first examples}; of files see `fingerprints.of_files`.
    """

    def __init__(
        self,
        config: DatasetConfig,
        vocabulary: vocabularies.Vocabulary,
        soft: soft_tokens.SoftTokens,
        row_multiple: int = 1,
    ):
        """Opens the data.

        Args:
          config: what to read.
          vocabulary: the model's.
          soft: inserted into each input.
          row_multiple: what the rows of a packed batch are a multiple of.

        Raises:
          ValueError: no such task or split, no example, labels that do not fit or that the
            vocabulary cannot distinguish, or an input without the sentinel of its task.
        """
        lengths = config.max_lengths  # raises ValueError without lengths
        self.labels: dict[str, int] = {}
        self.digests: dict[str, str] = {}
        opened = self._open_file(config, vocabulary) or self._open_tasks(config, vocabulary)
        name, epoch, sample = opened
        assemble = batching.make_assembler(
            lengths, config.batch_size, soft, sample, pack=config.pack, row_multiple=row_multiple
        )
        super().__init__(name, epoch, assemble, config.batch_size, config.seed)

    def _open_file(
        self, config: DatasetConfig, vocabulary: vocabularies.Vocabulary
    ) -> tuple[str, Epoch, Sequence[batching.Example]] | None:
        """(name, epochs, sample) of a file; None where a task is registered."""
        file = _read_file(config)
        if file is None:
            return None
        name, texts = file
        examples = _tokenize_file(texts, config, vocabulary)
        sample = records.sample(examples, CHECKED_EXAMPLES)
        vocabulary_checks.check_fit(name, sample, config)
        self.labels = labels.find_file_labels(texts)
        vocabulary_checks.check_examples(
            name, sample, self.labels, vocabulary, file=config.file, training=True
        )
        # A small model learns faster than texts are tokenized: few are tokenized once.
        kept = examples if len(examples) > len(sample) else sample
        return name, _shuffle(kept) if config.shuffle else _keep_order(kept), sample

    def _open_tasks(
        self, config: DatasetConfig, vocabulary: vocabularies.Vocabulary
    ) -> tuple[str, Epoch, Sequence[batching.Example]]:
        """(name, epochs, sample) of a registered task or mixture."""
        reader = _open_reader(config, vocabulary)
        provider, tasks = reader.provider, reader.tasks

        def epoch(seed: int, number: int, skip: int) -> Iterator[batching.Example]:
            dataset = reader.read(provider, tasks, shuffle=config.shuffle, seed=seed + number)
            return dataset.skip(skip).prefetch(4 * config.batch_size).as_numpy_iterator()

        def take(provider, tasks: Sequence) -> list[batching.Example]:
            dataset = reader.read(provider, tasks, shuffle=False, seed=0)
            return list(dataset.take(CHECKED_EXAMPLES).as_numpy_iterator())

        for task in tasks:
            sample = take(task, [task])
            vocabulary_checks.check_fit(task.name, sample, config)
            if config.name is not None and not config.source.allow_empty_targets:
                vocabulary_checks.check_targets(task.name, sample)
            texts = vocabulary_checks.read_texts(sample, "targets")
            counts = labels.find_labels(texts)
            vocabulary_checks.check_examples(
                task.name, sample, counts, vocabulary, file=None, training=True
            )
            self.labels |= counts
            self.digests[task.name] = fingerprints.of_examples(sample)
        if provider is not tasks[0]:  # a mixture, at its rates
            sample = take(provider, tasks)
        return provider.name, epoch, sample


def example_batches(
    name: str,
    examples: Sequence[batching.Example],
    config: DatasetConfig,
    soft: soft_tokens.SoftTokens,
    row_multiple: int = 1,
) -> Batches:
    """Endless batches of examples that are in memory: shuffled in each epoch, without TensorFlow.

    Args:
      name: of the examples, for messages.
      examples: ids, with their end tokens.
      config: how they are put into batches; its source and split are not read.
      soft: inserted into each input.
      row_multiple: what the rows of a packed batch are a multiple of.

    Raises:
      ValueError: there is no example, or labels do not fit.
    """
    config = config.fitted(examples)
    sample = records.sample(examples, CHECKED_EXAMPLES)
    vocabulary_checks.check_fit(name, sample, config)
    assemble = batching.make_assembler(
        config.max_lengths,
        config.batch_size,
        soft,
        sample,
        pack=config.pack,
        row_multiple=row_multiple,
    )
    return Batches(name, _shuffle(examples), assemble, config.batch_size, config.seed)


def evaluation_tasks(
    config: DatasetConfig,
    vocabulary: vocabularies.Vocabulary,
    limit: int | None = None,
    *,
    in_memory: bool = True,
    known_labels: Mapping[str | None, Sequence[str]] | None = None,
    ranked_labels: Sequence[str] = (),
    calibrated: bool = False,
) -> list[evaluation_task.EvaluationTask]:
    """The tasks of a mixture that have the split, each with its examples in order.

    Args:
      config: what to read.
      vocabulary: the model's.
      limit: examples to keep of each task; None for all.
      in_memory: whether examples are kept, as metrics want all of them; else they are read when
        asked for, and lengths must be set.
      known_labels: {prompt: labels} of the cards of prompts; None names the only prompt.
      ranked_labels: LABELS, where they are ranked.
      calibrated: whether their scores are compared with those without input.

    Raises:
      NoSplitError: no task has the split.
      ValueError: no example, or labels that the vocabulary cannot distinguish.
    """
    mapped = tuple((getattr(config.source, "label_map", None) or {}).values())
    labels.check_labels(ranked_labels, vocabulary, "LABELS")
    labels.check_labels(mapped, vocabulary, "LABEL_MAP")
    cards = {None: (), **(known_labels or {})}
    known = {name: [*ranked_labels, *mapped, *some] for name, some in cards.items()}
    opened = []
    for name, task, examples in _read_evaluated(config, vocabulary, limit, in_memory):
        fitted = config.fitted(examples) if in_memory else config
        checked = examples if in_memory else records.sample(examples, CHECKED_EXAMPLES)
        vocabulary_checks.check_fit(name, checked, fitted)
        neutral = getattr(config.source, "neutral_text", "") if calibrated else None
        evaluated = evaluation_task.EvaluationTask(
            name, examples, fitted.max_lengths, task, vocabulary, known, neutral
        )
        vocabulary_checks.check_examples(
            name, checked, evaluated.target_labels, vocabulary, file=config.file
        )
        evaluated.warn_of_unlisted_labels(ranked_labels, "LABELS", "they are never predicted")
        opened.append(evaluated)
    return opened


def _read_file(config: DatasetConfig) -> tuple[str, records.Lazy] | None:
    """Name and examples of the file that is read, as texts; None where a task is registered."""
    source = config.opened_source
    if not isinstance(source, sources.TaskSource) or not source.files:
        return None
    return source.file_task_name(config.split), source.read_examples(config.split)


def _tokenize_file(
    texts: records.Lazy, config: DatasetConfig, vocabulary: vocabularies.Vocabulary
) -> records.Lazy:
    max_inputs = None if config.task_feature_lengths is None else config.max_lengths.inputs
    tokenize = functools.partial(
        vocabularies.tokenize, vocabulary=vocabulary, max_inputs=max_inputs
    )
    return texts.map(tokenize)


def _open_reader(config: DatasetConfig, vocabulary: vocabularies.Vocabulary):
    """The `seqio_tasks.TaskReader` of the registered task or mixture."""
    tensorflow_import.start_tensorflow()
    from prompt_tuning.data import seqio_tasks

    return seqio_tasks.TaskReader(
        config.opened_source,
        vocabulary,
        config.split,
        config.task_feature_lengths,
        use_cached=config.use_cached,
    )


def _read_evaluated(
    config: DatasetConfig, vocabulary: vocabularies.Vocabulary, limit: int | None, in_memory: bool
) -> Iterator[tuple[str, Any, Sequence[batching.Example]]]:
    """(name, what has its metrics, examples) of each task that is evaluated."""
    if file := _read_file(config):
        name, texts = file
        examples = _tokenize_file(texts, config, vocabulary)
        restore = functools.partial(postprocessors.as_written, vocabulary=vocabulary)
        metric = evaluation_task.FileMetrics(restore, [metrics.accuracy])
        yield name, metric, list(examples[:limit]) if in_memory else examples
        return
    reader = _open_reader(config, vocabulary)
    for task in reader.tasks:
        dataset = reader.read(task, [task], shuffle=False, seed=config.seed)
        stream = dataset.take(-1 if limit is None else limit).as_numpy_iterator
        yield task.name, task, list(stream()) if in_memory else records.of_stream(stream)


def _shuffle(examples: Sequence[batching.Example]) -> Epoch:
    """Epochs of examples that are read by number, in an order that depends on seed and epoch."""

    def epoch(seed: int, number: int, skip: int) -> Iterator[batching.Example]:
        order = np.random.default_rng([seed, number]).permutation(len(examples))
        return (examples[i] for i in order[skip:])

    return epoch


def _keep_order(examples: Sequence[batching.Example]) -> Epoch:
    """Epochs of examples that are read by number, all in the order of the examples."""
    return lambda seed, number, skip: (examples[i] for i in range(skip, len(examples)))
