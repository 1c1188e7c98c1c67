"""Where examples come from: a registered seqio task, your own files, or running text."""

import dataclasses
import difflib
import importlib
import pkgutil
import re
import string
from collections.abc import Mapping, Sequence

from prompt_tuning import annotations
from prompt_tuning.data import tensorflow_import, vocabularies
from prompt_tuning.data.files import examples, lines, records

SPLIT_SETTINGS = {"train": "TRAIN_FILE", "validation": "EVAL_FILE", "infer": "INFER_FILE"}
# Modules of the reference and of t5 that register tasks -> those that register them here.
_REFERENCE_MODULES = {
    **{
        f"prompt_tuning.data.{name}": f"prompt_tuning.data.tasks.{name}"
        for name in ("c4", "glue", "glue_transfer", "qa", "summarization", "super_glue")
    },
    "prompt_tuning.recycling.data.c4": "prompt_tuning.data.tasks.c4",
    **{
        f"prompt_tuning.recycling.data.{name}": "prompt_tuning.data.tasks.recycling"
        for name in ("imdb", "qqp", "record", "sst2")
    },
    "prompt_tuning.extended.perceptron.data.tasks": "prompt_tuning.data.tasks.held_out",
    **{
        f"prompt_tuning.spot.data.{name}": "prompt_tuning.data.tasks.spot"
        for name in ("glue", "mrqa", "nli", "summarization", "tasks")
    },
    "t5.data.mixtures": "prompt_tuning.data.tasks",
    "t5.data.tasks": "prompt_tuning.data.tasks",
}


class NoSplitError(ValueError):
    """A task or mixture has no such split."""


@dataclasses.dataclass(frozen=True)
class TaskSource:
    """A registered seqio task or mixture, or your own files.

    Attributes:
      name: MIXTURE_OR_TASK_NAME, or None where files are given.
      module: MIXTURE_OR_TASK_MODULE, imported first so that it can register the task.
      train_file: TRAIN_FILE, a TSV, CSV or JSONL file, gzip too.
      eval_file: EVAL_FILE, read as the split "validation".
      infer_file: INFER_FILE, read as the split "infer"; needs no target.
      input_template: INPUT_TEMPLATE, e.g. "sst2 sentence: {sentence}".
      target_column: TARGET_COLUMN.
      label_map: LABEL_MAP from what the file says to what the model shall answer.
      prompt_column: PROMPT_COLUMN, of files: names the prompt of each row, where there are several.
      file_encoding: FILE_ENCODING of files without a byte order mark, a Python codec.
      allow_empty_targets: ALLOW_EMPTY_TARGETS: whether rows of files may have no target.
      truncate_field: TRUNCATE_FIELD, the field of INPUT_TEMPLATE that is shortened where inputs are
        too long; None for cutting off their end.
      data_dir: TASK_DATA_DIR, a folder with the original files of the named task's data set;
        None to read TFDS (--tfds_data_dir).
    """

    name: str | None = None
    module: str | None = None
    train_file: str | None = None
    eval_file: str | None = None
    infer_file: str | None = None
    input_template: str = "{text}"
    target_column: str = "label"
    label_map: Mapping[str | bool | int | float, str] | None = None
    prompt_column: str | None = None
    file_encoding: str = "utf-8"
    allow_empty_targets: bool = False
    truncate_field: str | None = None
    data_dir: str | None = None

    @property
    def files(self) -> dict[str, str]:
        """The files that are given, by setting."""
        files = {
            "TRAIN_FILE": self.train_file,
            "EVAL_FILE": self.eval_file,
            "INFER_FILE": self.infer_file,
        }
        return {setting: file for setting, file in files.items() if file}

    def file_of(self, split: str) -> str | None:
        """The setting and path of the file that a split is read from; None of a registered task."""
        setting = SPLIT_SETTINGS.get(split, "")
        return f"{setting} {self.files[setting]}" if setting in self.files else None

    @property
    def neutral_text(self) -> str:
        """The INPUT_TEMPLATE of files with empty fields: an input without content."""
        if not self.files:
            return ""
        return "".join(literal for literal, *_ in string.Formatter().parse(self.input_template))

    def read_files(self, split: str) -> dict[str, list[str]]:
        """{setting: paths} of the files that `split` is read from; {} of a registered task."""
        setting = SPLIT_SETTINGS.get(split)
        return {setting: [self.files[setting]]} if setting in self.files else {}

    def file_task_name(self, split: str) -> str:
        """The name, for metrics and results, of the file that a split is read from: its stem."""
        return examples.task_name(self.files[self._file_setting(split)])

    def read_examples(self, split: str) -> records.Lazy:
        """The examples of the file that a split is read from; see `examples.read_examples`.

        Raises:
          ValueError: the split is of no file that is set; a name or TASK_DATA_DIR beside files.
        """
        setting = self._file_setting(split)
        return examples.read_examples(
            self.files[setting],
            setting=setting,
            input_template=self.input_template,
            target_column=None if split == "infer" else self.target_column,
            label_map=self.label_map,
            prompt_column=self.prompt_column,
            encoding=self.file_encoding,
            allow_empty_targets=self.allow_empty_targets,
            truncate_field=self.truncate_field,
        )

    def _file_setting(self, split: str) -> str:
        if self.data_dir:
            raise ValueError(
                f"both TASK_DATA_DIR ({self.data_dir}) and {sorted(self.files)} are set; expected one of "
                "them. Remove TASK_DATA_DIR, or use it with MIXTURE_OR_TASK_NAME alone."
            )
        if self.name:
            raise ValueError(
                f"both MIXTURE_OR_TASK_NAME ({self.name}) and {sorted(self.files)} are set; expected one of "
                "them. Remove the other."
            )
        setting = SPLIT_SETTINGS.get(split)
        if setting is None:
            raise ValueError(
                f"SPLIT is {split!r}; expected one of {', '.join(SPLIT_SETTINGS)}. Set SPLIT to the one "
                f"that is read from your file: {', '.join(SPLIT_SETTINGS.values())}."
            )
        if setting not in self.files:
            raise ValueError(
                f"{setting} is not set; expected the file of split {split!r}. Set it in addition to "
                f"{', '.join(self.files)}."
            )
        return setting

    def open(self, vocabulary: vocabularies.Vocabulary, split: str):
        """The seqio task or mixture; of files, the task of `split`, for T5X.

        Raises:
          ValueError: neither or both of a name and files, or an unknown name; as `read_examples`.
          FileNotFoundError: no such TASK_DATA_DIR.
        """
        if self.files:
            from prompt_tuning.data import seqio_tasks

            name, texts = self.file_task_name(split), self.read_examples(split)
            return seqio_tasks.file_task(name, split, texts, vocabulary)
        if self.truncate_field is not None:
            raise ValueError(
                f"TRUNCATE_FIELD is {self.truncate_field!r}, but MIXTURE_OR_TASK_NAME {self.name!r} has no "
                "INPUT_TEMPLATE with such a field. Remove TRUNCATE_FIELD."
            )
        if not self.name:
            raise ValueError(
                "no data set is given. Set MIXTURE_OR_TASK_NAME (with MIXTURE_OR_TASK_MODULE for your own "
                "task), or TRAIN_FILE, EVAL_FILE or INFER_FILE."
            )
        return self._registered()

    def import_module(self) -> None:
        """Imports `module`, which registers tasks. Raises ValueError where it cannot be imported."""
        if self.module:
            module = _REFERENCE_MODULES.get(self.module, self.module)
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                raise ValueError(
                    f"MIXTURE_OR_TASK_MODULE {self.module!r} cannot be imported: {error}. Correct the name, "
                    "or add the module's folder to PYTHONPATH."
                ) from error

    def _registered(self):
        """The task or mixture of that name, from TASK_DATA_DIR if that is set."""
        import seqio

        self.import_module()
        if self.name not in _registered_names():
            register_all()
        names = _registered_names()
        # The reference has a task for each vocabulary; here a task takes the model's.
        plain = re.sub("^(mt5|byt5)_", "", self.name)
        name = self.name if self.name in names else plain
        if name not in names:
            nearest = difflib.get_close_matches(plain, names, n=3)
            raise ValueError(
                f"MIXTURE_OR_TASK_NAME {self.name!r} is not a registered task or mixture. "
                + (f"Did you mean: {', '.join(nearest)}? " if nearest else "")
                + "For your own task, set MIXTURE_OR_TASK_MODULE to the module that registers it."
            )
        provider = seqio.get_mixture_or_task(name)
        if self.data_dir:
            from prompt_tuning.data.files import originals

            return originals.in_folder(provider, self.data_dir)
        return provider


def _registered_names() -> list[str]:
    import seqio

    return [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]


def register_all() -> None:
    """Registers the tasks and mixtures of all modules of data/tasks."""
    from prompt_tuning.data import tasks

    for module in pkgutil.iter_modules(tasks.__path__, f"{tasks.__name__}."):
        importlib.import_module(module.name)


@dataclasses.dataclass(frozen=True)
class TextSource:
    """Running text to pre-train on, with text-to-text examples beside it if given.

    Attributes:
      text_files: TEXT_FILES, paths or patterns of .txt or .jsonl ("text") files.
      objectives: (objective, rate) pairs; objectives: span_corruption, prefix_lm.
      train_file: TRAIN_FILE of text-to-text examples (JSONL with inputs and targets).
      train_file_rate: their rate in the mixture.
      file_encoding: FILE_ENCODING of all files.
      allow_empty_targets: ALLOW_EMPTY_TARGETS, of `train_file`.
    """

    text_files: Sequence[str]
    objectives: Sequence[tuple[str, float]]
    train_file: str | None = None
    train_file_rate: annotations.NonNegativeFloat = 1.0
    file_encoding: str = "utf-8"
    allow_empty_targets: bool = False

    def read_files(self, split: str) -> dict[str, list[str]]:
        """{setting: paths} of all its files. Raises as `lines.find_files`."""
        del split  # it is a part of them
        train_file = {"TRAIN_FILE": [self.train_file]} if self.train_file else {}
        return {"TEXT_FILES": lines.find_files(self.text_files, "TEXT_FILES"), **train_file}

    def open(self, vocabulary: vocabularies.Vocabulary, split: str):
        """The seqio mixture."""
        del split  # it holds all
        from prompt_tuning.data.tasks import text

        return text.pretraining_mixture(
            vocabulary=vocabulary,
            text_files=self.text_files,
            objectives=self.objectives,
            train_file=self.train_file,
            train_file_rate=self.train_file_rate,
            encoding=self.file_encoding,
            allow_empty_targets=self.allow_empty_targets,
        )


def set_tfds_data_dir(folder: str) -> None:
    """Where TFDS data sets lie (--tfds_data_dir)."""
    tensorflow_import.start_tensorflow()
    import seqio

    seqio.set_tfds_data_dir_override(folder)


def add_cache_dirs(folders: Sequence[str]) -> None:
    """Where cached tasks lie (--seqio_additional_cache_dirs)."""
    tensorflow_import.start_tensorflow()
    import seqio

    seqio.add_global_cache_dirs(list(folders))
