"""Running text to pre-train on, in files of your own."""

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
    """The documents of files: each non-empty line of .txt, "text" of each line of .jsonl.

    Every 200th document is split "validation", the others are "train".

    Args:
      text_files: TEXT_FILES, paths or patterns such as "corpus/*.jsonl"; .gz too.
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
    return seqio_tasks.InMemory({split: some for split, some in splits.items() if some})


def _documents(path: str, encoding: str) -> records.Lazy:
    def make(row: tables.Row, number: int, place: str) -> dict[str, str] | None:
        del number
        text = examples.column(row, "text", place, "TEXT_FILES")
        return {"targets": text} if text else None

    return records.by_number(path, "TEXT_FILES", make, tables.TEXT_SUFFIXES, encoding)


def text_task(
    objective: str, documents: seqio.DataSource, vocabulary: seqio.Vocabulary
) -> seqio.Task:
    """A task, not registered and named after its objective, on `documents`.

    Args:
      objective: span_corruption or prefix_lm.
      documents: of {"targets": text}; see `read_documents`.
      vocabulary: the model's.
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
    """Objectives on running text, and text-to-text examples beside them, at given rates.

    Args:
      vocabulary: the model's.
      text_files: see `read_documents`.
      objectives: (name, rate) pairs.
      train_file: rows with "inputs" and "targets"; see `examples.read_examples`.
      train_file_rate: rate of these rows.
      encoding: FILE_ENCODING of all files.
      allow_empty_targets: whether a row of `train_file` may have no target.
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
