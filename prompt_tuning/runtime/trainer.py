"""The loop around the training step: evaluate, save, resume.

Everything that a run is can be read off `TrainState`, the base checkpoint and the
settings: the randomness of a step follows from its number, the data from the position.
"""

import functools
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning import optimizers, partitioning
from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import base_model, huggingface
from prompt_tuning.data import epochs, evaluation_task, pipeline, vocabularies
from prompt_tuning.models import decoder_only_model
from prompt_tuning.models import model as model_lib
from prompt_tuning.runtime import (
    background,
    counts,
    evaluator,
    exporter,
    interrupts,
    prefetch,
    reporting,
    state,
)
from prompt_tuning.runtime import run as run_lib
from prompt_tuning.runtime import step as step_lib

Batch = Mapping[str, jax.Array]


def train(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str | None,
    prompt_initializer: state.Start | None,
    train_dataset: pipeline.DatasetConfig,
    eval_dataset: pipeline.DatasetConfig | None,
    trainable: Sequence[str],
    optimizer: run_lib.OptimizerFactory,
    model_dir: str,
    schedule: run_lib.Schedule,
    learning_rate: optimizers.Schedule | None = None,
    eval_examples: int | None = None,
    written_examples: int | None = None,
    eval_steps: int = 0,
    num_partitions: int | None = 1,
    num_microbatches: int | None = 1,
    seed: int = 0,
    config_text: str = "",
) -> dict[str, Any]:
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
      model_dir: MODEL_DIR. A run that is there already goes on.
      schedule: how long, how often.
      learning_rate: the optimizer's, of the absolute step, to be told beside the loss.
      eval_examples: examples of each task to evaluate; None for all.
      written_examples: answers to write at each evaluation; None for all.
      eval_steps: batches of each task whose loss is told at each evaluation.
      num_partitions: devices that share one copy of the weights; None for 1.
      num_microbatches: parts of a batch that are computed one after the other; None for 1.
      seed: of dropout, data order and initialisation.
      config_text: the settings, written to MODEL_DIR/config.gin.

    Returns:
      {"step", "metrics", "best", "prompt_file", "model"}; the last two where there is such.
    """
    # What can be wrong with the settings is looked at before the weights are read.
    reporting.check_folder(model_dir, "MODEL_DIR")
    counts.check("RANDOM_SEED", seed, 0)
    counts.check("EVAL_STEPS", eval_steps, 0)
    counts.check("EVALUATOR_NUM_EXAMPLES", eval_examples, 1, none="all")
    counts.check("JSON_WRITE_N_RESULTS", written_examples, 0, none="all")
    num_microbatches = num_microbatches or 1
    mesh = partitioning.make_mesh(num_partitions)
    step_lib.check_batch(train_dataset.batch_size, num_microbatches, mesh)
    rows = num_microbatches * mesh.shape[partitioning.DATA]
    _check_loss(model, train_dataset.pack)
    eval_size = 0 if eval_dataset is None else eval_dataset.batch_size
    partitioning.check_batch_size(eval_size, mesh)
    schedule = schedule.settled(0 if checkpoint is None else base_model.read_step(checkpoint))
    _tell_rate(learning_rate, schedule)
    loading = background.Background(
        functools.partial(
            state.load_model,
            model,
            vocabulary,
            checkpoint=checkpoint,
            prompt_initializer=prompt_initializer,
            num_partitions=num_partitions,
            seed=seed,
        )
    )
    soft = state.soft_tokens(model, vocabulary)
    batches = pipeline.TrainBatches(train_dataset, vocabulary, soft, rows)
    tasks = evaluated(eval_dataset, vocabulary, eval_examples)
    loaded = loading.result()
    run = run_lib.Run(
        loaded, schedule, model_dir, trainable=trainable, optimizer=optimizer, task=batches.name
    )
    run.resume()
    _tell_export(run)
    if run.trains_weights and jax.process_count() > 1:
        raise ValueError(
            f"TRAINABLE names weights, which a single process exports, and there are "
            f"{jax.process_count()}; set TRAINABLE to the prompt, or use one process"
        )
    if run.trains_weights and not _is_decoder_only(model):
        huggingface.check_vocabulary(vocabulary.path)
    reporting.start_folder(run.model_dir, config_text, "MODEL_DIR")
    info = reporting.model_info(run.state.trainable, loaded.params)
    reporting.write_text(run.model_dir / "model-info.txt", info)
    validation = evaluator.Validation(
        evaluator.Answerer(loaded, seed),
        tasks,
        eval_size,
        run.model_dir / "inference_eval",
        after_step=run.step,
        written_examples=written_examples,
        losses=(run.model_dir / "training_eval", eval_steps),
    )
    where = jax.tree.map(lambda x: x.sharding, run.state)
    step = step_lib.make_step(loaded.model, run.optimizer, where, num_microbatches)
    with partitioning.use(loaded.mesh), validation:
        loop(run, step, batches, validation, seed, learning_rate)
    return _finish(run)


def evaluated(
    dataset: pipeline.DatasetConfig | None,
    vocabulary: vocabularies.Vocabulary,
    limit: int | None = None,
) -> list[evaluation_task.EvaluationTask]:
    """What is evaluated while training: nothing where no task has the split, as in T5X."""
    if dataset is None:
        return []
    try:
        return pipeline.evaluation_tasks(dataset, vocabulary, limit)
    except pipeline.NoSplitError as error:
        logging.warning("nothing is evaluated while training: %s", error)
        return []


def _tell_rate(learning_rate: optimizers.Schedule | None, schedule: run_lib.Schedule) -> None:
    """Warns where the schedule is over before the run starts."""
    first, last = schedule.start_step or 0, schedule.train_steps - 1
    steps = jnp.asarray([first, (first + last) // 2, last])
    if learning_rate is not None and jnp.all(learning_rate(steps) <= optimizers.LEAST_RATE):
        logging.warning(
            "the learning rate is %g from step %d to %d: nothing will be learnt; LEARNING_RATE_FACTORS "
            "count from step 0, or from STEP_OFFSET: set it to %d",
            learning_rate(steps[0]), first, last, first,
        )  # fmt: skip


def _tell_export(run: run_lib.Run) -> None:
    """Warns where what is trained together is kept apart."""
    if run.trains_weights and run.loaded.model.added:
        logging.warning(
            "TRAINABLE names weights, and %s stands beside them: model_<step> is exported without, "
            "and to use it you need PROMPT_FILE too; set PROMPT = None to tune the weights alone",
            ", ".join(sorted(run.loaded.model.added)),
        )


def _check_loss(model: model_lib.EncoderDecoderModel, pack: bool) -> None:
    if pack and model.label_loss is not None:
        raise ValueError(
            "PACK is True, and LABEL_LOSS scores labels a row each; set PACK = False, or give "
            "optimizers/perceptron.gin after runs/train.gin"
        )
    if pack and model.loss_normalizing_factor == "NUM_TOTAL_TARGET_TOKENS":
        raise ValueError(
            "LOSS_NORMALIZING_FACTOR 'NUM_TOTAL_TARGET_TOKENS' counts padding, of which packed rows "
            "have little; set PACK = False, or 'NUM_REAL_TARGET_TOKENS'"
        )


def loop(
    run: run_lib.Run,
    step: step_lib.Step,
    batches: epochs.Batches,
    validation: evaluator.Validation,
    seed: int,
    learning_rate: optimizers.Schedule | None = None,
) -> None:
    """Takes a run from where it is to its end, or until Ctrl-C, which saves it."""
    new, last = run.position is None, run.schedule.train_steps
    if run.step == last:
        return
    if new:
        run.position = batches.position
    batches.position = run.position
    place = functools.partial(partitioning.place_batch, mesh=run.loaded.mesh)
    log = reporting.StepLog(
        run.model_dir / "train",
        first_step=run.first_step,
        step=run.step,
        last_step=last,
        learning_rate=learning_rate,
    )
    rng = jax.random.key(seed)
    with log, prefetch.Prefetch(batches, place) as ahead:
        first = next(ahead)
        compiling = background.Background(lambda: _compile(step, run, first[0], rng))
        if new:
            run.record(validation.evaluate(run.params(), run.step))
            run.save()
        compiling.result()
        log.restart()
        _take_steps(run, step, itertools.chain([first], ahead), validation, log, rng)


def _compile(step: step_lib.Step, run: run_lib.Run, batch: Batch, rng: jax.Array) -> None:
    """Compiles what the first step would wait for."""
    with partitioning.use(run.loaded.mesh):
        step.lower(run.state, run.frozen, batch, rng).compile()


def _take_steps(
    run: run_lib.Run,
    step: step_lib.Step,
    batches: Iterator[tuple[Batch, Mapping[str, int]]],
    validation: evaluator.Validation,
    log: reporting.StepLog,
    rng: jax.Array,
) -> None:
    done, last = run.step, run.schedule.train_steps
    with interrupts.held() as interrupted:
        while done < last:
            batch, position = next(batches)
            run.state, sums = step(run.state, run.frozen, batch, rng)
            run.position, done = position, done + 1
            log.add(sums)
            evaluates, stops = run.evaluates_at(done), interrupted()
            if evaluates or stops or run.logs_at(done):
                log.write(done, run.moved())
            if evaluates:
                run.record(validation.evaluate(run.params(), done))
            if evaluates or stops:
                run.save()
                log.restart()
            if stops:
                logging.warning(
                    "interrupted; step %d is saved in %s: the same command goes on from there",
                    done, run.model_dir,
                )  # fmt: skip
                raise KeyboardInterrupt


def _finish(run: run_lib.Run) -> dict[str, Any]:
    """Exports weights that were trained beside the prompt, and says where everything lies."""
    result = {"step": run.step, "metrics": run.metrics, "best": run.best}
    if run.loaded.model.added:
        result["prompt_file"] = str(run.prompt_file(f"prompt_{run.step}"))
        logging.info("prompt: %s", result["prompt_file"])
    if run.trains_weights:
        result["model"] = _export(run)
        logging.info("model: %s", result["model"])
    return result


def _is_decoder_only(model: model_lib.EncoderDecoderModel) -> bool:
    return isinstance(model, decoder_only_model.DecoderOnlyModel)


def _export(run: run_lib.Run) -> str:
    """The weights without the prompt: for Hugging Face, or for T5X where that has no place for them."""
    target, model = run.model_dir / f"model_{run.step}", run.loaded.model
    params = params_lib.flatten(jax.device_get(run.params()))
    base = {path: x for path, x in params.items() if path not in model.added}
    export_format = exporter.HUGGING_FACE
    if _is_decoder_only(model):
        export_format, target = exporter.T5X, target / f"checkpoint_{run.step}"
    if not target.exists():
        exporter.write(
            target,
            base,
            model,
            run.loaded.vocabulary,
            export_format=export_format,
            step=run.step,
            dtype="float32",
        )
    return str(target)
