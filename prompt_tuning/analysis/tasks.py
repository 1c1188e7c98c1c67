"""Which tasks there are, and what their examples look like to the model."""

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
      source: its module is imported first; it has the folder of original files.
      vocabulary: the model's.
      task_feature_lengths: what objectives cut running text to.
      pattern: of names; see `catalog.entries`. With `examples` a whole name.
      examples: how many to show of each task; 0 for the table.
      split: to show; None for train, or else the first that there is.

    Returns:
      What the table has, or the entry that is shown.

    Raises:
      ValueError: no such name, with the nearest; no such split; a number of examples below 0; what
        opening the data raises.
    """
    if examples < 0:
        raise ValueError(
            f"--examples is {examples}; expected a number of at least 0 (0 shows the table). Pass "
            "the number of examples to show."
        )
    tensorflow_import.start_tensorflow()
    source.import_module()
    found = catalog.entries(pattern)
    if not examples:
        print(table(found))
        return found
    if pattern not in [entry.name for entry in found]:
        names = ", ".join(entry.name for entry in found[:3])
        raise ValueError(
            f"--examples is set, and {pattern!r} is not the full name of a task; expected one, "
            f"such as {names}. Pass a full name."
        )
    (entry,) = (entry for entry in found if entry.name == pattern)
    config = pipeline.DatasetConfig(
        source=dataclasses.replace(source, name=pattern),
        task_feature_lengths=task_feature_lengths,
        split=_split(entry, split),
        batch_size=1,
    )
    for task in pipeline.evaluation_tasks(config, vocabulary, examples):
        print("\n".join(describe(task, config.split)))
    return [entry]


def _split(entry: catalog.Entry, wanted: str | None) -> str:
    if not entry.splits:  # opening it says what is missing
        return wanted or catalog.SPLITS[0]
    if wanted is None:
        return entry.splits[0]
    if wanted not in entry.splits:
        raise ValueError(
            f"{entry.name} has no split {wanted!r}; expected one of {', '.join(entry.splits)}. "
            "Pass one of them as --split."
        )
    return wanted


def table(entries: Sequence[catalog.Entry]) -> str:
    """A line for each entry under a header, columns aligned, and the counts."""
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
    """Lines with the texts and ids of a task's examples, and their other features."""
    for number, example in enumerate(task.examples):
        yield f"{task.name}, {split}, example {number}"
        for feature in ("inputs", "targets"):
            ids = example[feature].tolist()
            yield f"  {feature:<8} {task.text(example, feature)}"
            yield f"  {'':<8} {len(ids)} ids: {' '.join(map(str, ids))}"
        for name in sorted(example):
            if name.partition("_")[0] not in ("inputs", "targets"):
                yield f"  {name:<8} {_shown(example[name])}"
        yield ""


def _shown(value: Any) -> Any:
    """A feature as Python has it, bytes as text."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Iterable):
        return [_shown(item) for item in np.asarray(value).tolist()]
    return value
