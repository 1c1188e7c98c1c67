"""Puts tasks and mixtures into seqio's registry, once however often a module is imported."""

import functools
from collections.abc import Callable, Sequence

import seqio

from prompt_tuning.data import features, postprocessors


def add_task(
    name: str,
    source: seqio.DataSource,
    text_steps: Sequence[Callable],
    *,
    postprocess_fn: Callable = postprocessors.strip,
    metric_fns: Sequence[Callable] = (),
) -> None:
    """Registers a task of text: its steps, then tokens, a place for seqio's cache, and EOS.

    Args:
      name: of the task.
      source: of its examples.
      text_steps: make "inputs" and "targets" of what the source gives, as text.
      postprocess_fn: of an answer's text; see seqio.
      metric_fns: of what it returns.
    """
    if name in seqio.TaskRegistry.names():
        return
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            *text_steps,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=features.features(),
        postprocess_fn=postprocess_fn,
        metric_fns=list(metric_fns),
    )


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
        output_features=features.features(),
    )


def add_mixture(name: str, tasks: Sequence[str], rate: float = 1.0) -> None:
    """Registers a mixture of tasks at equal rates; with splits that they lack they have no part."""
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, list(tasks), default_rate=rate)
