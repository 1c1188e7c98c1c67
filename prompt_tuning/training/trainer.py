"""`prompt-tuning train`: trains from settings to results; a run is its TrainState, base and settings."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import atomic, base_model
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.data import evaluation_task, pipeline, sources, vocabularies
from prompt_tuning.data.files import fingerprints
from prompt_tuning.data.text import labels as labels_lib
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import evaluator as evaluator_lib
from prompt_tuning.inference import exporter, majority, predictor_config
from prompt_tuning.inference import predictor as predictor_lib
from prompt_tuning.models import decoder_only_model
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import (
    background,
    counts,
    loop,
    optimizers,
    reporting,
    stack,
    state,
    writer_lock,
)
from prompt_tuning.training import run as run_lib
from prompt_tuning.training import seeds as seeds_lib
from prompt_tuning.training import settings as settings_lib
from prompt_tuning.training import step as step_lib


def train(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str | None,
    prompt_initializer: state.PromptInitializer | None,
    train_dataset: pipeline.DatasetConfig,
    eval_dataset: pipeline.DatasetConfig | None,
    trainable: Sequence[str],
    optimizer: run_lib.OptimizerFactory,
    model_dir: str,
    schedule: run_lib.TrainConfig,
    learning_rate: optimizers.Schedule | None = None,
    eval_examples: int | None = None,
    written_examples: int | None = None,
    eval_steps: int = 0,
    num_partitions: int | None = 1,
    num_microbatches: int | None = 1,
    seed: int | Sequence[int] = 0,
    allow_changed_settings: bool = False,
    config_text: str = "",
) -> dict[str, Any] | list[dict[str, Any]]:
    """`prompt-tuning train`: tunes what `trainable` names and leaves the rest as it is.

    Args:
      model: network with its prompt, loss and decoder.
      vocabulary: of the model.
      checkpoint: INITIAL_CHECKPOINT_PATH; None for random weights (pre-training).
      prompt_initializer: how the prompt starts.
      train_dataset: what to learn from.
      eval_dataset: what to evaluate on every EVAL_PERIOD, before the first and after the
        last step; None for nothing.
      trainable: TRAINABLE, patterns of parameter paths.
      optimizer: called with start_step=.
      model_dir: MODEL_DIR. A run that is there is resumed, if it has the same settings. Runs of
        several seeds lie in seed_<seed> each. Another process that trains there is an error.
      schedule: how long, how often.
      learning_rate: the optimizer's, of the absolute step, to be told beside the loss.
      eval_examples: examples of each task to evaluate; None for all.
      written_examples: answers to write at each evaluation; None for all.
      eval_steps: batches of each task whose loss is told at each evaluation.
      num_partitions: devices that share one copy of the weights; None for 1.
      num_microbatches: parts of a batch that are computed one after the other; None for 1.
      seed: RANDOM_SEED, of dropout, data order and initialisation. Of several, a prompt is tuned
        with each, all together: each as it would be alone, up to rounding.
      allow_changed_settings: ALLOW_CHANGED_SETTINGS, resumes a run that has other settings.
      config_text: the settings, written to MODEL_DIR/config.gin, and compared with those of a run
        that is there.

    Returns:
      {"step", "metrics", "best", "trained", "prompt_file", "model"}: "trained" counts numbers, and
      the last two are where there is such. Of several seeds a list of these.
    """
    # What can be wrong with the settings is looked at before the weights are read.
    reporting.check_folder(model_dir, "MODEL_DIR")
    folders = seeds_lib.folders(seed, model_dir)
    seeds = [*folders]
    params_lib.check_trainable(trainable)
    counts.check("EVAL_STEPS", eval_steps, 0)
    counts.check("EVALUATOR_NUM_EXAMPLES", eval_examples, 1, none="all")
    counts.check("JSON_WRITE_N_RESULTS", written_examples, 0, none="all")
    num_microbatches = 1 if num_microbatches is None else num_microbatches
    mesh = partitioning.make_mesh(num_partitions)
    step_lib.check_batch(train_dataset.batch_size, num_microbatches, mesh)
    rows = num_microbatches * mesh.shape[partitioning.DATA]
    _check_loss(model, train_dataset.pack)
    eval_size = 0 if eval_dataset is None else eval_dataset.batch_size
    partitioning.check_batch_size(eval_size, mesh)
    schedule = schedule.settled(0 if checkpoint is None else base_model.read_step(checkpoint))
    _tell_rate(learning_rate, schedule)
    files = settings_lib.data_files(train_dataset, eval_dataset)
    with fingerprints.unchanged(files):
        settings = settings_lib.read(
            config_text, settings_lib.FREE, files, vocabulary, prompt_initializer, model
        ).with_values(START_STEP=schedule.start_step)
        if not allow_changed_settings:
            for own, folder in folders.items():
                settings_lib.check_folder(folder, settings.with_values(RANDOM_SEED=own))
        loading = background.Background(
            functools.partial(
                state.load_model,
                model,
                vocabulary,
                checkpoint=checkpoint,
                prompt_initializer=prompt_initializer,
                num_partitions=num_partitions,
                seed=seeds[0],
            )
        )
        soft = state.soft_tokens(model, vocabulary)
        train_dataset = dataclasses.replace(train_dataset, seed=seeds[0])
        batches = pipeline.TrainBatches(train_dataset, vocabulary, soft, rows)
        if eval_dataset is not None:
            eval_dataset = dataclasses.replace(eval_dataset, seed=seeds[0])
        tasks = evaluated(
            eval_dataset,
            vocabulary,
            eval_examples,
            known_labels={None: tuple(batches.labels)},
            **predictor_config.ranking_settings(model),
        )
        majority.warn_of_single_label(tasks)
        _check_labels(batches.labels, train_dataset, tasks, model, vocabulary)
    loaded = loading.result()
    predictor = predictor_lib.Predictor(loaded, seeds[0])
    if train_dataset.name is not None:
        settings = settings.with_tasks(batches.digests, tasks)

    def training(own: int, folder: epath.PathLike) -> Training:
        start = loaded
        if own != seeds[0]:
            start = state.with_added(loaded, prompt_initializer, own)
        run = run_lib.Run(
            start,
            schedule,
            folder,
            trainable=trainable,
            optimizer=optimizer,
            task=batches.name,
            labels=tuple(batches.labels),
            settings=settings.with_values(RANDOM_SEED=own),
            allow_changed_settings=allow_changed_settings,
        )
        run.resume()
        _check_trained(run, vocabulary, several=not isinstance(seed, int))
        if not run.is_complete:
            reporting.start_folder(folder, config_text, "MODEL_DIR", run.step)
        info = reporting.model_info(run.state.trainable, loaded.params)
        reporting.write_text(run.model_dir / "model-info.txt", info)
        evaluator = evaluator_lib.Evaluator(
            predictor.with_seed(own),
            tasks,
            eval_size,
            run.model_dir / "inference_eval",
            # What is evaluated anew is told anew.
            after_step=run.step - run.needs_eval,
            written_examples=written_examples,
            losses=(run.model_dir / "training_eval", eval_steps),
        )
        return Training(run, batches.with_seed(own), evaluator, own)

    with writer_lock.hold(model_dir), run_lib.failing([*folders.values()]):
        trainings = [training(*each) for each in folders.items()]
        with partitioning.use(loaded.mesh), contextlib.ExitStack() as logs:
            for each in trainings:
                logs.enter_context(each.evaluator)
            _train(trainings, num_microbatches, learning_rate)
        for each in trainings:
            folder, first = each.run.model_dir / "inference_eval", each.run.first_step
            majority.warn_of_majority(tasks, folder, after_step=first)
        results = [_finish(each.run) for each in trainings]
    return results[0] if isinstance(seed, int) else results


class Training(NamedTuple):
    """A run, or a stack of several, with what it is trained and evaluated with."""

    run: run_lib.Run | stack.Stack
    batches: pipeline.Batches | stack.Batches
    evaluator: evaluator_lib.Evaluator | stack.Evaluator
    seed: int | tuple[int, ...]


def _check_trained(run: run_lib.Run, vocabulary: vocabularies.Vocabulary, *, several: bool) -> None:
    """Raises ValueError where weights are trained that could not be exported."""
    _tell_export(run)
    if not run.trains_weights:
        return
    if several:
        raise ValueError(
            "RANDOM_SEED has several seeds, whose runs share the weights, but TRAINABLE includes "
            "weights. Set a single RANDOM_SEED, or TRAINABLE to the prompt."
        )
    if not _is_decoder_only(run.loaded.model):
        huggingface.check_vocabulary(vocabulary.path)


def _train(
    trainings: Sequence[Training],
    num_microbatches: int,
    learning_rate: optimizers.Schedule | None,
) -> None:
    """Takes all to the end; those that were stopped before others, or in an evaluation, catch up first."""
    run = trainings[0].run
    settings = run.loaded.model, run.optimizer
    where = [jax.tree.map(lambda x: x.sharding, each.run.state) for each in trainings]
    alone = step_lib.make_step(*settings, where[0], num_microbatches)
    if len(trainings) == 1:
        return loop.train_loop(*trainings[0], alone, learning_rate)
    reached = [(each.run.step, each.run.position is not None) for each in trainings]
    for each, own in zip(trainings, reached, strict=True):
        if own < max(reached) or (own[1] and each.run.needs_eval):
            loop.train_loop(*each, alone, learning_rate, until=max(reached)[0])
    runs, batches, evaluators, seeds = zip(*trainings, strict=True)
    together = Training(
        stack.Stack(runs, run.model_dir.parent),
        stack.Batches(batches),
        stack.Evaluator({r.model_dir.name: e for r, e in zip(runs, evaluators, strict=True)}),
        seeds,
    )
    step: step_lib.Step = step_lib.ThreadedStep(alone, run.loaded.mesh)
    if jax.default_backend() != "cpu":
        step = step_lib.make_stacked_step(*settings, where, num_microbatches)
    return loop.train_loop(*together, step, learning_rate)


def evaluated(
    dataset: pipeline.DatasetConfig | None,
    vocabulary: vocabularies.Vocabulary,
    limit: int | None = None,
    **settings: Any,
) -> list[evaluation_task.EvaluationTask]:
    """What is evaluated while training: nothing where no task has the split, as in T5X.

    See `pipeline.evaluation_tasks`.
    """
    if dataset is None:
        return []
    try:
        return pipeline.evaluation_tasks(dataset, vocabulary, limit, **settings)
    except sources.NoSplitError as error:
        logging.warning("Training without evaluation: %s", error)
        return []


def _check_labels(
    labels: Iterable[str],
    dataset: pipeline.DatasetConfig,
    tasks: Sequence[evaluation_task.EvaluationTask],
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
) -> None:
    """Compares the labels of the training data with LABELS and with those of the tasks.

    Raises:
      ValueError: LABEL_LOSS cannot score a label of the training data.
    """
    listed = set(() if model.label_loss is None else model.label_loss.labels)
    of_labels = {label: (*vocabulary.encode(label), vocabularies.EOS_ID) for label in labels}
    unlisted = [label for label, ids in of_labels.items() if listed and ids not in listed]
    if unlisted:
        raise ValueError(
            f"{dataset.file or 'the training data'} has labels that are not in LABELS: "
            f"{labels_lib.join_labels(unlisted)}; expected every target in LABELS, because "
            "LABEL_LOSS scores only these. Add them to LABELS, or correct the targets."
        )
    if dataset.file:  # Of other tasks only a sample is read.
        for task in tasks:
            task.warn_of_unlisted_labels(labels, dataset.file, "the prompt does not learn them")


def _tell_rate(learning_rate: optimizers.Schedule | None, schedule: run_lib.TrainConfig) -> None:
    """Warns where the schedule is over before the run starts."""
    first, last = schedule.start_step or 0, schedule.train_steps - 1
    steps = jnp.asarray([first, (first + last) // 2, last])
    if learning_rate is not None and jnp.all(learning_rate(steps) <= optimizers.LEAST_RATE):
        logging.warning(
            "The learning rate is %g from step %d to %d, so the prompt does not change: "
            "LEARNING_RATE_FACTORS count from STEP_OFFSET (default 0). Set STEP_OFFSET=%d.",
            learning_rate(steps[0]), first, last, first,
        )  # fmt: skip


def _tell_export(run: run_lib.Run) -> None:
    """Warns where what is trained together is kept apart."""
    if run.trains_weights and run.loaded.model.adapter_paths:
        logging.warning(
            "TRAINABLE includes weights, and the model also has %s: model_<step> is exported "
            "without these, and needs PROMPT_FILE. Set PROMPT=None to tune only the weights.",
            ", ".join(sorted(run.loaded.model.adapter_paths)),
        )


def _check_loss(model: model_lib.EncoderDecoderModel, pack: bool) -> None:
    if pack and model.label_loss is not None:
        raise ValueError(
            "PACK=True does not work with LABEL_LOSS, which needs one example per row. Set "
            "PACK=False, or include optimizers/perceptron.gin after runs/train.gin."
        )
    if pack and model.loss_normalizing_factor == "NUM_TOTAL_TARGET_TOKENS":
        raise ValueError(
            "LOSS_NORMALIZING_FACTOR='NUM_TOTAL_TARGET_TOKENS' counts padding tokens, of which "
            "packed rows have few. Set PACK=False, or 'NUM_REAL_TARGET_TOKENS'."
        )


def _finish(run: run_lib.Run) -> dict[str, Any]:
    """Exports weights that were trained beside the prompt, and says where everything lies."""
    trained = params_lib.count(run.state.trainable)
    result = {"step": run.step, "metrics": run.metrics, "best": run.best.metric, "trained": trained}
    if text := run.best.describe():
        logging.warning("%s: %s", run.model_dir, text)
    if run.loaded.model.adapter_paths:
        result["prompt_file"] = str(run.prompt_file(f"prompt_{run.step}"))
        logging.info("Last prompt: %s", result["prompt_file"])
        if run.best.step is not None:
            logging.info("Best prompt: %s (step %d)", run.prompt_file("best"), run.best.step)
    if run.trains_weights:
        result["model"] = _export(run)
        logging.info("Model: %s", result["model"])
    return result


def _is_decoder_only(model: model_lib.EncoderDecoderModel) -> bool:
    return isinstance(model, decoder_only_model.DecoderOnlyModel)


def _export(run: run_lib.Run) -> str:
    """Exports the weights without the prompt: for Hugging Face, or for T5X if that has no such model.

    The first process writes them; all gather them and wait for it.
    """
    target, model = run.model_dir / f"model_{run.step}", run.loaded.model
    params = params_lib.flatten(partitioning.to_host(run.params()))
    base = {path: x for path, x in params.items() if path not in model.adapter_paths}
    export_format = exporter.HUGGING_FACE
    if _is_decoder_only(model):
        export_format, target = exporter.T5X, target / f"checkpoint_{run.step}"
    if atomic.is_writer() and target.exists():
        _check_export(target, base, run)
    elif atomic.is_writer():
        exporter.write(
            target,
            base,
            model,
            run.loaded.vocabulary,
            export_format=export_format,
            step=run.step,
            dtype="float32",
        )
    atomic.wait_for_writer(f"export {target}")
    return str(target)


def _check_export(target: epath.Path, weights: Mapping[str, np.ndarray], run: run_lib.Run) -> None:
    """Raises ValueError where a folder of this name holds other weights than those of the run."""
    shapes = {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in weights.items()}
    exported = params_lib.flatten(base_model.load(target, params_lib.unflatten(shapes))[0])
    if any(not np.array_equal(exported[path], x) for path, x in weights.items()):
        raise ValueError(
            f"{target} exists with other weights than the run at step {run.step}; expected a new "
            "folder, or the export of this run. Remove it and start the same command again."
        )
