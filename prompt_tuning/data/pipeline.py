"""seqio task -> numpy batches: for training, from any position; for evaluation, in order.

Numpy batches are the border of TensorFlow and seqio, which this module imports only
when a dataset is opened.
"""

import collections
import copy
import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from prompt_tuning import annotations
from prompt_tuning.data import evaluation_task, tensorflow_import, vocabularies
from prompt_tuning.data.batches import assembly, batching, epochs, soft_tokens
from prompt_tuning.data.files import fingerprints, lazy
from prompt_tuning.data.text import labels, truncation
from prompt_tuning.data.tokenizers import vocabulary_checks

CHECKED_EXAMPLES = 2000


class NoSplitError(ValueError):
    """A task or mixture has no such split."""


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
            _ = self.room  # raises where the lengths are wrong
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
    def room(self) -> batching.Lengths:
        """For the tokens of an example."""
        if self.task_feature_lengths is None:
            raise ValueError(
                "TASK_FEATURE_LENGTHS is None; expected the maximum numbers of input and target tokens. Set e.g. "
                "TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 8}."
            )
        return batching.Lengths.from_features(self.task_feature_lengths)

    def fitted(self, examples: Sequence[batching.Example]) -> "DatasetConfig":
        """With room for the longest of these examples where no lengths are set."""
        if self.task_feature_lengths is not None or not examples:
            return self
        longest = {key: max(len(e[key]) for e in examples) for key in ("inputs", "targets")}
        return dataclasses.replace(self, task_feature_lengths=longest)


def use_vocabulary(task, vocabulary: vocabularies.Vocabulary):
    """The task reading with the model's vocabulary.

    Raises ValueError where the task has been registered with another one.
    """
    from prompt_tuning.data import features

    wanted = vocabulary.for_seqio()
    replaced = {}
    for name, feature in task.output_features.items():
        own = feature.vocabulary
        if own is not features.MODEL_VOCABULARY and own != wanted:
            raise ValueError(
                f"task {task.name} tokenizes {name} with {own}; expected the model's vocabulary, "
                f"{vocabulary}. Set VOCABULARY_FILE and EXTRA_IDS to the task's, or choose another task."
            )
        replaced[name] = dataclasses.replace(feature, vocabulary=wanted)
    task = copy.copy(task)
    task._output_features = replaced
    return task


def _open(config: DatasetConfig, vocabulary: vocabularies.Vocabulary):
    """The task or mixture, and its tasks that have the split, reading with `vocabulary`."""
    tensorflow_import.start_tensorflow()
    import seqio

    source = config.source
    if config.mixture_or_task_name is not None:
        source = dataclasses.replace(source, name=config.mixture_or_task_name)
    provider = source.open(vocabulary, config.split)
    originals = [t for t in seqio.get_subtasks(provider) if config.split in t.splits]
    if not originals:
        raise NoSplitError(
            f"{provider.name} has no split {config.split!r}; expected one of {sorted(provider.splits)}. Set "
            "SPLIT (of eval and infer) to one of them, or choose another task."
        )
    tasks = [use_vocabulary(task, vocabulary) for task in originals]
    if config.use_cached:
        _check_cached(tasks)
    if not isinstance(provider, seqio.Mixture):
        return tasks[0], tasks
    rated = [(mine, provider.get_rate(own)) for mine, own in zip(tasks, originals, strict=True)]
    return seqio.Mixture(provider.name, rated, sample_fn=provider._sample_fn), tasks


def _check_cached(tasks: Sequence) -> None:
    """Raises ValueError where a task that could have a cache has none."""
    import seqio

    for task in tasks:
        if task.supports_caching and not task.cache_dir:
            raise ValueError(
                f"USE_CACHED_TASKS is True, but no cache of {task.name} is in the cache folders "
                f"{list(seqio.utils.get_global_cache_dirs())}. Set USE_CACHED_TASKS = False, or pass the "
                "folder of T5X's cache of the task in --seqio_additional_cache_dirs (seqio_cache_tasks cannot "
                "cache a task of this package, whose vocabulary is the model's)."
            )


def _read(config: DatasetConfig, provider, tasks: Sequence, *, shuffle: bool, seed: int):
    """The examples of a task once, or those of a mixture without end, as a tf.data.Dataset."""
    # Lengths only where a preprocessor must know them, so that cuts are ours to count.
    steps = itertools.chain.from_iterable(task.preprocessors for task in tasks)
    lengths = config.task_feature_lengths if any(map(_needs_lengths, steps)) else None
    dataset = provider.get_dataset(
        sequence_length=lengths,
        split=config.split,
        use_cached=config.use_cached,
        shuffle=shuffle,
        seed=seed,
    )
    import tensorflow as tf

    options = tf.data.Options()
    # Its thread was seen to hang at the end of an epoch where 15 orders were read in one process.
    options.autotune.enabled = False
    return dataset.with_options(options)


def _own_examples(
    task, config: DatasetConfig, vocabulary: vocabularies.Vocabulary
) -> lazy.Lazy | None:
    """The examples of an own file, tokenised when they are asked for; None of other tasks."""
    from prompt_tuning.data import in_memory

    source = getattr(task, "source", None)  # a mixture has none
    texts = source.examples[config.split] if isinstance(source, in_memory.InMemory) else None
    is_file = isinstance(texts, lazy.Lazy) and "inputs" in texts[0]  # and no running text
    max_inputs = config.room.inputs if config.task_feature_lengths is not None else None
    return epochs.of_file(texts, vocabulary, max_inputs) if is_file else None


def _needs_lengths(preprocessor: Callable) -> bool:
    try:
        parameters = inspect.signature(preprocessor).parameters
    except (TypeError, ValueError):
        return False
    wanted = parameters.get("sequence_length")
    return wanted is not None and wanted.default is inspect.Parameter.empty


def check_fit(name: str, examples: Sequence[batching.Example], config: DatasetConfig) -> None:
    """Raises ValueError where there is no example, or where labels are cut; warns of other cuts."""
    if not examples and config.source is None:
        raise ValueError(
            f"{name} is empty; expected at least one (input, target) pair. Pass the pairs to train on."
        )
    if not examples:
        raise ValueError(
            f"{name} has no example in split {config.split!r}; expected at least one. Choose another split "
            "or data set."
        )
    room = config.room
    sizes = {key: [len(example[key]) for example in examples] for key in ("inputs", "targets")}
    cut_targets = sum(size > room.targets for size in sizes["targets"])
    counts = collections.Counter(tuple(example["targets"]) for example in examples)
    # A label that is cut can be neither learned nor predicted.
    if cut_targets and labels.are_labels(counts) and len(counts) <= len(examples) // 2:
        raise ValueError(
            f"{cut_targets} of the first {len(examples)} labels of {name} are longer than "
            f"TASK_FEATURE_LENGTHS['targets'] = {room.targets} tokens; expected labels that are not cut off. Set "
            f"TASK_FEATURE_LENGTHS['targets'] to at least {max(sizes['targets'])}."
        )
    for key, limit in (("inputs", room.inputs), ("targets", room.targets)):
        truncation.warn_of_cuts(name, key, sizes[key], limit, config.source)


def _check_targets(name: str, examples: Sequence[batching.Example]) -> None:
    """Raises ValueError where examples of a registered task have a target without tokens."""
    empty = sum(
        set(example["targets"].tolist()) <= {0, vocabularies.EOS_ID} for example in examples
    )
    if empty:
        raise ValueError(
            f"{empty} of the first {len(examples)} examples of {name} have an empty target; expected a text "
            "to predict in each. Correct the task, or set ALLOW_EMPTY_TARGETS=True, which trains the model "
            "to predict an empty text"
        )


class TrainBatches(epochs.Batches):
    """The batches of a task or mixture.

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
          soft: to put into each input.
          row_multiple: what the rows of a packed batch are a multiple of.

        Raises:
          ValueError: no such task or split, no example, labels that do not fit or that the
            vocabulary cannot distinguish, or an input that does not tell its task where it must.
        """
        _ = config.room  # raises where there are no lengths
        provider, tasks = _open(config, vocabulary)
        self.digests: dict[str, str] = {}

        def sample(of, its_tasks) -> list[batching.Example]:
            dataset = _read(config, of, its_tasks, shuffle=False, seed=0)
            return list(dataset.take(CHECKED_EXAMPLES).as_numpy_iterator())

        def epoch(seed: int, number: int, skip: int) -> Iterator[batching.Example]:
            dataset = _read(config, provider, tasks, shuffle=config.shuffle, seed=seed + number)
            return dataset.skip(skip).prefetch(4 * config.batch_size).as_numpy_iterator()

        self.labels: dict[str, int] = {}
        if own := _own_examples(provider, config, vocabulary):
            examples = epochs.sample(own, CHECKED_EXAMPLES)
            check_fit(provider.name, examples, config)
            self.labels = labels.find_file_labels(provider.source.examples[config.split])
            vocabulary_checks.check_examples(
                provider.name, examples, self.labels, vocabulary, file=config.file, training=True
            )
            # A small model learns faster than texts are tokenised: few are tokenised once.
            kept = own if len(own) > len(examples) else examples
            epoch = epochs.shuffled(kept) if config.shuffle else epochs.in_order(kept)
        else:
            for task in tasks:
                examples = sample(task, [task])
                check_fit(task.name, examples, config)
                if config.name is not None and not config.source.allow_empty_targets:
                    _check_targets(task.name, examples)
                texts = vocabulary_checks.read_texts(examples, "targets")
                counts = labels.find_labels(texts)
                vocabulary_checks.check_examples(
                    task.name, examples, counts, vocabulary, file=None, training=True
                )
                self.labels |= counts
                self.digests[task.name] = fingerprints.of_examples(examples)
            if provider is not tasks[0]:  # a mixture, at its rates
                examples = sample(provider, tasks)
        assemble = assembly.make_assembler(config, soft, examples, row_multiple)
        super().__init__(provider.name, epoch, assemble, config.batch_size, config.seed)


def example_batches(
    name: str,
    examples: Sequence[batching.Example],
    config: DatasetConfig,
    soft: soft_tokens.SoftTokens,
    row_multiple: int = 1,
) -> epochs.Batches:
    """Endless batches of examples that are in memory: shuffled in each epoch, without TensorFlow.

    Args:
      name: of the examples, for messages.
      examples: ids, with their end tokens.
      config: how they are put into batches; its source and split are not read.
      soft: to put into each input.
      row_multiple: what the rows of a packed batch are a multiple of.

    Raises:
      ValueError: there is no example, or labels do not fit.
    """
    config = config.fitted(examples)
    sample = epochs.sample(examples, CHECKED_EXAMPLES)
    check_fit(name, sample, config)
    assemble = assembly.make_assembler(config, soft, sample, row_multiple)
    epoch = epochs.shuffled(examples)
    return epochs.Batches(name, epoch, assemble, config.batch_size, config.seed)


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
    for task in _open(config, vocabulary)[1]:
        examples = _own_examples(task, config, vocabulary)
        if examples is None:
            dataset = _read(config, task, [task], shuffle=False, seed=config.seed)
            stream = dataset.take(-1 if limit is None else limit).as_numpy_iterator
            examples = list(stream()) if in_memory else lazy.of_stream(stream)
        elif in_memory:
            examples = list(examples[:limit])
        fitted = config.fitted(examples) if in_memory else config
        checked = examples if in_memory else epochs.sample(examples, CHECKED_EXAMPLES)
        check_fit(task.name, checked, fitted)
        neutral = getattr(config.source, "neutral_text", "") if calibrated else None
        evaluated = evaluation_task.EvaluationTask(
            task.name, examples, fitted.room, task, vocabulary, known, neutral
        )
        vocabulary_checks.check_examples(
            task.name, checked, evaluated.target_labels, vocabulary, file=config.file
        )
        evaluated.warn_of_unlisted_labels(ranked_labels, "LABELS", "they are never predicted")
        opened.append(evaluated)
    return opened
