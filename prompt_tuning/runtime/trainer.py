"""The training step, and the loop around it: evaluate, save, resume.

Everything that a run is can be read off `TrainState`, the base checkpoint and the
settings: the randomness of a step follows from its number, the data from the position.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from prompt_tuning import params as params_lib
from prompt_tuning import partitioning
from prompt_tuning.checkpoints import base_model, huggingface
from prompt_tuning.data import pipeline, vocabularies
from prompt_tuning.models import losses
from prompt_tuning.models import model as model_lib
from prompt_tuning.prompts import initializers, module
from prompt_tuning.runtime import evaluator, interrupts, reporting, state
from prompt_tuning.runtime import run as run_lib

Tree = Mapping[str, Any]
Step = Callable[..., tuple[state.TrainState, dict[str, jax.Array]]]


def make_step(run: run_lib.Run, num_microbatches: int = 1) -> Step:
    """The compiled step (state, frozen, batch, rng) -> (state, sums) of a run's model.

    The gradient is taken for the trainable tree only. The state's buffers are reused.
    With microbatches, gradients and sums are those of the whole batch.
    """
    model, optimizer = run.loaded.model, run.optimizer

    def gradients(trainable: Tree, frozen: Tree, batch: Tree, rng: jax.Array):
        def loss(tree):
            _, sums = model.loss(params_lib.merge(tree, frozen), batch, rng)
            return sums["loss"], sums

        (_, sums), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        return grads, sums

    def accumulate(trainable: Tree, frozen: Tree, batch: Tree, rng: jax.Array):
        if num_microbatches == 1:
            return gradients(trainable, frozen, batch, rng)
        # Every n-th row, so that each device has rows in each part.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradients(trainable, frozen, *part)), None

        parts = parts, jax.random.split(rng, num_microbatches)
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradients, trainable, frozen, *first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, parts)[0]

    def step(old: state.TrainState, frozen: Tree, batch: Tree, rng: jax.Array):
        rng = jax.random.fold_in(rng, old.step)
        grads, sums = accumulate(old.trainable, frozen, batch, rng)
        # After the sum over microbatches: their tokens differ in number.
        whole = losses.normalizer(
            model.loss_normalizing_factor,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"].astype(jnp.float32),
        )
        grads = jax.tree.map(lambda g: g / whole, grads)
        sums["gradient_norm"] = optax.tree.norm(grads)
        updates, slots = optimizer.update(grads, old.optimizer, old.trainable)
        trainable = optax.apply_updates(old.trainable, updates)
        return state.TrainState(old.step + 1, trainable, slots), sums

    # A state that comes out as it went in, or the next step would be compiled anew.
    where = jax.tree.map(lambda x: x.sharding, run.state)
    return jax.jit(step, donate_argnums=0, out_shardings=(where, None))


def train(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.SentencePiece,
    checkpoint: str | None,
    prompt_initializer: initializers.Initializer | None,
    train_dataset: pipeline.DatasetConfig,
    eval_dataset: pipeline.DatasetConfig | None,
    trainable: Sequence[str],
    optimizer: run_lib.OptimizerFactory,
    model_dir: str,
    schedule: run_lib.Schedule,
    eval_examples: int | None = None,
    num_partitions: int = 1,
    num_microbatches: int = 1,
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
      eval_examples: examples of each task to evaluate; None for all.
      num_partitions: devices that share one copy of the weights.
      num_microbatches: parts of a batch that are computed one after the other.
      seed: of dropout, data order and initialisation.
      config_text: the settings, written to MODEL_DIR/config.gin.

    Returns:
      {"step", "metrics", "best", "prompt_file", "model"}; the last two where there is such.
    """
    # What can be wrong with the settings is looked at before the weights are read.
    mesh = partitioning.make_mesh(num_partitions)
    rows = num_microbatches * mesh.shape[partitioning.DATA]
    _check_batch(train_dataset.batch_size, num_microbatches, mesh)
    schedule.first_step(0 if checkpoint is None else base_model.read_step(checkpoint))
    batches = pipeline.TrainBatches(train_dataset, vocabulary, state.soft_ids(model), rows)
    tasks, eval_size = [], 0
    if eval_dataset is not None:
        eval_size = eval_dataset.batch_size
        partitioning.check_batch_size(eval_size, mesh)
        tasks = pipeline.evaluation_tasks(eval_dataset, vocabulary, eval_examples)
    loaded = state.load_model(
        model,
        vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=prompt_initializer,
        num_partitions=num_partitions,
        seed=seed,
    )
    run = run_lib.Run(
        loaded, schedule, model_dir, trainable=trainable, optimizer=optimizer, task=batches.name
    )
    run.resume()
    if run.trains_weights:
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
    )
    with partitioning.use(loaded.mesh), validation:
        loop(run, make_step(run, num_microbatches), batches, validation, seed)
    return _finish(run)


def _check_batch(size: int, num_microbatches: int, mesh: Mesh) -> None:
    if num_microbatches < 1 or size % num_microbatches:
        raise ValueError(
            f"NUM_MICROBATCHES is {num_microbatches}; expected a divisor of BATCH_SIZE {size}"
        )
    partitioning.check_batch_size(size // num_microbatches, mesh, "BATCH_SIZE / NUM_MICROBATCHES")


def loop(
    run: run_lib.Run,
    step: Step,
    batches: pipeline.TrainBatches,
    validation: evaluator.Validation,
    seed: int,
) -> None:
    """Takes a run from where it is to its end, or until Ctrl-C, which saves it."""
    if run.position is None:  # a new run
        run.position = batches.position
        run.record(validation.evaluate(run.params(), run.step))
        run.save()
    batches.position = run.position
    done, last, rng = run.step, run.schedule.train_steps, jax.random.key(seed)
    log = reporting.StepLog(
        run.model_dir / "train", first_step=run.first_step, step=done, last_step=last
    )
    with log, interrupts.held() as interrupted:
        while done < last:
            batch = partitioning.place_batch(next(batches), run.loaded.mesh)
            run.state, sums = step(run.state, run.frozen, batch, rng)
            run.position, done = batches.position, done + 1
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
    if run.loaded.model.prompt is not None:
        result["prompt_file"] = str(run.model_dir / "prompts" / f"prompt_{run.step}.npy")
        logging.info("prompt: %s", result["prompt_file"])
    if run.trains_weights:
        target = run.model_dir / f"model_{run.step}"
        params = params_lib.flatten(jax.device_get(run.params()))
        base = params_lib.unflatten({p: x for p, x in params.items() if p != module.PATH})
        if not target.exists():
            huggingface.save(
                target,
                base,
                run.loaded.model.config,
                vocabulary_file=run.loaded.vocabulary.path,
                step=run.step,
                dtype="float32",
            )
        result["model"] = str(target)
        logging.info("model: %s", target)
    return result
