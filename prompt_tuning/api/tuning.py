"""Tunes a prompt on examples in memory."""

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from etils import epath

from prompt_tuning import annotations, texts
from prompt_tuning.api import arguments
from prompt_tuning.api import model as model_lib
from prompt_tuning.api import prompt as prompt_lib
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.data import pipeline, vocabularies
from prompt_tuning.data.batches import batching
from prompt_tuning.data.files import fingerprints
from prompt_tuning.data.text import labels
from prompt_tuning.data.tokenizers import vocabulary_checks
from prompt_tuning.methods import initializers
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.training import example_trainer, nan_guard, state
from prompt_tuning.training import settings as settings_lib

# Where a checkpoint does not say its step: those of public T5s are 1,000,000 to 1,100,000.
STEP_OF_PUBLIC_MODELS = 1_000_000

Example = tuple[str, str] | Mapping[str, str]
# What `tune` calls macros.
NAMES = {
    **arguments.MODEL_NAMES,
    "PROMPT_FILE": "initial_prompt",
    "PROMPT_LENGTH": "length",
    "RANDOM_SEED": "seed",
    "TRAINABLE": "trainable parameters",
    "TRAIN_STEPS": "start_step + steps",
    "TRAIN_STEPS_RELATIVE": "steps",
    "the same command": "the same call",
    "or set NAN_TOLERANCE (now 0) to the number of consecutive steps to skip": "or the model",
}


@arguments.checked(NAMES)
def tune(
    model: Annotated[model_lib.Model, annotations.Example("pt.load_model({value})")],
    examples: Iterable[Example] | Mapping[str, Iterable[str]],
    *,
    length: annotations.PositiveInt = 20,
    steps: annotations.PositiveInt = 600,
    batch_size: annotations.PositiveInt = 32,
    learning_rate: annotations.PositiveFloat = 0.3,
    class_labels: Iterable[str] | None = None,
    initial_prompt: Annotated[
        prompt_lib.Prompt | None, annotations.Example("pt.load_prompt({value})")
    ] = None,
    task_feature_lengths: annotations.FeatureLengths | None = None,
    dropout_rate: annotations.Fraction = 0.1,
    start_step: annotations.NonNegativeInt | None = None,
    seed: annotations.Seed = 0,
    model_dir: epath.PathLike | None = None,
    allow_empty_targets: bool = False,
    allow_changed_settings: bool = False,
) -> prompt_lib.Prompt:
    """Tunes a prompt as the paper does; the model stays as it is.

    A terminal shows a progress bar; elsewhere nothing is shown.

    Args:
      model: what the prompt is for.
      examples: pairs (input, target) or mappings with "inputs" and "targets", in any iterable, such
        as zip(table["text"], table["label"]); or a table with the columns "inputs" and "targets": a
        mapping of columns, or one of pandas or pyarrow. In each epoch they come in another order.
      length: P, soft tokens of the prompt.
      steps: of training.
      batch_size: examples of a step, which share rows.
      learning_rate: of Adafactor, constant.
      class_labels: texts whose embeddings the prompt starts from, such as the targets; its other
        rows are drawn from the token embedding, as all are for None.
      initial_prompt: to start from, in place of `length` and `class_labels`.
      task_feature_lengths: {"inputs", "targets"}, the tokens kept of an example; None for all.
      dropout_rate: of the frozen model while the prompt is trained.
      start_step: that the optimizer counts from; None for the checkpoint's step, or 1,000,000
        where it does not say.
      seed: of order, dropout and the prompt's start.
      model_dir: where the run is kept, with its metrics; the same call resumes a run that is
        there, and `steps` may be more. None for a temporary folder.
      allow_empty_targets: whether an example may have a blank target, which trains the model to
        predict an empty text.
      allow_changed_settings: resumes the run in `model_dir` even where its examples or other
        arguments were others.

    Raises:
      TypeError: an argument of another type, or an input or target that is not a `str`.
      ValueError: no example, one without target, or a setting that does not fit; or `model_dir`
        holds a run with other examples or arguments.
      KeyboardInterrupt: after Ctrl-C; a warning says where the run is kept.
    """
    inputs, targets = _columns(examples)
    if not allow_empty_targets:
        _check_targets(targets)
    dataset = pipeline.DatasetConfig(
        None, task_feature_lengths, "train", batch_size, seed=seed, pack=True
    )
    base = model.loaded
    method: base.Method = prompt_method.Prompt(length)
    if class_labels is not None:
        class_labels = texts.to_strings("class_labels", class_labels)
    start: state.PromptInitializer = initializers.ClassLabels(class_labels)
    if initial_prompt is not None:
        method = prompt_lib.as_method([initial_prompt])
        start = prompt_lib.as_initializer([initial_prompt], base.digest)
    config = dataclasses.replace(base.model.config, dropout_rate=dropout_rate)
    network = dataclasses.replace(base.model, config=config, method=method)
    if start_step is None:
        start_step = STEP_OF_PUBLIC_MODELS if base.step is None else base.step
    base = dataclasses.replace(base, model=network, step=start_step)
    label_counts = labels.find_labels(targets)
    labels.check_labels(label_counts, model.vocabulary, "examples: targets", labels.PYTHON_FIX)
    pairs = zip(inputs, targets, strict=True)
    tokenized = [vocabularies.tokenize_pair(*pair, model.vocabulary) for pair in pairs]
    for name, column in (("inputs", inputs), ("targets", () if label_counts else targets)):
        ids = [example[name] for example in tokenized if column]
        vocabulary_checks.check_unknown(
            f"examples: {name}", column, ids, model.vocabulary, training=True
        )
    settings = _settings(
        tokenized,
        initial_prompt,
        length=length,
        class_labels=class_labels,
        batch_size=batch_size,
        learning_rate=learning_rate,
        task_feature_lengths=task_feature_lengths,
        dropout_rate=dropout_rate,
        start_step=start_step,
        seed=seed,
        weights_dtype=config.weights_dtype,
    )
    with _folder(model_dir) as folder:
        file = example_trainer.train(
            state.with_adapter(base, start, seed),
            tokenized,
            dataset,
            labels=tuple(label_counts),
            steps=steps,
            learning_rate=learning_rate,
            model_dir=folder,
            settings=settings,
            allow_changed_settings=allow_changed_settings,
        )
        return prompt_lib.Prompt(prompt_files.load(file), prompt_files.read_card(file))


def _settings(
    examples: Sequence[batching.Example], initial_prompt: prompt_lib.Prompt | None, **values: Any
) -> settings_lib.Settings:
    """What a run in `model_dir` is compared by: the arguments of `tune`, and the examples' ids."""
    values["examples"] = f"{len(examples)} examples"
    contents = {"examples": fingerprints.of_examples(examples, len(examples))}
    if initial_prompt is not None:
        values |= {"initial_prompt": repr(initial_prompt), "length": None, "class_labels": None}
        arrays = {"table": initial_prompt.table, "place": repr(initial_prompt.place)}
        contents["initial_prompt"] = fingerprints.of_arrays(arrays)
    return settings_lib.Settings(values, contents)


@contextlib.contextmanager
def _folder(model_dir: epath.PathLike | None) -> Iterator[epath.PathLike]:
    """Yields the folder of a run: `model_dir`, or a temporary one that is removed at the end.

    It is kept after Ctrl-C and after a non-finite loss, whose messages name files in it.
    """
    if model_dir is not None:
        yield model_dir
        return
    folder = tempfile.mkdtemp(prefix="prompt_tuning_")
    try:
        yield folder
    except Exception:
        if not nan_guard.saved_batches(folder):
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _columns(examples: Any) -> tuple[list[str], list[str]]:
    """Inputs and targets of examples. Raises TypeError or ValueError where one is no example."""
    if isinstance(examples, Mapping) or hasattr(examples, "columns"):
        return _columns_of_table(examples)
    inputs, targets = [], []
    for number, example in enumerate(texts.iterate("examples", examples, "(input, target) pairs")):
        name = f"examples[{number}]"
        pair = _pair(name, example)
        texts.check_text(f"input of {name}", pair[0])
        texts.check_text(f"target of {name}", pair[1])
        inputs.append(str(pair[0]))
        targets.append(str(pair[1]))
    return inputs, targets


def _columns_of_table(table: Any) -> tuple[list[str], list[str]]:
    """The columns "inputs" and "targets" of a mapping, or of a pandas or pyarrow table."""
    names = list(map(str, table if isinstance(table, Mapping) else texts.column_names(table)))
    if missing := {"inputs", "targets"} - set(names):
        raise ValueError(
            f'examples has the columns {names}, without {sorted(missing)}; expected "inputs" and '
            '"targets". Rename the columns, or pass examples=zip(<inputs>, <targets>)'
        )
    inputs = texts.to_strings('examples["inputs"]', table["inputs"])
    targets = texts.to_strings('examples["targets"]', table["targets"])
    if len(inputs) != len(targets):
        raise ValueError(
            f"examples has {len(inputs)} inputs and {len(targets)} targets; expected one target "
            "for each input. Pass lists of equal length."
        )
    return inputs, targets


def _pair(name: str, example: Any) -> list[Any]:
    """(input, target) of an example; scalars of pyarrow as Python's values."""
    example = texts.to_python(example)
    if isinstance(example, Mapping):
        if missing := {"inputs", "targets"} - example.keys():
            raise ValueError(
                f'{name} has the keys {list(example)}, without {sorted(missing)}; expected "inputs" '
                'and "targets". Rename the keys, or pass pairs (input, target)'
            )
        return [texts.to_python(example[key]) for key in ("inputs", "targets")]
    pair = [] if isinstance(example, str | bytes) or not isinstance(example, Iterable) else example
    if len(pair := list(map(texts.to_python, pair))) != 2:
        raise annotations.WrongTypeError(
            f"{name}={annotations.show(example)}; expected a pair (input, target), or a mapping with "
            '"inputs" and "targets". Pass examples=zip(<inputs>, <targets>)'
        )
    return pair


def _check_targets(targets: Sequence[str]) -> None:
    """Raises ValueError where a target is blank."""
    blank = [number for number, target in enumerate(targets) if not target.strip()]
    if blank:
        raise ValueError(
            f"{len(blank)} of {len(targets)} examples have an empty target, the first of them "
            f"examples[{blank[0]}]; expected a text to predict in each. Remove these examples, or "
            "pass allow_empty_targets=True, which trains the model to predict an empty text."
        )
