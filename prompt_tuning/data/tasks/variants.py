"""Variants of a text-to-text task, with the names of Lester et al.'s code.

NAME              T5's text format, which starts with the name of the task
taskless_NAME     the same without the name of the task, which the prompt replaces
task_index_NAME   taskless_NAME after the sentinel of the task, for a multi-task prompt
..._examples      any of these with samples of predictions among the metrics
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import seqio

from prompt_tuning.data.tasks import registry
from prompt_tuning.data.text import formats

PREFIXES = ("", "taskless_", "task_index_")
SUFFIXES = ("", "_examples")


def register_task(
    name: str,
    *,
    source: seqio.DataSource,
    text_steps: Sequence[Callable],
    index: int,
    postprocess: Callable,
    metrics: Sequence[Callable],
    samples_name: str,
) -> None:
    """Registers all variants of a task that are not registered yet.

    Args:
      name: name of the task.
      source: data source.
      text_steps: preprocessors that make "inputs", starting with the task's name, and "targets".
      index: index of the task's sentinel.
      postprocess: seqio postprocessor; see `postprocessors`.
      metrics: metrics of postprocessed values; none if no split has answers.
      samples_name: name of the samples of predictions.
    """
    taskless_steps = [*text_steps, formats.remove_first_text_token]
    add_sentinel = functools.partial(formats.add_sentinel_to_beginning, index=index)
    for prefix, suffix in itertools.product(PREFIXES, SUFFIXES):
        registry.add_task(
            f"{prefix}{name}{suffix}",
            source,
            taskless_steps if prefix else text_steps,
            postprocess_fn=postprocess,
            metric_fns=metrics,
            token_steps=[add_sentinel] if prefix == "task_index_" else [],
            samples_name=samples_name if suffix else None,
        )


def register_mixture(pattern: str, task_patterns: Sequence[str]) -> None:
    """Registers all variants of a mixture with equal rates.

    Args:
      pattern: pattern of the mixture's name, with {prefix} and {suffix}.
      task_patterns: patterns of the names of its tasks.
    """
    for prefix, suffix in itertools.product(PREFIXES, SUFFIXES):
        name, *tasks = (
            text.format(prefix=prefix, suffix=suffix) for text in (pattern, *task_patterns)
        )
        add_mixture(name, tasks, default_rate=1.0)


def add_mixture(name: str, tasks: Sequence, default_rate: float | None = None) -> None:
    """Registers a mixture of tasks or (task, rate) pairs, unless the name is registered."""
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, list(tasks), default_rate=default_rate)
