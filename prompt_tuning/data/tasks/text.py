"""Pre-training on text files."""

import functools
from collections.abc import Sequence

import seqio

from prompt_tuning.data import seqio_tasks, vocabularies
from prompt_tuning.data.files import examples, lines, records, tables
from prompt_tuning.data.text import preprocessors

OBJECTIVES = {
    "span_corruption": preprocessors.span_corruption,
    "prefix_lm": preprocessors.prefix_lm,
}
VALIDATION_EVERY = 200


def read_documents(text_files: Sequence[str], encoding: str = "utf-8") -> seqio_tasks.InMemory:
    """Reads documents: non-empty lines of .txt files, "text" of each line of .jsonl files.

    Every 200th document is in the split "validation", the others are in "train".

    Args:
      text_files: TEXT_FILES, paths or patterns such as "corpus/*.jsonl"; also .gz.
      encoding: FILE_ENCODING.

    Raises:
      FileNotFoundError, ValueError: with file, line and the setting to correct.
    """
    paths = lines.find_files(text_files, "TEXT_FILES")
    documents = records.chain([_documents(path, encoding) for path in paths])
    if not documents:
        raise ValueError(
            f"TEXT_FILES {list(text_files)} have no text; expected at least one document. Add documents, or "
            "correct the paths."
        )
    splits = {
        "train": documents.without_every(VALIDATION_EVERY),
        "validation": documents[VALIDATION_EVERY - 1 :: VALIDATION_EVERY],
    }
    return seqio_tasks.InMemory({name: split for name, split in splits.items() if split})


def _documents(path: str, encoding: str) -> records.Lazy:
    def make(row: tables.Row, number: int, location: str) -> dict[str, str] | None:
        del number
        text = examples.column(row, "text", location, "TEXT_FILES")
        return {"targets": text} if text else None

    return records.by_number(path, "TEXT_FILES", make, tables.TEXT_SUFFIXES, encoding)


def text_task(
    objective: str, documents: seqio.DataSource, vocabulary: seqio.Vocabulary
) -> seqio.Task:
    """Makes an unregistered task of an objective, with its name.

    Args:
      objective: span_corruption or prefix_lm.
      documents: {"targets": text}; see `read_documents`.
      vocabulary: the model's vocabulary.
    """
    if objective not in OBJECTIVES:
        raise ValueError(
            f"OBJECTIVES has {objective!r}; expected one of {', '.join(OBJECTIVES)}. Correct the name."
        )
    return seqio.Task(
        objective,
        source=documents,
        preprocessors=[
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
            OBJECTIVES[objective],
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=seqio_tasks.text_features(vocabulary),
    )


def pretraining_mixture(
    *,
    vocabulary: vocabularies.Vocabulary,
    text_files: Sequence[str],
    objectives: Sequence[tuple[str, float]],
    train_file: str | None = None,
    train_file_rate: float = 1.0,
    encoding: str = "utf-8",
    allow_empty_targets: bool = False,
) -> seqio.Mixture:
    """Makes a mixture of pre-training objectives on text files and, optionally, of a TRAIN_FILE.

    Args:
      vocabulary: the model's vocabulary.
      text_files: see `read_documents`.
      objectives: (name, rate) pairs.
      train_file: file with the columns "inputs" and "targets"; see `examples.read_examples`.
      train_file_rate: rate of this file.
      encoding: FILE_ENCODING of all files.
      allow_empty_targets: whether targets of `train_file` may be empty.
    """
    documents = read_documents(text_files, encoding)
    seqio_vocabulary = vocabulary.for_seqio()
    tasks = [(text_task(name, documents, seqio_vocabulary), rate) for name, rate in objectives]
    if train_file:
        texts = examples.read_examples(
            train_file,
            setting="TRAIN_FILE",
            input_template="{inputs}",
            target_column="targets",
            encoding=encoding,
            allow_empty_targets=allow_empty_targets,
        )
        name = examples.task_name(train_file)
        file_task = seqio_tasks.file_task(name, "train", texts, vocabulary)
        tasks.append((file_task, train_file_rate))
    return seqio.Mixture("pretraining", tasks)
