"""The variants that a text task is registered in, under the names of Lester et al.'s code.

NAME              T5's text format, which begins with the task's name
taskless_NAME     without the task's name: the prompt says which task it is
task_index_NAME   that with a sentinel of the task in front, for a prompt of many tasks
..._examples      any of these whose metrics show samples of answers as text
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import seqio

from prompt_tuning.data.tasks import registry
from prompt_tuning.data.text import formats, metrics

PREFIXES = ("", "taskless_", "task_index_")
SUFFIXES = ("", "_examples")


@dataclasses.dataclass(frozen=True)
class TextTask:
    """A task in T5's text format.

    Attributes:
      source: of its examples.
      text_steps: make "inputs", which begin with the task's name, and "targets" of them.
      index: of the task among the tasks that a prompt may serve together.
      postprocess: of text, see `postprocessors`.
      metrics: of what it gives; none where no split has answers.
      samples_name: what samples of answers are shown under.
    """

    source: seqio.DataSource
    text_steps: Sequence[Callable]
    index: int
    postprocess: Callable
    metrics: Sequence[metrics.Metric]
    samples_name: str

    def register(self, name: str) -> None:
        """Registers all variants, each once however often it is asked for."""
        for prefix in PREFIXES:
            for suffix in SUFFIXES:
                self._register(f"{prefix}{name}{suffix}", prefix, bool(suffix))

    def _register(self, name: str, prefix: str, shows_samples: bool) -> None:
        text_steps, token_steps = list(self.text_steps), []
        if prefix:
            text_steps.append(formats.remove_first_text_token)
        if prefix == "task_index_":
            token_steps.append(
                functools.partial(formats.add_sentinel_to_beginning, index=self.index)
            )
        registry.add_task(
            name,
            self.source,
            text_steps,
            postprocess_fn=self.postprocess,
            metric_fns=self.metrics,
            token_steps=token_steps,
            samples_name=self.samples_name if shows_samples else None,
        )


def register_mixture(pattern: str, patterns_of_tasks: Sequence[str]) -> None:
    """Registers the variants of a mixture at equal rates, each of the same variant of its tasks.

    Args:
      pattern: of its name, with {prefix} and {suffix}.
      patterns_of_tasks: of the names of its tasks.
    """
    for prefix in PREFIXES:
        for suffix in SUFFIXES:
            name, *tasks = (
                each.format(prefix=prefix, suffix=suffix) for each in (pattern, *patterns_of_tasks)
            )
            add_mixture(name, tasks, default_rate=1.0)


def add_mixture(name: str, tasks: Sequence, default_rate: float | None = None) -> None:
    """Registers a mixture of tasks or (task, rate) pairs, once."""
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, list(tasks), default_rate=default_rate)
