"""seqio task -> numpy batches: for training, from any position; for evaluation, in order.

Numpy batches are the border of TensorFlow and seqio, which this module imports only
when a dataset is opened.
"""

import dataclasses
import inspect
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from prompt_tuning.data import batching, vocabularies

CHECKED_EXAMPLES = 2000
LABELS_AT_MOST = 20


class Source(Protocol):
    """Opens a seqio task or mixture (see `sources`)."""

    def open(self, vocabulary: vocabularies.SentencePiece, split: str): ...


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """What is read, and how; the name and its settings are T5X's.

    Attributes:
      source: gives the seqio task or mixture.
      task_feature_lengths: {"inputs": T, "targets": L}; soft tokens come on top of T.
      split: of the task.
      batch_size: examples of a step.
      seed: of the order and of random preprocessing.
      use_cached: reads the task's cache (seqio_cache_tasks).
      pack: examples share rows.
    """

    source: Source
    task_feature_lengths: Mapping[str, int]
    split: str
    batch_size: int
    seed: int = 0
    use_cached: bool = False
    pack: bool = False

    def __post_init__(self):
        batching.Lengths.from_features(self.task_feature_lengths)
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"BATCH_SIZE is {self.batch_size!r}; expected a positive number")


def _use_vocabulary(task, vocabulary: vocabularies.SentencePiece):
    """The task reading with the model's vocabulary.

    Raises ValueError where the task has been registered with another one.
    """
    import seqio

    from prompt_tuning.data import features

    wanted = vocabulary.for_seqio()
    replaced = {}
    for name, feature in task.output_features.items():
        own = feature.vocabulary
        if own is not features.MODEL_VOCABULARY and own != wanted:
            raise ValueError(
                f"task {task.name} tokenises {name} with {own}, the model uses {vocabulary.path} with "
                f"{vocabulary.extra_ids} extra ids; set VOCABULARY_FILE and EXTRA_IDS, or another task"
            )
        replaced[name] = dataclasses.replace(feature, vocabulary=wanted)
    return seqio.Task(
        task.name,
        source=task.source,
        preprocessors=task.preprocessors,
        output_features=replaced,
        shuffle_buffer_size=task._shuffle_buffer_size,
    )


def _open(config: DatasetConfig, vocabulary: vocabularies.SentencePiece):
    import seqio
    import tensorflow as tf

    # A GPU is JAX's; TensorFlow would take all of its memory.
    tf.config.set_visible_devices([], "GPU")
    provider = config.source.open(vocabulary, config.split)
    tasks = seqio.get_subtasks(provider)
    if not any(config.split in task.splits for task in tasks):
        have = sorted({split for task in tasks for split in task.splits})
        raise ValueError(
            f"{provider.name} has no split {config.split!r}; it has {have}; "
            "set EVAL_FILE / INFER_FILE, or the split"
        )
    return provider, tasks


def _sequence_length(task, lengths: Mapping[str, int]) -> Mapping[str, int] | None:
    """The lengths where a preprocessor must know them; else None, so that cuts are ours to count."""
    for preprocessor in task.preprocessors:
        parameter = _parameters(preprocessor).get("sequence_length")
        if parameter is not None and parameter.default is inspect.Parameter.empty:
            return lengths
    return None


def _parameters(function: Callable) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


class TrainBatches:
    """An endless iterator of batches that can start from any position.

    Every epoch is a shuffled pass with a seed of its own; a mixture is one endless
    epoch. `position` after a batch is where the next one begins, so that a run that
    goes on from it sees what an uninterrupted one sees.
    """

    def __init__(
        self,
        config: DatasetConfig,
        vocabulary: vocabularies.SentencePiece,
        soft_ids: np.ndarray,
        position: Mapping[str, int] | None = None,
    ):
        """Opens the data.

        Args:
          config: what to read.
          vocabulary: the model's.
          soft_ids: [P] ids to put in front of each input.
          position: {"epoch", "examples"} to start from; None for the beginning.

        Raises:
          ValueError: no such task or split, no example, or labels that do not fit.
        """
        import seqio

        self._config, self._soft_ids = config, soft_ids
        self.lengths = batching.Lengths.from_features(config.task_feature_lengths)
        provider, _ = _open(config, vocabulary)
        self.name = provider.name
        self._endless = isinstance(provider, seqio.Mixture)
        if self._endless:
            self._provider, self._sequence_length = provider, dict(config.task_feature_lengths)
        else:
            self._provider = _use_vocabulary(provider, vocabulary)
            self._sequence_length = _sequence_length(provider, config.task_feature_lengths)
            self._check_lengths()
        position = position or {"epoch": 0, "examples": 0}
        self._epoch, self._taken = position["epoch"], position["examples"]
        self._examples = self._epoch_examples(skip=self._taken)

    def _dataset(self, shuffle: bool, seed: int):
        return self._provider.get_dataset(
            sequence_length=self._sequence_length,
            split=self._config.split,
            use_cached=self._config.use_cached,
            shuffle=shuffle,
            seed=seed,
            num_epochs=None if self._endless else 1,
        )

    def _check_lengths(self) -> None:
        """Reads the first examples: are there any, and do targets that are labels fit?"""
        lengths = dataclasses.replace(self.lengths)
        sample = list(self._dataset(False, 0).take(CHECKED_EXAMPLES).as_numpy_iterator())
        if not sample:
            raise ValueError(f"{self.name} has no example in split {self._config.split!r}")
        for example in sample:
            lengths.trim(example)
        longest = max(len(example["targets"]) for example in sample)
        distinct = {tuple(example["targets"]) for example in sample}
        if lengths.cut_targets and len(distinct) <= LABELS_AT_MOST:
            raise ValueError(
                f"{lengths.cut_targets} of the first {len(sample)} labels of {self.name} are longer than "
                f"TASK_FEATURE_LENGTHS['targets'] = {lengths.targets} tokens; set at least {longest}"
            )
        if lengths.cut_inputs or lengths.cut_targets:
            logging.warning(
                "of the first %d examples of %s, %d inputs are cut to %d tokens and %d targets to %d "
                "(TASK_FEATURE_LENGTHS)",
                len(sample), self.name, lengths.cut_inputs, lengths.inputs,
                lengths.cut_targets, lengths.targets,
            )  # fmt: skip

    def _epoch_examples(self, skip: int = 0) -> Iterator[Mapping[str, np.ndarray]]:
        dataset = self._dataset(True, self._config.seed + self._epoch).skip(skip)
        return dataset.prefetch(4 * self._config.batch_size).as_numpy_iterator()

    def _next_example(self) -> Mapping[str, np.ndarray]:
        example = next(self._examples, None)
        if example is None:
            self._epoch, self._taken = self._epoch + 1, 0
            self._examples = self._epoch_examples()
            example = next(self._examples)
        self._taken += 1
        return example

    @property
    def position(self) -> dict[str, int]:
        """Where the next batch begins."""
        return {"epoch": self._epoch, "examples": self._taken}

    def __iter__(self) -> Iterator[batching.Batch]:
        return self

    def __next__(self) -> batching.Batch:
        size = self._config.batch_size
        examples = [self.lengths.trim(self._next_example()) for _ in range(size)]
        examples = [batching.add_soft_ids(example, self._soft_ids) for example in examples]
        inputs, targets = self.lengths.inputs + len(self._soft_ids), self.lengths.targets
        if not self._config.pack:
            return batching.pad(examples, size, inputs, targets)
        groups = batching.fill_rows(examples, inputs, targets)
        # Few shapes, so that the step is compiled few times.
        multiple = max(1, size // 16)
        rows = -(-len(groups) // multiple) * multiple
        return batching.pack(groups, rows, inputs, targets)


@dataclasses.dataclass
class EvaluationTask:
    """The examples of one task, in order, and what turns answers into metrics.

    Attributes:
      name: of the task.
      examples: {"inputs", "targets"} ids, and the task's other features.
      lengths: the room for an example.
      task: the seqio task.
    """

    name: str
    examples: Sequence[Mapping[str, Any]]
    lengths: batching.Lengths
    task: Any

    def batches(self, batch_size: int, soft_ids: np.ndarray) -> Iterator[batching.Batch]:
        """Batches in order; the last is filled up with empty rows."""
        inputs, targets = self.lengths.inputs + len(soft_ids), self.lengths.targets
        for start in range(0, len(self.examples), batch_size):
            some = self.examples[start : start + batch_size]
            rows = [batching.add_soft_ids(self.lengths.trim(e), soft_ids) for e in some]
            yield batching.pad(rows, batch_size, inputs, targets)

    @property
    def needs_scores(self) -> bool:
        """Whether a metric wants the log-likelihood of the targets."""
        return bool(self.task.score_metric_fns)

    def targets(self) -> list[Any]:
        """The targets as metrics want them."""
        return [
            self.task.postprocess_fn(text_of(e, "targets"), example=e, is_target=True)
            for e in self.examples
        ]

    def metrics(self, texts: Sequence[str], scores: Sequence[float] | None) -> dict[str, float]:
        """The task's metrics of the answers to its examples."""
        targets = self.targets()
        predictions = [
            self.task.postprocess_fn(text, example=e, is_target=False)
            for text, e in zip(texts, self.examples, strict=True)
        ]
        values: dict[str, float] = {}
        for metric in self.task.predict_metric_fns:
            values |= metric(targets, predictions)
        for metric in self.task.score_metric_fns:
            values |= metric(targets, scores)
        return {name: float(getattr(value, "value", value)) for name, value in values.items()}


def text_of(example: Mapping[str, Any], feature: str) -> str:
    """A feature's text before tokenising."""
    value = example[f"{feature}_pretokenized"]
    return value.decode() if isinstance(value, bytes) else str(value)


def evaluation_tasks(
    config: DatasetConfig, vocabulary: vocabularies.SentencePiece, limit: int | None = None
) -> list[EvaluationTask]:
    """The tasks of a mixture that have the split, each with its examples in order.

    Args:
      config: what to read.
      vocabulary: the model's.
      limit: examples to keep of each task; None for all.
    """
    _, tasks = _open(config, vocabulary)
    opened = []
    for task in tasks:
        if config.split not in task.splits:
            continue
        dataset = _use_vocabulary(task, vocabulary).get_dataset(
            sequence_length=_sequence_length(task, config.task_feature_lengths),
            split=config.split,
            use_cached=config.use_cached,
            shuffle=False,
            seed=config.seed,
        )
        examples = list(itertools.islice(dataset.as_numpy_iterator(), limit))
        lengths = batching.Lengths.from_features(config.task_feature_lengths)
        opened.append(EvaluationTask(task.name, examples, lengths, task))
    return opened
