"""A data set of TFDS: as TFDS prepared it, or from its original files (TASK_DATA_DIR).

A task names the data set and a reader of the original files. Which of the two is read is
decided when the task is opened; both give the same examples, in an order of their own.
"""

import copy
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from prompt_tuning.data import seqio_tasks
from prompt_tuning.data.files import records, tables

SETTING = "TASK_DATA_DIR"
# The last sentence of a message about a file that another task may have.
FIX = f"It may belong to another task: set {SETTING} to the folder of this task."
Example = Mapping[str, Any]
# From the folder and the split to its examples.
Reader = Callable[[epath.Path, str], Iterable[Example]]
# Examples that are shuffled together where memory does not hold all.
STREAM_SHUFFLE = 10_000
# What comes of a value of another kind, such as a list in place of a text.
STRANGE = (AttributeError, LookupError, OverflowError, TypeError)


class Source(seqio.TfdsDataSource):
    """A TFDS data set that has been prepared, or its original files."""

    def __init__(
        self,
        tfds_name: str,
        *,
        read: Reader,
        features: Mapping[str, Any],
        splits: Sequence[str] | Mapping[str, str],
        streams: bool = False,
    ):
        """Reads nothing yet.

        Args:
          tfds_name: e.g. "glue/sst2:2.0.0".
          read: gives the examples of a split from a folder of original files, as TFDS has
            them. It finds files with `find_file`, and raises ValueError or OSError that name
            TASK_DATA_DIR where they are not what it expects.
          features: name -> dtype ("string", "int64"), or a list of one dtype for a feature
            of any number of values, or a mapping of features.
          splits: of the task, or a mapping from them to those of TFDS. `read` gets the task's.
          streams: whether original files are more than memory holds; features are then
            plain dtypes.
        """
        # read_only: TFDS would begin to download what is not there.
        super().__init__(tfds_name, splits=splits, read_only=True)
        self._read, self._features, self._streams = read, features, streams
        self._folder: epath.Path | None = None
        self._opened: dict[str, tuple[tf.data.Dataset, int]] = {}

    def in_folder(self, folder: epath.PathLike) -> "Source":
        """The same data set from original files in `folder`; a split is read once."""
        other = copy.copy(self)
        other._folder, other._opened = epath.Path(folder), {}
        return other

    def with_parts(self, parts: Mapping[str, str]) -> "Source":
        """The same data set with splits of other names: {"validation": "train[-1000:]"}."""
        read = functools.partial(_read_part, read=self._read, parts=parts)
        return Source(self.name, read=read, features=self._features, splits=parts)

    def get_dataset(
        self, split="train", shuffle=True, seed=None, shard_info=None, **others
    ) -> tf.data.Dataset:
        """The examples of a split; those of original files are shuffled as a whole.

        Of files that are streamed, STREAM_SHUFFLE at a time are shuffled.

        Raises:
          ValueError, FileNotFoundError: the data is not there, or is of another task; the
            message says which file was looked for and which setting to correct.
        """
        if self._folder is None:
            self._check_prepared()
            return super().get_dataset(split, shuffle, seed, shard_info, **others)
        if split not in self._opened:
            self._opened[split] = self._open(self._folder, split)
        dataset, count = self._opened[split]
        return dataset.shuffle(count, seed=seed) if shuffle else dataset

    def _open(self, folder: epath.Path, split: str) -> tuple[tf.data.Dataset, int]:
        """The examples of original files in order, and how many to shuffle together."""
        read = functools.partial(self._read, folder, split)
        try:
            examples = list(itertools.islice(read(), 1 if self._streams else None))
        except STRANGE as error:
            raise self._foreign(folder, split, error) from error
        if not examples:
            raise ValueError(
                f"{SETTING} {folder} has no example of split {split!r} of {self.name}; expected at least "
                f"one. {FIX}"
            )
        if self._streams:
            return _stream(read, self._features), STREAM_SHUFFLE
        try:
            columns = _columns(examples, self._features)
        except (ValueError, *STRANGE) as error:
            raise self._foreign(folder, split, error) from error
        return tf.data.Dataset.from_tensor_slices(columns), len(examples)

    def _foreign(self, folder: epath.Path, split: str, error: Exception) -> ValueError:
        return ValueError(
            f"{SETTING} {folder}: split {split!r} does not have the values of {self.name} "
            f"({error!r:.200}). {FIX}"
        )

    @property
    def name(self) -> str:
        """Of the TFDS data set."""
        return self.tfds_dataset.name

    def num_input_examples(self, split: str) -> int | None:
        """Examples of a split; None of original files: seqio would cache their order."""
        if self._folder is not None:
            return None
        self._check_prepared()
        return super().num_input_examples(split)

    def list_shards(self, split: str) -> Sequence[str]:
        """The files of TFDS; original files are one shard."""
        if self._folder is not None:
            return [split]
        self._check_prepared()
        return super().list_shards(split)

    def _check_prepared(self) -> None:
        root = epath.Path(self.tfds_dataset.data_dir or tfds.core.constants.DATA_DIR)
        name, _, version = self.name.partition(":")
        folder = root.expanduser() / name / version
        if folder.exists():
            return
        raise ValueError(
            f"the TFDS data set {self.name} does not exist in {folder}. Run `tfds build {self.name} "
            f"--data_dir={root}` and pass --tfds_data_dir={root}, or set {SETTING} to a folder with its "
            "original files."
        )


_PART = re.compile(r"(\w+)(?:\[(-?\d*):(-?\d*)\])?")


def _read_part(
    folder: epath.Path, split: str, read: Reader, parts: Mapping[str, str]
) -> Sequence[Example]:
    """The examples that TFDS calls `parts[split]`, such as "train[:-1000]", of original files."""
    part, first, last = _PART.fullmatch(parts[split]).groups()
    cut = slice(int(first) if first else None, int(last) if last else None)
    return list(read(folder, part))[cut]


def _stream(read: Callable[[], Iterable[Example]], features: Mapping[str, str]) -> tf.data.Dataset:
    """The examples in order, read as they are asked for."""
    get = records.read_in_order(read)

    def get_at_most_one(number: int) -> dict[str, list]:
        example = get(number)
        return {name: [] if example is None else [example[name]] for name in features}

    signature = {name: tf.TensorSpec([None], dtype) for name, dtype in features.items()}
    numbers = tf.data.Dataset.range(tf.int64.max)
    examples = numbers.map(seqio_tasks.read_by_number(get_at_most_one, signature))
    first = next(iter(features))
    return examples.take_while(lambda example: tf.size(example[first]) > 0).unbatch()


def _columns(values: Sequence[Any], features: Any) -> Any:
    """The values of examples as tensors, one after the other."""
    if isinstance(features, Mapping):
        return {
            name: _columns([value[name] for value in values], feature)
            for name, feature in features.items()
        }
    if isinstance(features, list):
        flat = [item for value in values for item in value]
        return tf.RaggedTensor.from_row_lengths(
            tf.constant(flat, features[0], shape=[len(flat)]), [len(value) for value in values]
        )
    return tf.constant(values, features)


def in_folder(provider: seqio.Task | seqio.Mixture, folder: str):
    """A task or mixture that reads original files in `folder` (TASK_DATA_DIR).

    Raises:
      FileNotFoundError: no such folder.
      ValueError: a task that reads another source than `Source`.
    """
    if not epath.Path(folder).is_dir():
        raise FileNotFoundError(
            f"{SETTING} {folder} is not a folder; expected the folder of the original files. Correct the "
            "path."
        )
    tasks = seqio.get_subtasks(provider)
    for task in tasks:
        if not isinstance(task.source, Source):
            raise ValueError(
                f"{SETTING} is {folder!r}, but task {task.name} reads {type(task.source).__name__}, which "
                f"has no original files. Remove {SETTING}."
            )
    replaced = [task.replace(source=task.source.in_folder(folder)) for task in tasks]
    if not isinstance(provider, seqio.Mixture):
        return replaced[0]
    rates = [provider.get_rate(task) for task in tasks]
    rated = list(zip(replaced, rates, strict=True))
    return seqio.Mixture(provider.name, rated, sample_fn=provider._sample_fn)


def find_file(folder: epath.Path, *names: str, inside: str = "") -> epath.Path:
    """The first of these files that is there; each may have .gz behind.

    Args:
      folder: TASK_DATA_DIR.
      *names: of the files.
      inside: the data set's own folder, looked into instead where `folder` has it.

    Raises FileNotFoundError that says what was looked for.
    """
    searched = folder / inside if inside and (folder / inside).is_dir() else folder
    for name in names:
        for file in (searched / name, searched / f"{name}.gz"):
            if file.exists():
                return file
    either = f", nor a folder {inside} with one of them" if inside and searched == folder else ""
    raise FileNotFoundError(
        f"{SETTING} {searched} has none of {', '.join(names)}{either}. Set {SETTING} to the folder "
        "that has the original files of the data set."
    )


def check_keys(keys: Collection[str], expected: Collection[str], location: str) -> None:
    """Raises ValueError where a row is that of another task."""
    if missing := [key for key in expected if key not in keys]:
        raise ValueError(
            f"{SETTING} {location}: no {', '.join(missing)} in {list(keys)}; expected {list(expected)}. {FIX}"
        )


def class_id(value: str, names: Sequence[str], location: str) -> int:
    """The number of a class from its name. Raises ValueError for the name of no class."""
    if value not in names:
        raise ValueError(
            f"{SETTING} {location}: label {value!r}; expected one of {', '.join(names)}. {FIX}"
        )
    return list(names).index(value)


def jsonl_rows(file: epath.Path, keys: Collection[str]) -> Iterator[tuple[str, tables.Row]]:
    """(location for messages, object) of each line; each has at least these keys."""
    for number, row in records.read_rows(str(file), SETTING):
        location = f"{file}, line {number}"
        check_keys(row.keys(), keys, location)
        yield location, row
