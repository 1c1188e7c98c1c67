"""Tunes a prompt on examples in memory."""

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.api import model as model_lib
from prompt_tuning.api import prompt as prompt_lib
from prompt_tuning.data import epochs, labels, pipeline, vocabulary_checks
from prompt_tuning.prompts import initializers, module
from prompt_tuning.runtime import counts, nan_guard, state, tuner

# Where a checkpoint does not say its step: those of public T5s are 1,000,000 to 1,100,000.
STEP_OF_PUBLIC_MODELS = 1_000_000

Example = tuple[str, str] | Mapping[str, str]


def tune(
    model: model_lib.Model,
    examples: Iterable[Example],
    *,
    length: int = 20,
    steps: int = 600,
    batch_size: int = 32,
    learning_rate: float = 0.3,
    class_labels: Sequence[str] = (),
    initial_prompt: prompt_lib.Prompt | None = None,
    task_feature_lengths: Mapping[str, int] | None = None,
    dropout_rate: float = 0.1,
    start_step: int | None = None,
    seed: int = 0,
    model_dir: epath.PathLike | None = None,
) -> prompt_lib.Prompt:
    """Tunes a prompt as the paper does; the model stays as it is.

    A terminal shows a progress bar; elsewhere nothing is shown.

    Args:
      model: what the prompt is for.
      examples: pairs (input, target), or mappings with "inputs" and "targets"; in each epoch they
        come in another order.
      length: P, soft tokens of the prompt.
      steps: of training.
      batch_size: examples of a step, which share rows.
      learning_rate: of Adafactor, constant.
      class_labels: texts whose embeddings the prompt starts from, such as the targets; its other
        rows are drawn from the token embedding.
      initial_prompt: to start from, in place of `length` and `class_labels`.
      task_feature_lengths: {"inputs", "targets"}, the tokens kept of an example; None for all.
      dropout_rate: of the frozen model while the prompt is trained.
      start_step: that the optimizer counts from; None for the checkpoint's step, or 1,000,000
        where it does not say.
      seed: of order, dropout and the prompt's start.
      model_dir: where the run is kept, with its metrics; the same call goes on with a run that is
        there. None for a temporary folder.

    Raises:
      ValueError: no example, one of another kind, or a setting that does not fit.
      KeyboardInterrupt: after Ctrl-C; a warning says where the run is kept.
    """
    counts.check("steps", steps, 1)
    inputs, targets = _columns(examples)
    dataset = pipeline.DatasetConfig(
        None, task_feature_lengths, "train", batch_size, seed=seed, pack=True
    )
    base = model.loaded
    prompt: module.Prompt | None = module.Prompt(length)
    start: state.Start = initializers.ClassLabels(class_labels)
    if initial_prompt is not None:
        prompt = prompt_lib.as_module([initial_prompt])
        start = prompt_lib.as_initializer([initial_prompt], base.digest)
    config = dataclasses.replace(base.model.config, dropout_rate=dropout_rate)
    network = dataclasses.replace(base.model, config=config, prompt=prompt)
    if start_step is None:
        start_step = STEP_OF_PUBLIC_MODELS if base.step is None else base.step
    base = dataclasses.replace(base, model=network, step=start_step)
    found = labels.find_labels(targets)
    labels.check_labels(found, model.vocabulary, "examples: targets", labels.PYTHON_FIX)
    tokenized = epochs.tokenized(inputs, targets, model.vocabulary)
    for name, texts in (("inputs", inputs), ("targets", () if found else targets)):
        ids = [example[name] for example in tokenized if texts]
        vocabulary_checks.check_unknown(
            f"examples: {name}", texts, ids, model.vocabulary, training=True
        )
    with _folder(model_dir) as folder:
        file = tuner.tune(
            state.with_added(base, start, seed),
            tokenized,
            dataset,
            labels=tuple(found),
            steps=steps,
            learning_rate=learning_rate,
            model_dir=folder,
        )
        return prompt_lib.load_prompt(file)


@contextlib.contextmanager
def _folder(model_dir: epath.PathLike | None) -> Iterator[epath.PathLike]:
    """A folder for a run; where none is given one that is gone afterwards.

    Not after Ctrl-C, and not where a loss was no number: a message names what is in it.
    """
    if model_dir is not None:
        yield model_dir
        return
    folder = tempfile.mkdtemp(prefix="prompt_tuning_")
    try:
        yield folder
    except Exception:
        if not nan_guard.kept(folder):
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _columns(examples: Iterable[Example]) -> tuple[list[str], list[str]]:
    """Inputs and targets of examples. Raises ValueError where one is no example."""
    inputs, targets = [], []
    for number, example in enumerate(examples):
        pair: Any = example
        if isinstance(example, Mapping):
            pair = example.get("inputs"), example.get("targets")
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise ValueError(
                f"examples[{number}] is {example!r:.80}; expected a pair of strings (input, target), or "
                'a mapping with "inputs" and "targets"'
            )
        inputs.append(pair[0])
        targets.append(pair[1])
    return inputs, targets
