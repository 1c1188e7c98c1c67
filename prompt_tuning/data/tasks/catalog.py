"""What seqio's registry holds: tasks and mixtures by name, with splits and metrics."""

import dataclasses
import difflib
import fnmatch
import functools
from collections.abc import Sequence

from prompt_tuning.data import sources

# In this order, before any others.
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered task or mixture.

    Attributes:
      name: to be given as MIXTURE_OR_TASK_NAME.
      kind: "task", or "mixture of N" with N tasks.
      splits: of the task, or of any task of the mixture; train first.
      metrics: names of the functions; of any task of the mixture.
    """

    name: str
    kind: str
    splits: Sequence[str]
    metrics: Sequence[str]


def entries(pattern: str = "") -> list[Entry]:
    """The tasks and mixtures whose names match, in the order of the alphabet.

    Args:
      pattern: with *, ? or [ of the whole name, otherwise a part of it.

    Raises:
      ValueError: no name matches; the message has the nearest.
    """
    import seqio

    sources.register_all()
    registered = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    wildcards = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = sorted(fnmatch.filter(registered, wildcards))
    if not names:
        nearest = difflib.get_close_matches(pattern, registered, n=3, cutoff=0.4)
        raise ValueError(
            f"no registered task or mixture matches {pattern!r}. "
            + (f"Did you mean: {', '.join(nearest)}? " if nearest else "")
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
    """None where a task of others leaves it to TFDS, and TFDS has not prepared the data."""
    try:
        return task.splits
    except ValueError:
        return ()


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)


def _name(function) -> str:
    """Of a function, of what functools.partial has of one, or of the metric that it is given."""
    if not isinstance(function, functools.partial):
        return function.__name__
    return _name(function.keywords.get("metric", function.func))
