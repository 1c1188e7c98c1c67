"""The list of tasks, and their examples as the model receives them."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data import evaluation_task, pipeline, sources, tensorflow_import, vocabularies
from prompt_tuning.data.tasks import catalog


def tasks(
    *,
    source: sources.TaskSource,
    vocabulary: vocabularies.Vocabulary,
    task_feature_lengths: Mapping[str, int],
    pattern: str = "",
    examples: int = 0,
    split: str | None = None,
) -> list[catalog.Entry]:
    """`prompt-tuning tasks`: prints a table of tasks and mixtures, or examples of one.

    Args:
      source: names the module to import first, and the folder of the original files.
      vocabulary: of the model.
      task_feature_lengths: lengths of the segments that objectives make of running text.
      pattern: of names; see `catalog.entries`. With `examples`, a full name.
      examples: number of examples to show per task; 0 for the table.
      split: to show; None for the task's first split.

    Returns:
      The entries that are printed.

    Raises:
      ValueError: unknown name or split, a negative number of examples, or an error of the data.
    """
    if examples < 0:
        raise ValueError(
            f"--examples is {examples}; expected a number of at least 0 (0 shows the table). Pass "
            "the number of examples to show."
        )
    tensorflow_import.start_tensorflow()
    source.import_module()
    entries = catalog.entries(pattern)
    if not examples:
        print(table(entries))
        return entries
    entry = _find(entries, pattern)
    config = pipeline.DatasetConfig(
        source=dataclasses.replace(source, name=pattern),
        task_feature_lengths=task_feature_lengths,
        split=_split(entry, split),
        batch_size=1,
    )
    for task in pipeline.evaluation_tasks(config, vocabulary, examples):
        print("\n".join(describe(task, config.split)))
    return [entry]


def _find(entries: Sequence[catalog.Entry], name: str) -> catalog.Entry:
    for entry in entries:
        if entry.name == name:
            return entry
    names = ", ".join(entry.name for entry in entries[:3])
    raise ValueError(
        f"--examples is set, and {name!r} is not the full name of a task; expected one, such as "
        f"{names}. Pass a full name."
    )


def _split(entry: catalog.Entry, split: str | None) -> str:
    if not entry.splits:  # Opening the task reports the missing files.
        return split or catalog.SPLITS[0]
    if split is None:
        return entry.splits[0]
    if split not in entry.splits:
        raise ValueError(
            f"{entry.name} has no split {split!r}; expected one of {', '.join(entry.splits)}. "
            "Pass one of them as --split."
        )
    return split


def table(entries: Sequence[catalog.Entry]) -> str:
    """Formats the entries as aligned columns below a header, followed by the counts."""
    rows = [
        (entry.name, entry.kind, " ".join(entry.splits) or "?", " ".join(entry.metrics) or "-")
        for entry in entries
    ]
    tasks = sum(entry.kind == "task" for entry in entries)
    counts = f"{_count(tasks, 'task')}, {_count(len(entries) - tasks, 'mixture')}"
    return "\n".join([*_aligned([("name", "kind", "splits", "metrics"), *rows]), "", counts])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def describe(task: evaluation_task.EvaluationTask, split: str) -> Iterator[str]:
    """Yields lines with the texts and ids of a task's examples, and their other features."""
    for number, example in enumerate(task.examples):
        yield f"{task.name}, {split}, example {number}"
        for feature in ("inputs", "targets"):
            ids = example[feature].tolist()
            yield f"  {feature:<8} {task.text(example, feature)}"
            yield f"  {'':<8} {len(ids)} ids: {' '.join(map(str, ids))}"
        for name in sorted(example):
            if name.partition("_")[0] not in ("inputs", "targets"):
                yield f"  {name:<8} {_to_python(example[name])}"
        yield ""


def _to_python(value: Any) -> Any:
    """Converts a feature to Python values, and bytes to text."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Iterable):
        return [_to_python(item) for item in np.asarray(value).tolist()]
    return value
