"""seqio's view of the data: features, a source of examples by number, tasks with the model's vocabulary."""

import copy
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from prompt_tuning.data import sources, vocabularies
from prompt_tuning.data.batches import batching
from prompt_tuning.data.files import records
from prompt_tuning.data.text import metrics, postprocessors, truncation

# A registered task that names this vocabulary is read with the model's.
MODEL_VOCABULARY = seqio.PassThroughVocabulary(size=0, eos_id=1)
# A shuffle keeps so many numbers in memory, about 100 MB: of more examples, each comes from
# among as many that follow each other.
SHUFFLED = 1_000_000


class TaskReader:
    """Reads a registered task or mixture with the model's vocabulary.

    Attributes:
      provider: the task or mixture.
      tasks: those of them that have the split.
    """

    def __init__(
        self,
        source: Any,
        vocabulary: vocabularies.Vocabulary,
        split: str,
        lengths: Mapping[str, int] | None,
        *,
        use_cached: bool,
    ):
        """Opens the task; nothing is read yet.

        Args:
          source: opens it; see `pipeline.Source`.
          vocabulary: the model's.
          split: to read.
          lengths: TASK_FEATURE_LENGTHS. Only preprocessors that require them get them: seqio would
            cut examples to them, and what it cuts could not be counted.
          use_cached: whether the cache of a task is read.

        Raises:
          NoSplitError: no task has the split.
          ValueError: a task has another vocabulary, or no cache.
        """
        provider = source.open(vocabulary, split)
        registered = [task for task in seqio.get_subtasks(provider) if split in task.splits]
        if not registered:
            raise sources.NoSplitError(
                f"{provider.name} has no split {split!r}; expected one of {sorted(provider.splits)}. Set "
                "SPLIT (of eval and infer) to one of them, or choose another task."
            )
        self.tasks = [use_vocabulary(task, vocabulary) for task in registered]
        self.provider = self.tasks[0]
        if isinstance(provider, seqio.Mixture):
            rates = [provider.get_rate(task) for task in registered]
            rated = list(zip(self.tasks, rates, strict=True))
            self.provider = seqio.Mixture(provider.name, rated, sample_fn=provider._sample_fn)
        if use_cached:
            _check_cached(self.tasks)
        self._split, self._lengths, self._use_cached = split, lengths, use_cached

    def read(
        self,
        provider: seqio.Task | seqio.Mixture,
        tasks: Sequence[seqio.Task],
        *,
        shuffle: bool,
        seed: int,
    ) -> tf.data.Dataset:
        """The examples of a task once, or those of a mixture of `tasks` without end."""
        steps = itertools.chain.from_iterable(task.preprocessors for task in tasks)
        dataset = provider.get_dataset(
            sequence_length=self._lengths if any(map(_needs_lengths, steps)) else None,
            split=self._split,
            use_cached=self._use_cached,
            shuffle=shuffle,
            seed=seed,
        )
        options = tf.data.Options()
        # Its thread was seen to hang at the end of an epoch where one process read 15 orders.
        options.autotune.enabled = False
        return dataset.with_options(options)


def use_vocabulary(task, vocabulary: vocabularies.Vocabulary):
    """The task with the model's vocabulary.

    Raises ValueError where the task has been registered with another one.
    """
    required = vocabulary.for_seqio()
    replaced = {}
    for name, feature in task.output_features.items():
        registered = feature.vocabulary
        if registered is not MODEL_VOCABULARY and registered != required:
            raise ValueError(
                f"task {task.name} tokenizes {name} with {registered}; expected the model's vocabulary, "
                f"{vocabulary}. Set VOCABULARY_FILE and EXTRA_IDS to the task's, or choose another task."
            )
        replaced[name] = dataclasses.replace(feature, vocabulary=required)
    task = copy.copy(task)
    task._output_features = replaced
    return task


def _check_cached(tasks: Sequence) -> None:
    """Raises ValueError where a task that could have a cache has none."""
    for task in tasks:
        if task.supports_caching and not task.cache_dir:
            raise ValueError(
                f"USE_CACHED_TASKS is True, but no cache of {task.name} is in the cache folders "
                f"{list(seqio.utils.get_global_cache_dirs())}. Set USE_CACHED_TASKS = False, or pass the "
                "folder of T5X's cache of the task in --seqio_additional_cache_dirs (seqio_cache_tasks cannot "
                "cache a task of this package, whose vocabulary is the model's)."
            )


def _needs_lengths(preprocessor: Callable) -> bool:
    try:
        parameters = inspect.signature(preprocessor).parameters
    except (TypeError, ValueError):
        return False
    lengths = parameters.get("sequence_length")
    return lengths is not None and lengths.default is inspect.Parameter.empty


def file_task(
    name: str, split: str, examples: records.Lazy, vocabulary: vocabularies.Vocabulary
) -> seqio.Task:
    """A task, not registered, of one file as one split.

    Args:
      name: of the task.
      split: that the file is read as.
      examples: of the file; see `examples.read_examples`.
      vocabulary: the model's.
    """
    return seqio.Task(
        name,
        source=InMemory({split: examples}),
        preprocessors=[functools.partial(tokenize, vocabulary=vocabulary)],
        output_features=text_features(vocabulary.for_seqio()),
        postprocess_fn=functools.partial(postprocessors.as_written, vocabulary=vocabulary),
        metric_fns=[metrics.accuracy],
        # The source shuffles all examples.
        shuffle_buffer_size=None,
    )


def tokenize(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None = None,
    *,
    vocabulary: vocabularies.Vocabulary,
) -> tf.data.Dataset:
    """Tokenizes and trims the examples of a file as `pipeline.TrainBatches` does.

    Args:
      dataset: of {"inputs": text, "targets": text} and other features.
      sequence_length: tokens kept; None for all.
      vocabulary: the model's.
    """
    lengths = None
    if sequence_length is not None:
        lengths = batching.MaxLengths(sequence_length["inputs"], sequence_length["targets"])
    outputs = {"inputs_pretokenized": tf.string, "inputs": tf.int32, "targets": tf.int32}

    def to_ids(inputs: bytes, targets: bytes, *spans: np.ndarray) -> list[Any]:
        example = {"inputs": inputs.decode(), "targets": targets.decode()}
        example |= zip((truncation.SPANS,), spans, strict=False)
        tokenized = vocabularies.tokenize(example, vocabulary, lengths.inputs if lengths else None)
        trimmed = lengths.trim(tokenized) if lengths else tokenized
        return [tokenized["inputs_pretokenized"].encode(), trimmed["inputs"], trimmed["targets"]]

    def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        others = dict(example)
        texts = [others.pop("inputs"), others.pop("targets")]
        spans = [others.pop(truncation.SPANS)] if truncation.SPANS in others else []
        # Stateless, so that T5X can save the position in the data.
        values = tf.numpy_function(to_ids, texts + spans, list(outputs.values()), stateful=False)
        for (name, dtype), value in zip(outputs.items(), values, strict=True):
            others[name] = tf.ensure_shape(value, [] if dtype == tf.string else [None])
        return others | {"targets_pretokenized": texts[1]}

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def text_features(vocabulary: seqio.Vocabulary = MODEL_VOCABULARY) -> dict[str, seqio.Feature]:
    """The output features of a task that tokenizes with `vocabulary`."""
    return {
        name: seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32)
        for name in ("inputs", "targets")
    }


class InMemory(seqio.DataSource):
    """Examples by split, which may be read when they are asked for (`records.Lazy`).

    All of them are shuffled, in each epoch in another order, by the seed.

    Attributes:
      examples: by split.
    """

    def __init__(self, examples: Mapping[str, Sequence[Mapping[str, Any]]]):
        """Examples of a split have the same keys, and values of the same kinds."""
        # Without their number: seqio would cache them, and so freeze the order.
        super().__init__(splits=list(examples), performs_internal_shuffling=True)
        self.examples = examples

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """The examples are not in shards."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """One shard."""
        return [split]

    def get_dataset(
        self, split="train", shuffle=True, seed=None, shard_info=None, **_unused
    ) -> tf.data.Dataset:
        """The split's examples; `shard_info` is seqio's to apply."""
        examples = self.examples[split]
        numbers = tf.data.Dataset.range(len(examples))
        if shuffle:
            numbers = numbers.shuffle(min(len(examples), SHUFFLED), seed=seed)
        return numbers.map(_reader(examples))


def _reader(
    examples: Sequence[Mapping[str, Any]],
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """From an example's number to its features."""
    specs = {name: tf.constant(value) for name, value in examples[0].items()}
    signature = {
        name: tf.TensorSpec([None] * spec.shape.rank, spec.dtype) for name, spec in specs.items()
    }
    return read_by_number(examples.__getitem__, signature)


def read_by_number(
    get: Callable[[int], Mapping[str, Any]], signature: Mapping[str, tf.TensorSpec]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """A function for tf.data's map, from an example's number to its features.

    The position of a data set of numbers is all that there is to save, which T5X does
    (`SaveCheckpointConfig.save_dataset`); a Python generator or a stateful function cannot be saved.

    Args:
      get: gives the same example for the same number each time.
      signature: of the features.
    """

    def values_of(number: np.ndarray) -> list[np.ndarray]:
        example = get(int(number))
        return [
            np.array(example[name], spec.dtype.as_numpy_dtype) for name, spec in signature.items()
        ]

    def read(number: tf.Tensor) -> dict[str, tf.Tensor]:
        dtypes = [spec.dtype for spec in signature.values()]
        values = tf.numpy_function(values_of, [number], dtypes, stateful=False)
        return {
            name: tf.ensure_shape(value, spec.shape)
            for (name, spec), value in zip(signature.items(), values, strict=True)
        }

    return read
