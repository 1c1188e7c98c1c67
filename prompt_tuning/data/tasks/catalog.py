"""Tasks and mixtures in seqio's registry, with their splits and metrics."""

import dataclasses
import difflib
import fnmatch
import functools
from collections.abc import Sequence

from prompt_tuning.data import sources

# The order of splits; other splits follow.
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered task or mixture.

    Attributes:
      name: value for MIXTURE_OR_TASK_NAME.
      kind: "task", or "mixture of N" tasks.
      splits: splits of the task, or of all tasks of the mixture; train first.
      metrics: names of the metric functions of the task, or of all tasks of the mixture.
    """

    name: str
    kind: str
    splits: Sequence[str]
    metrics: Sequence[str]


def entries(pattern: str = "") -> list[Entry]:
    """Returns the tasks and mixtures whose names match, sorted by name.

    Args:
      pattern: a pattern of complete names with *, ? or [, or a part of a name.

    Raises:
      ValueError: no name matches; the message has the closest names.
    """
    import seqio

    sources.register_all()
    registered = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    wildcards = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    names = sorted(fnmatch.filter(registered, wildcards))
    if not names:
        close = difflib.get_close_matches(pattern, registered, n=3, cutoff=0.4)
        raise ValueError(
            f"no registered task or mixture matches {pattern!r}. "
            + (f"Did you mean: {', '.join(close)}? " if close else "")
            + "For your own tasks, set MIXTURE_OR_TASK_MODULE to the module that registers them."
        )
    return [_entry(seqio.get_mixture_or_task(name)) for name in names]


def _entry(provider) -> Entry:
    import seqio

    tasks = seqio.get_subtasks(provider)
    is_mixture = isinstance(provider, seqio.Mixture)
    metrics = [_name(metric) for task in tasks for metric in task.metric_fns]
    splits = {split for task in tasks for split in _splits(task)}
    return Entry(
        name=provider.name,
        kind=f"mixture of {len(tasks)}" if is_mixture else "task",
        splits=sorted(splits, key=lambda split: (_rank(split), split)),
        metrics=list(dict.fromkeys(metrics)),
    )


def _splits(task) -> Sequence[str]:
    """Returns no splits if a task takes them from TFDS, which has not prepared the data."""
    try:
        return task.splits
    except ValueError:
        return ()


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def _name(function) -> str:
    """Returns the name of a function, of a partial's function, or of its argument `metric`."""
    if not isinstance(function, functools.partial):
        return function.__name__
    return _name(function.keywords.get("metric", function.func))
