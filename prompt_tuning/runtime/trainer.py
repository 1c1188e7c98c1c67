"""The training step, and the loop around it: evaluate, save, resume.

Everything that a run is can be read off `TrainState`, the base checkpoint and the
settings: the randomness of a step follows from its number, the data from the position.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

import prompt_tuning
from prompt_tuning import optimizers, partitioning
from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import base_model, huggingface, prompt_files, train_state
from prompt_tuning.data import pipeline, vocabularies
from prompt_tuning.models import model as model_lib
from prompt_tuning.prompts import initializers, module
from prompt_tuning.runtime import evaluator, reporting, state

Tree = Mapping[str, Any]
OptimizerFactory = Callable[..., optax.GradientTransformation]


def make_step(
    model: model_lib.EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    num_microbatches: int = 1,
) -> Callable[..., tuple[state.TrainState, dict[str, jax.Array]]]:
    """The compiled step (state, frozen, batch, rng) -> (state, sums).

    The gradient is taken for the trainable tree only. The state's buffers are reused.
    With microbatches, gradients and sums are those of the whole batch.
    """

    def gradients(trainable: Tree, frozen: Tree, batch: Tree, rng: jax.Array):
        def loss(tree):
            return model.loss(params_lib.merge(tree, frozen), batch, rng)

        (_, sums), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        return sums, grads

    def accumulate(trainable: Tree, frozen: Tree, batch: Tree, rng: jax.Array):
        if num_microbatches == 1:
            return gradients(trainable, frozen, batch, rng)
        parts = jax.tree.map(lambda x: x.reshape(num_microbatches, -1, *x.shape[1:]), batch)

        def add(total, part):
            batch, key = part
            return jax.tree.map(jnp.add, total, gradients(trainable, frozen, batch, key)), None

        keys = jax.random.split(rng, num_microbatches)
        first = jax.tree.map(lambda x: x[0], (parts, keys))
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(gradients, trainable, frozen, *first),
        )
        return jax.lax.scan(add, zeros, (parts, keys))[0]

    def step(old: state.TrainState, frozen: Tree, batch: Tree, rng: jax.Array):
        sums, grads = accumulate(old.trainable, frozen, batch, jax.random.fold_in(rng, old.step))
        updates, opt_state = optimizer.update(grads, old.optimizer, old.trainable)
        trainable = optax.apply_updates(old.trainable, updates)
        sums["gradient_norm"] = optax.global_norm(grads)
        return state.TrainState(old.step + 1, trainable, opt_state), sums

    return jax.jit(step, donate_argnums=0)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a run does what; all counts are steps.

    Attributes:
      train_steps: TRAIN_STEPS, the absolute step to end at.
      start_step: START_STEP, where counting begins; None for the checkpoint's own step.
      eval_period: EVAL_PERIOD, also how often prompt and state are saved.
      log_period: LOG_PERIOD.
      keep: KEEP, states kept.
    """

    train_steps: int
    start_step: int | None = None
    eval_period: int = 1000
    log_period: int = 100
    keep: int = 1

    def first_step(self, checkpoint_step: int | None) -> int:
        """The absolute step that training begins at. Raises ValueError where there is nothing to do."""
        first = self.start_step if self.start_step is not None else checkpoint_step
        if first is None:
            raise ValueError(
                "the checkpoint does not say its step; set START_STEP (1_100_000 for LM-adapted "
                "T5 1.1, 1_000_000 for T5 1.1): the optimizer's decay depends on it"
            )
        if self.train_steps <= first:
            raise ValueError(
                f"TRAIN_STEPS is {self.train_steps}, not beyond the starting step {first}; it is absolute: "
                f"set {first} + the number of steps to train"
            )
        return first


class Run:
    """A run in progress: its state, its folder, and what it does at each stop."""

    def __init__(
        self,
        loaded: state.LoadedModel,
        optimizer: optax.GradientTransformation,
        trainable: Sequence[str],
        model_dir: epath.Path,
        schedule: Schedule,
        task: str,
        first_step: int,
    ):
        """Splits the parameters and makes the first state; see `resume`."""
        self.loaded, self.schedule, self.task = loaded, schedule, task
        self.model_dir, self.first_step = model_dir, first_step
        tuned, self.frozen = params_lib.split(loaded.params, trainable)
        # jit, so that the optimizer's slots lie where their parameters lie.
        opt_state = jax.jit(optimizer.init)(tuned)
        # A number on all devices, as after a step: else the step would be compiled twice.
        step = jax.device_put(jnp.asarray(first_step), partitioning.replicated(loaded.mesh))
        self.state = state.TrainState(step, tuned, opt_state)
        self.initial_prompt = self.prompt()
        self.position: Mapping[str, int] = {}
        self.saved: int | None = None
        self.evaluated: int | None = None
        self.best: float | None = None
        self.metrics: dict[str, Any] = {}

    @property
    def step(self) -> int:
        """Steps done, absolute."""
        return int(self.state.step)

    def params(self) -> Tree:
        """Trainable and frozen parameters in one tree."""
        return params_lib.merge(self.state.trainable, self.frozen)

    def prompt(self) -> np.ndarray | None:
        """The prompt as it is now [P, D]; None for a model without."""
        if self.loaded.model.prompt is None:
            return None
        flat = params_lib.flatten(self.params())
        return np.asarray(jax.device_get(flat[module.PATH]), np.float32)

    def resume(self) -> None:
        """Takes the latest state in MODEL_DIR, if any.

        Raises:
          ValueError: the folder holds a run with another model or other trainable parameters.
        """
        latest = train_state.latest_step(self.model_dir)
        if latest is None:
            return
        kept = train_state.read_metadata(self.model_dir, latest)
        if kept["digest"] != self.digest():
            raise ValueError(
                f"MODEL_DIR {self.model_dir} holds a run with another base model or other trainable "
                "parameters; set another MODEL_DIR, or the INITIAL_CHECKPOINT_PATH, PROMPT_LENGTH and "
                "TRAINABLE of that run"
            )
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.state)
        tree, metadata = train_state.restore(self.model_dir, latest, shapes._asdict())
        where = jax.tree.map(lambda x: x.sharding, self.state)
        self.state = jax.device_put(state.TrainState(**tree), where)
        self.best, self.first_step = metadata["best"], metadata["first_step"]
        self.saved, self.evaluated = latest, metadata.get("evaluated")
        logging.info("going on from step %d in %s", latest, self.model_dir)

    def digest(self) -> str:
        """Identity of what is trained on what."""
        return params_lib.structure_digest(self.state.trainable, self.loaded.digest)

    def save(self) -> None:
        """Writes the state, if this step's is not there yet, and the prompt with its card."""
        metadata = {
            "position": dict(self.position),
            "digest": self.digest(),
            "best": self.best,
            "first_step": self.first_step,
            "evaluated": self.evaluated,
        }
        if self.saved != self.step:
            tree, keep = self.state._asdict(), self.schedule.keep
            train_state.save(self.model_dir, self.step, tree, metadata, keep=keep)
            self.saved = self.step
        self._save_prompt(f"prompt_{self.step}")

    def record(self, results: Mapping[str, Mapping[str, float]]) -> None:
        """Takes an evaluation; keeps the prompt apart where it is the best so far."""
        self.metrics = {task: dict(values) for task, values in results.items()}
        firsts = [next(iter(values.values())) for values in results.values() if values]
        mean = sum(firsts) / len(firsts) if firsts else None
        if mean is not None and (self.best is None or mean > self.best):
            self.best = mean
            self._save_prompt("best")
        self.evaluated = self.step

    def _save_prompt(self, name: str) -> None:
        prompt = self.prompt()
        if prompt is None:
            return
        card = {
            "length": prompt.shape[0],
            "embed_dim": prompt.shape[1],
            "base_model": self.loaded.checkpoint,
            "base_model_digest": self.loaded.digest,
            "task": self.task,
            "step": self.step,
            "metrics": self.metrics,
            "created_by": f"prompt-tuning {prompt_tuning.__version__}",
        }
        prompt_files.save(self.model_dir / "prompts" / f"{name}.npy", prompt, card)

    def moved(self) -> dict[str, float]:
        """How far the prompt has gone: mean distance of its rows from their start."""
        now = self.prompt()
        if now is None:
            return {}
        distance = np.linalg.norm(now - self.initial_prompt, axis=-1)
        return {"prompt_distance": float(np.mean(distance))}


def train(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.SentencePiece,
    checkpoint: str | None,
    prompt_initializer: initializers.Initializer | None,
    train_dataset: pipeline.DatasetConfig,
    eval_dataset: pipeline.DatasetConfig | None,
    trainable: Sequence[str],
    optimizer: OptimizerFactory,
    model_dir: str,
    schedule: Schedule,
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
      {"step", "metrics", "prompt_file"}.
    """
    folder = epath.Path(model_dir)
    mesh = partitioning.make_mesh(num_partitions)
    _check_batch(train_dataset.batch_size, num_microbatches, mesh)
    first_step = schedule.first_step(0 if checkpoint is None else base_model.read_step(checkpoint))
    batches = pipeline.TrainBatches(
        train_dataset, vocabulary, state.soft_ids(model), _data_position(folder)
    )
    tasks = []
    if eval_dataset is not None:
        tasks = pipeline.evaluation_tasks(eval_dataset, vocabulary, eval_examples)
    loaded = state.load_model(
        model,
        vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=prompt_initializer,
        num_partitions=num_partitions,
        seed=seed,
    )
    tuner = optimizers.for_trainable(optimizer(start_step=first_step), tuple(trainable))
    task = getattr(train_dataset.source, "name", None) or "own files"
    run = Run(loaded, tuner, trainable, folder, schedule, task, first_step)
    run.resume()
    reporting.start_folder(folder, config_text, "MODEL_DIR")
    _write_model_info(run)
    step = make_step(model, tuner, num_microbatches)
    with partitioning.use(loaded.mesh):
        _loop(run, step, batches, tasks, eval_dataset, seed)
    return _finish(run, trainable)


def _check_batch(batch_size: int, num_microbatches: int, mesh: Mesh) -> None:
    if num_microbatches < 1 or batch_size % num_microbatches:
        raise ValueError(
            f"NUM_MICROBATCHES is {num_microbatches}; expected a divisor of BATCH_SIZE {batch_size}"
        )
    partitioning.check_batch_size(batch_size // num_microbatches, mesh)


def _data_position(model_dir: epath.Path) -> Mapping[str, int] | None:
    """Where in the data the run in a folder, if any, stopped."""
    latest = train_state.latest_step(model_dir)
    return None if latest is None else train_state.read_metadata(model_dir, latest)["position"]


def _write_model_info(run: Run) -> None:
    where = jax.tree.map(lambda x: x.sharding, run.loaded.params)
    info = reporting.model_info(run.state.trainable, run.loaded.params, where)
    reporting.write_text(run.model_dir / "model-info.txt", info)


def _loop(
    run: Run,
    step: Callable,
    batches: pipeline.TrainBatches,
    tasks: Sequence[pipeline.EvaluationTask],
    eval_dataset: pipeline.DatasetConfig | None,
    seed: int,
) -> None:
    start = run.step
    rng = jax.random.key(seed)
    answerer = evaluator.Answerer(run.loaded, seed)
    train_log = reporting.MetricWriter(
        run.model_dir / "train", "metrics.jsonl", after_step=start, prefix="train/"
    )
    eval_logs = {
        task.name: reporting.MetricWriter(
            run.model_dir / "inference_eval",
            f"{task.name}-metrics.jsonl",
            after_step=start,
            prefix="eval/",
        )
        for task in tasks
    }

    def evaluate() -> None:
        results = evaluator.evaluate_tasks(
            answerer,
            run.params(),
            tasks,
            0 if eval_dataset is None else eval_dataset.batch_size,
            output_dir=run.model_dir / "inference_eval",
            step=run.step,
        )
        for name, metrics in results.items():
            eval_logs[name].write(run.step, metrics)
            shown = ", ".join(f"{key} {value:.2f}" for key, value in metrics.items())
            logging.info("step %d  %s: %s", run.step, name, shown)
        run.record(results)

    run.position = batches.position
    try:
        _steps(run, step, batches, rng, train_log, evaluate)
    except KeyboardInterrupt:
        run.save()
        logging.warning(
            "interrupted; step %d is saved in %s: the same command goes on from there",
            run.step, run.model_dir,
        )  # fmt: skip
        raise
    finally:
        for log in (train_log, *eval_logs.values()):
            log.close()


def _steps(
    run: Run,
    step: Callable,
    batches: pipeline.TrainBatches,
    rng: jax.Array,
    train_log: reporting.MetricWriter,
    evaluate: Callable[[], None],
) -> None:
    schedule, done = run.schedule, run.step
    waiting: list[dict[str, jax.Array]] = []
    since = time.monotonic()
    total = schedule.train_steps - run.first_step

    def is_due(period: int) -> bool:
        return (done - run.first_step) % period == 0 or done == schedule.train_steps

    with reporting.progress(total, done - run.first_step) as bar:
        while True:
            if is_due(schedule.eval_period) and run.evaluated != done:
                evaluate()
                run.save()
                since = time.monotonic()
            if done == schedule.train_steps:
                break
            batch = partitioning.place_batch(next(batches), run.loaded.mesh)
            run.state, sums = step(run.state, run.frozen, batch, rng)
            run.position = batches.position
            waiting.append(sums)
            done += 1
            bar.advance(0)
            if is_due(schedule.log_period):
                scalars = _summary(waiting, time.monotonic() - since) | run.moved()
                train_log.write(done, scalars)
                note = f"loss {scalars['loss_per_target_token']:.3f}"
                bar.update(0, note=note)
                logging.info(
                    "step %d  %s  accuracy %.3f  %.2f steps/s",
                    done, note, scalars["accuracy"], scalars["steps_per_second"],
                )  # fmt: skip
                waiting, since = [], time.monotonic()


def _summary(waiting: Sequence[Mapping[str, jax.Array]], seconds: float) -> dict[str, float]:
    """Means over the steps since the last summary. Raises ValueError on a loss that is no number."""
    sums = jax.device_get(list(waiting))
    tokens = max(sum(float(s["tokens"]) for s in sums), 1.0)
    loss = sum(float(s["loss"]) for s in sums)
    if not math.isfinite(loss):
        raise ValueError(
            "the loss is not a finite number; lower LEARNING_RATE, or look at the data of this step"
        )
    return {
        "loss_per_target_token": loss / tokens,
        "loss": loss / len(sums),
        "z_loss": sum(float(s["z_loss"]) for s in sums) / len(sums),
        "accuracy": sum(float(s["correct"]) for s in sums) / tokens,
        "gradient_norm": float(sums[-1]["gradient_norm"]),
        "steps_per_second": len(sums) / seconds,
        "target_tokens_per_second": tokens / seconds,
    }


def _finish(run: Run, trainable: Sequence[str]) -> dict[str, Any]:
    """Exports weights that were trained beside the prompt, and says where everything lies."""
    result = {"step": run.step, "metrics": run.metrics, "best": run.best}
    flat = params_lib.flatten(run.state.trainable)
    if run.loaded.model.prompt is not None:
        result["prompt_file"] = str(run.model_dir / "prompts" / f"prompt_{run.step}.npy")
        logging.info("prompt: %s", result["prompt_file"])
    if flat.keys() - {module.PATH}:
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
