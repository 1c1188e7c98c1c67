"""Puts tasks into seqio's registry, once however often a module is imported."""

import functools
from collections.abc import Callable, Sequence

import seqio

from prompt_tuning.data import pipeline, seqio_tasks, vocabularies
from prompt_tuning.data.text import metrics, postprocessors


def add_task(
    name: str,
    source: seqio.DataSource,
    text_steps: Sequence[Callable],
    *,
    postprocess_fn: Callable = postprocessors.strip,
    metric_fns: Sequence[Callable] = (),
    token_steps: Sequence[Callable] = (),
    samples_name: str | None = None,
    wrong_samples: bool = True,
) -> None:
    """Registers a task of text: its steps, tokens and steps on them, room for a cache, and EOS.

    Args:
      name: of the task.
      source: of its examples.
      text_steps: make "inputs" and "targets" of what the source gives, as text.
      postprocess_fn: of an answer's text; see seqio.
      metric_fns: of what it returns.
      token_steps: on the tokens.
      samples_name: what samples of answers are shown under; None to show none.
      wrong_samples: whether those that differ from the target are shown apart.
    """
    if name in seqio.TaskRegistry.names():
        return
    if samples_name:
        postprocess_fn = functools.partial(postprocessors.with_text, postprocess=postprocess_fn)
        metric_fns = [
            *(functools.partial(metrics.of_prediction, metric=metric) for metric in metric_fns),
            functools.partial(samples, task=samples_name, wrong_too=wrong_samples),
        ]
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            *text_steps,
            seqio.preprocessors.tokenize,
            *token_steps,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=seqio_tasks.text_features(),
        postprocess_fn=postprocess_fn,
        metric_fns=list(metric_fns),
    )


def samples(targets, predictions, task: str, wrong_too: bool) -> dict[str, seqio.metrics.Text]:
    """`metrics.samples` as seqio's text: its own evaluator takes other values for numbers."""
    texts = metrics.samples(targets, predictions, task=task, wrong_too=wrong_too)
    return {name: seqio.metrics.Text(text) for name, text in texts.items()}


def add_pretraining_task(
    name: str, source: seqio.DataSource, token_steps: Sequence[Callable]
) -> None:
    """Registers a task of running text: "text" of the source as tokens, then its steps, then EOS.

    Args:
      name: of the task.
      source: of {"text": a document}.
      token_steps: make "inputs" and "targets" of documents {"targets": int32[N]}.
    """
    if name in seqio.TaskRegistry.names():
        return
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            functools.partial(seqio.preprocessors.rekey, key_map={"targets": "text"}),
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
            seqio.CacheDatasetPlaceholder(),
            *token_steps,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=seqio_tasks.text_features(),
    )


def add_read_with(vocabulary: vocabularies.Vocabulary, source: pipeline.Source, split: str) -> str:
    """Registers a source's task or mixture as read with `vocabulary`; returns its name.

    For programs that find a task by its name. One of that name is replaced: a registered task
    has no vocabulary before a model reads it.

    Raises:
      ValueError: as the source, or a task insists on another vocabulary.
    """
    provider = source.open(vocabulary, split)
    name = provider.name
    tasks = {
        t.name: seqio_tasks.use_vocabulary(t, vocabulary) for t in seqio.get_subtasks(provider)
    }
    if isinstance(provider, seqio.Mixture):
        rated = [(tasks[t.name], provider.get_rate(t)) for t in seqio.get_subtasks(provider)]
        mixture = seqio.Mixture(name, rated, sample_fn=provider._sample_fn)
        _replace(seqio.MixtureRegistry, mixture)
    elif _is_of_another_split(provider, split):
        name = f"{name}_{split}"
        tasks = {name: tasks[provider.name].replace(name=name)}
    for task in tasks.values():
        _replace(seqio.TaskRegistry, task)
    return name


def _is_of_another_split(task: seqio.Task, split: str) -> bool:
    """Whether a file of this name is registered as another split: train/data.tsv, dev/data.tsv."""
    if task.name not in seqio.TaskRegistry.names():
        return False
    registered = seqio.TaskRegistry.get(task.name)
    return registered is not task and split not in registered.splits


def _replace(registry: type, provider: seqio.Task | seqio.Mixture) -> None:
    if provider.name in registry.names():
        registry.remove(provider.name)
    registry.add_provider(provider.name, provider)
