"""`prompt-tuning train`: checks settings, loads model and data, trains, and exports."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import base_model
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
    multi_seed,
    optimizers,
    reporting,
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
    """`prompt-tuning train`: trains the parameters that `trainable` matches.

    Resumes the run in `model_dir` if there is one. With several seeds, trains one adapter per seed
    together, in the folders seed_<seed>; each result equals that of a single run up to rounding.

    Args:
      model: network with its method, loss and decoder.
      vocabulary: vocabulary of the model.
      checkpoint: INITIAL_CHECKPOINT_PATH; None for random weights (pre-training).
      prompt_initializer: PROMPT_INITIALIZER.
      train_dataset: training data.
      eval_dataset: data to evaluate before the first step and every EVAL_PERIOD; None for none.
      trainable: TRAINABLE, patterns of parameter paths.
      optimizer: called with start_step=.
      model_dir: MODEL_DIR.
      schedule: numbers of steps and periods.
      learning_rate: schedule of the optimizer, for the log.
      eval_examples: EVALUATOR_NUM_EXAMPLES, per task; None for all.
      written_examples: JSON_WRITE_N_RESULTS, predictions per evaluation; None for all.
      eval_steps: EVAL_STEPS, batches per task for the loss on evaluation targets.
      num_partitions: NUM_PARTITIONS, devices per copy of the weights; None for 1.
      num_microbatches: NUM_MICROBATCHES, sequential parts of a batch; None for 1.
      seed: RANDOM_SEED, of dropout, data order and initialization.
      allow_changed_settings: ALLOW_CHANGED_SETTINGS, resumes a run with other settings.
      config_text: gin config, written to config.gin and compared with that of a run.

    Returns:
      {"step", "metrics", "best", "trained", "prompt_file", "model"}: "trained" is the number of
      trainable parameters, and the last two are optional. A list of these for several seeds.
    """
    # Settings are checked before the weights are read.
    reporting.check_folder(model_dir, "MODEL_DIR")
    folders = seeds_lib.folders(seed, model_dir)
    first_seed = next(iter(folders))
    params_lib.check_trainable(trainable)
    counts.validate_int("EVAL_STEPS", eval_steps, 0)
    counts.validate_int("EVALUATOR_NUM_EXAMPLES", eval_examples, 1, none="all")
    counts.validate_int("JSON_WRITE_N_RESULTS", written_examples, 0, none="all")
    num_microbatches = 1 if num_microbatches is None else num_microbatches
    eval_size = 0 if eval_dataset is None else eval_dataset.batch_size
    rows = _check_batches(model, train_dataset, eval_size, num_microbatches, num_partitions)
    schedule = schedule.resolve(0 if checkpoint is None else base_model.read_step(checkpoint))
    _warn_of_zero_learning_rate(learning_rate, schedule)
    files = settings_lib.data_files(train_dataset, eval_dataset)
    with fingerprints.unchanged(files):
        settings = settings_lib.read(
            config_text, settings_lib.FREE, files, vocabulary, prompt_initializer, model
        ).with_values(START_STEP=schedule.start_step)
        if not allow_changed_settings:
            for run_seed, folder in folders.items():
                settings_lib.check_folder(folder, settings.with_values(RANDOM_SEED=run_seed))
        load = functools.partial(
            state.load_model,
            model,
            vocabulary,
            checkpoint=checkpoint,
            prompt_initializer=prompt_initializer,
            num_partitions=num_partitions,
            seed=first_seed,
        )
        loading = background.Background(load)
        datasets = [
            d and dataclasses.replace(d, seed=first_seed) for d in (train_dataset, eval_dataset)
        ]
        batches, tasks = _read_data(model, vocabulary, *datasets, eval_examples, rows)
    loaded = loading.result()
    predictor = predictor_lib.Predictor(loaded, first_seed)
    if train_dataset.name is not None:
        settings = settings.with_tasks(batches.digests, tasks)

    def make_training(run_seed: int, folder: epath.Path) -> Training:
        is_first = run_seed == first_seed
        run = run_lib.Run(
            loaded if is_first else state.with_adapter(loaded, prompt_initializer, run_seed),
            schedule,
            folder,
            trainable=trainable,
            optimizer=optimizer,
            task=batches.name,
            labels=tuple(batches.labels),
            settings=settings.with_values(RANDOM_SEED=run_seed),
            allow_changed_settings=allow_changed_settings,
        )
        _open_run(run, config_text, several=not isinstance(seed, int))
        evaluator = evaluator_lib.Evaluator(
            predictor.with_seed(run_seed),
            tasks,
            eval_size,
            run.model_dir / "inference_eval",
            # A repeated evaluation replaces the lines of the interrupted one.
            after_step=run.step - run.needs_eval,
            written_examples=written_examples,
            losses=(run.model_dir / "training_eval", eval_steps),
        )
        return Training(run, batches.with_seed(run_seed), evaluator, run_seed)

    with writer_lock.hold(model_dir), run_lib.failing([*folders.values()]):
        trainings = [make_training(*item) for item in folders.items()]
        with partitioning.use(loaded.mesh), contextlib.ExitStack() as logs:
            for training in trainings:
                logs.enter_context(training.evaluator)
            _train(trainings, num_microbatches, learning_rate)
        for run in (training.run for training in trainings):
            folder = run.model_dir / "inference_eval"
            majority.warn_of_majority(tasks, folder, after_step=run.first_step)
        results = [_finish(training.run) for training in trainings]
    return results[0] if isinstance(seed, int) else results


def _check_batches(
    model: model_lib.EncoderDecoderModel,
    dataset: pipeline.DatasetConfig,
    eval_size: int,
    num_microbatches: int,
    num_partitions: int | None,
) -> int:
    """Checks the batch settings; returns the number that divides the rows of a batch."""
    mesh = partitioning.make_mesh(num_partitions)
    step_lib.check_batch(dataset.batch_size, num_microbatches, mesh)
    _check_loss(model, dataset.pack)
    partitioning.check_batch_size(eval_size, mesh)
    return num_microbatches * mesh.shape[partitioning.DATA]


def _read_data(
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    train_dataset: pipeline.DatasetConfig,
    eval_dataset: pipeline.DatasetConfig | None,
    eval_examples: int | None,
    rows: int,
) -> tuple[pipeline.TrainBatches, list[evaluation_task.EvaluationTask]]:
    """Opens the training batches and reads the evaluation tasks; compares their labels."""
    soft = state.soft_tokens(model, vocabulary)
    batches = pipeline.TrainBatches(train_dataset, vocabulary, soft, rows)
    tasks = evaluation_tasks(
        eval_dataset,
        vocabulary,
        eval_examples,
        known_labels={None: tuple(batches.labels)},
        **predictor_config.ranking_settings(model),
    )
    majority.warn_of_single_label(tasks)
    _check_labels(batches.labels, train_dataset, tasks, model, vocabulary)
    return batches, tasks


def _open_run(run: run_lib.Run, config_text: str, *, several: bool) -> None:
    """Resumes a run, and writes the first files of its folder."""
    run.resume()
    _check_trained(run, several=several)
    if not run.is_complete:
        reporting.start_folder(run.model_dir, config_text, "MODEL_DIR", run.step)
    info = reporting.model_info(run.state.trainable, run.loaded.params)
    reporting.write_text(run.model_dir / "model-info.txt", info)


class Training(NamedTuple):
    """The arguments of `loop.train_loop`, for one run or for several seeds."""

    run: run_lib.Run | multi_seed.MultiSeedRun
    batches: pipeline.Batches | multi_seed.Batches
    evaluator: evaluator_lib.Evaluator | multi_seed.Evaluator
    seed: int | tuple[int, ...]


def _check_trained(run: run_lib.Run, *, several: bool) -> None:
    """Raises ValueError if weights are trained that cannot be exported."""
    _warn_of_adapter_export(run)
    if not run.trains_weights:
        return
    if several:
        raise ValueError(
            "RANDOM_SEED has several seeds, whose runs share the weights, but TRAINABLE includes "
            "weights. Set a single RANDOM_SEED, or TRAINABLE to the prompt."
        )
    if not isinstance(run.loaded.model, decoder_only_model.DecoderOnlyModel):
        huggingface.check_vocabulary(run.loaded.vocabulary.path)


def _train(
    trainings: Sequence[Training],
    num_microbatches: int,
    learning_rate: optimizers.Schedule | None,
) -> None:
    """Trains all runs to the last step; runs that are behind the others catch up first."""
    run = trainings[0].run
    settings = run.loaded.model, run.optimizer
    shardings = [jax.tree.map(lambda x: x.sharding, member.run.state) for member in trainings]
    single_step = step_lib.make_step(*settings, shardings[0], num_microbatches)
    if len(trainings) == 1:
        return loop.train_loop(*trainings[0], single_step, learning_rate)
    progress = [(member.run.step, member.run.position is not None) for member in trainings]
    for member, (step, has_started) in zip(trainings, progress, strict=True):
        if (step, has_started) < max(progress) or (has_started and member.run.needs_eval):
            loop.train_loop(*member, single_step, learning_rate, until=max(progress)[0])
    runs, batches, evaluators, seeds = zip(*trainings, strict=True)
    together = Training(
        multi_seed.MultiSeedRun(runs, run.model_dir.parent),
        multi_seed.Batches(batches),
        multi_seed.Evaluator({r.model_dir.name: e for r, e in zip(runs, evaluators, strict=True)}),
        seeds,
    )
    joint_step: step_lib.Step = step_lib.ThreadedStep(single_step, run.loaded.mesh)
    if jax.default_backend() != "cpu":
        joint_step = step_lib.make_stacked_step(*settings, shardings, num_microbatches)
    return loop.train_loop(*together, joint_step, learning_rate)


def evaluation_tasks(
    dataset: pipeline.DatasetConfig | None,
    vocabulary: vocabularies.Vocabulary,
    limit: int | None = None,
    **settings: Any,
) -> list[evaluation_task.EvaluationTask]:
    """Returns the tasks to evaluate during training; none if no task has the split, as in T5X.

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
    """Compares the labels of the training data with LABELS and with the labels of the tasks.

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
    if dataset.file:  # The labels of other data come from a sample.
        for task in tasks:
            task.warn_of_unlisted_labels(labels, dataset.file, "the prompt does not learn them")


def _warn_of_zero_learning_rate(
    learning_rate: optimizers.Schedule | None, schedule: run_lib.TrainConfig
) -> None:
    """Warns if the learning rate is zero throughout the run."""
    first, last = schedule.start_step or 0, schedule.train_steps - 1
    steps = jnp.asarray([first, (first + last) // 2, last])
    if learning_rate is not None and jnp.all(learning_rate(steps) <= optimizers.LEAST_RATE):
        logging.warning(
            "The learning rate is %g from step %d to %d, so the prompt does not change: "
            "LEARNING_RATE_FACTORS count from STEP_OFFSET (default 0). Set STEP_OFFSET=%d.",
            learning_rate(steps[0]), first, last, first,
        )  # fmt: skip


def _warn_of_adapter_export(run: run_lib.Run) -> None:
    """Warns if base weights and an adapter are trained: they are saved separately."""
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
    """Exports trained weights, and logs and returns the results of a run."""
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
        result["model"] = exporter.export_run(
            run.model_dir, run.step, run.params(), run.loaded.model, run.loaded.vocabulary
        )
        logging.info("Model: %s", result["model"])
    return result
