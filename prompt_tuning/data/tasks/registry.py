"""Registration of tasks in seqio, which is idempotent so that modules can be reloaded."""

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
    show_wrong: bool = True,
) -> None:
    """Registers a text-to-text task, unless the name is already registered.

    Args:
      name: name of the task.
      source: data source.
      text_steps: preprocessors from examples of the source to the texts "inputs" and "targets".
      postprocess_fn: seqio postprocessor of targets and predictions.
      metric_fns: metrics of postprocessed values.
      token_steps: preprocessors of tokens.
      samples_name: name of the samples of predictions that metrics show; None for no samples.
      show_wrong: whether samples of wrong predictions are shown too.
    """
    if samples_name:
        postprocess_fn = functools.partial(postprocessors.with_text, postprocess=postprocess_fn)
        metric_fns = [
            *(functools.partial(metrics.of_prediction, metric=metric) for metric in metric_fns),
            functools.partial(samples, task=samples_name, show_wrong=show_wrong),
        ]
    steps = [
        *text_steps,
        seqio.preprocessors.tokenize,
        *token_steps,
        seqio.CacheDatasetPlaceholder(),
    ]
    _add(name, source, steps, postprocess_fn=postprocess_fn, metric_fns=list(metric_fns))


def _add(name: str, source: seqio.DataSource, steps: Sequence[Callable], **settings) -> None:
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=[*steps, seqio.preprocessors.append_eos_after_trim],
            output_features=seqio_tasks.text_features(),
            **settings,
        )


def samples(targets, predictions, task: str, show_wrong: bool) -> dict[str, seqio.metrics.Text]:
    """Returns `metrics.samples` as seqio's Text; seqio's evaluator expects numbers otherwise."""
    texts = metrics.samples(targets, predictions, task=task, show_wrong=show_wrong)
    return {name: seqio.metrics.Text(text) for name, text in texts.items()}


def add_pretraining_task(
    name: str, source: seqio.DataSource, token_steps: Sequence[Callable]
) -> None:
    """Registers a pre-training task, unless the name is already registered.

    Args:
      name: name of the task.
      source: {"text": document}.
      token_steps: preprocessors from documents {"targets": int32[N]} to "inputs" and "targets".
    """
    to_tokens = [
        functools.partial(seqio.preprocessors.rekey, key_map={"targets": "text"}),
        functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
        seqio.CacheDatasetPlaceholder(),
    ]
    _add(name, source, [*to_tokens, *token_steps])


def add_with_vocabulary(
    vocabulary: vocabularies.Vocabulary, source: pipeline.Source, split: str
) -> str:
    """Registers the task or mixture of a source with the model's vocabulary; returns its name.

    Replaces a registered task of this name, which has no vocabulary until a model reads it. For
    programs that take the name of a task, such as T5X's.

    Raises:
      ValueError: as the source, or a task has another vocabulary.
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
    elif _has_other_split(provider, split):
        name = f"{name}_{split}"
        tasks = {name: tasks[provider.name].replace(name=name)}
    for task in tasks.values():
        _replace(seqio.TaskRegistry, task)
    return name


def _has_other_split(task: seqio.Task, split: str) -> bool:
    """Whether this name is registered for another split, such as train/data.tsv and dev/data.tsv."""
    if task.name not in seqio.TaskRegistry.names():
        return False
    registered = seqio.TaskRegistry.get(task.name)
    return registered is not task and split not in registered.splits


def _replace(registry: type, provider: seqio.Task | seqio.Mixture) -> None:
    if provider.name in registry.names():
        registry.remove(provider.name)
    registry.add_provider(provider.name, provider)
