"""A training run: its schedule, its state and its folder."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import atomic, train_state
from prompt_tuning.distributed import partitioning
from prompt_tuning.training import (
    adapter_files,
    best_evaluation,
    counts,
    nan_guard,
    optimizers,
    reporting,
    state,
)
from prompt_tuning.training import settings as settings_lib

Tree = Mapping[str, Any]
OptimizerFactory = Callable[..., optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long a run trains, and how often it evaluates, saves and logs, in steps.

    Attributes:
      train_steps: TRAIN_STEPS, the absolute step to end at; None with `train_steps_relative`.
      start_step: START_STEP, the absolute first step; None for the checkpoint's own step.
      eval_period: EVAL_PERIOD, also how often prompt and state are saved.
      log_period: LOG_PERIOD; None for `eval_period`.
      keep: KEEP, number of latest states to keep; None for all.
      train_steps_relative: TRAIN_STEPS_RELATIVE, number of steps to train, instead of
        `train_steps`.
      nan_tolerance: NAN_TOLERANCE, consecutive non-finite steps that are skipped before the
        run stops.
    """

    train_steps: int | None
    start_step: int | None = None
    eval_period: int = 1000
    log_period: int | None = 100
    keep: int | None = 2
    train_steps_relative: int | None = None
    nan_tolerance: int = 0

    def __post_init__(self):
        if self.train_steps is None and self.train_steps_relative is None:
            raise ValueError(
                "TRAIN_STEPS and TRAIN_STEPS_RELATIVE are not set; expected one of them. Set "
                "TRAIN_STEPS_RELATIVE to the number of steps to train, or TRAIN_STEPS to the "
                "absolute last step."
            )
        most, relative = counts.MAX_STEP, self.train_steps_relative
        counts.validate_int("TRAIN_STEPS", self.train_steps, 0, most, none="TRAIN_STEPS_RELATIVE")
        counts.validate_int("TRAIN_STEPS_RELATIVE", relative, 1, most, none="TRAIN_STEPS")
        counts.validate_int("START_STEP", self.start_step, 0, most, none="the checkpoint's")
        counts.validate_int("EVAL_PERIOD", self.eval_period, 1)
        counts.validate_int("LOG_PERIOD", self.log_period, 1, none="EVAL_PERIOD")
        counts.validate_int("KEEP", self.keep, 1, none="all")
        counts.validate_int("NAN_TOLERANCE", self.nan_tolerance, 0)

    def resolve(self, checkpoint_step: int | None) -> "TrainConfig":
        """Returns the config with absolute steps, for a checkpoint's step. Raises as `first_step`."""
        first, last = self._start(checkpoint_step), self.train_steps
        if self.train_steps_relative is not None:
            last = first + self.train_steps_relative
        resolved = dataclasses.replace(
            self, train_steps=last, train_steps_relative=None, start_step=first
        )
        resolved.first_step(first)
        return resolved

    def first_step(self, checkpoint_step: int | None) -> int:
        """Returns the absolute first step. Raises ValueError unless it is below the last step."""
        first = self._start(checkpoint_step)
        if self.train_steps <= first:
            raise ValueError(
                f"TRAIN_STEPS={self.train_steps} is not greater than the starting step {first} "
                f"(TRAIN_STEPS is absolute). Add {first} to it, or set TRAIN_STEPS_RELATIVE instead."
            )
        return first

    def _start(self, checkpoint_step: int | None) -> int:
        first = self.start_step if self.start_step is not None else checkpoint_step
        if first is None:
            raise ValueError(
                "the checkpoint does not contain its step, on which the optimizer's decay depends; expected "
                "START_STEP. Set it: 1_100_000 for LM-adapted T5 1.1, 1_000_000 for T5 1.1."
            )
        return first


class Run:
    """A model in training.

    Attributes:
      loaded: model that training starts from.
      optimizer: optimizer of the trainable parameters.
      state: step, trainable parameters and optimizer state.
      frozen: parameters that are not trained.
      position: data position of the next batch; None before the first.
      first_step: absolute step that training began at.
      best: the best evaluation so far; its prompt is prompts/best.
      metrics: metrics of the last evaluation, {} before the first.
      evaluated_step: step of the last evaluation, None before the first.
      unlogged: sums of the steps since the last log line when the state was saved.
      training_loss: loss of the last log line, None before the first.
      skipped: number of consecutive steps, up to the last, that were skipped (NAN_TOLERANCE).
    """

    def __init__(
        self,
        loaded: state.LoadedModel,
        schedule: TrainConfig,
        model_dir: epath.PathLike,
        *,
        trainable: Sequence[str],
        optimizer: OptimizerFactory,
        task: str,
        labels: Sequence[str] = (),
        settings: settings_lib.Settings | None = None,
        allow_changed_settings: bool = False,
    ):
        """Splits the parameters and initializes the state; `resume` restores a saved one.

        `labels` of the task are written to the prompt's card. `settings` are saved in each state,
        and compared with those of the state that the run resumes from.
        """
        self._settings = settings and settings.with_checkpoint(loaded.checkpoint, loaded.digest)
        self._allow_changed_settings = allow_changed_settings
        self.loaded, self.schedule, self.task, self.labels = loaded, schedule, task, labels
        self.model_dir = epath.Path(model_dir)
        self.first_step = schedule.first_step(loaded.step)
        self.optimizer = optimizers.for_trainable(
            optimizer(start_step=self.first_step), tuple(trainable)
        )
        tuned, self.frozen = params_lib.split(loaded.params, trainable)
        _check_dtypes(tuned)
        where = partitioning.slot_shardings(
            jax.eval_shape(self.optimizer.init, tuned), tuned, loaded.mesh
        )
        slots = jax.jit(self.optimizer.init, out_shardings=where)(tuned)
        step = np.asarray(self.first_step, np.int32)
        step = partitioning.device_put(step, partitioning.replicated(loaded.mesh))
        self.state = state.TrainState(step, tuned, slots)
        self.position: Mapping[str, int] | None = None
        self.best = best_evaluation.BestEvaluation()
        self.metrics: dict[str, Any] = {}
        self.evaluated_step: int | None = None
        self.unlogged: Sequence[Mapping[str, float]] = ()
        self.training_loss: float | None = None
        self.skipped = 0
        self._saved_step: int | None = None
        self._initial = self.adapter_params()

    @property
    def step(self) -> int:
        """The absolute number of steps done."""
        return int(self.state.step)

    @property
    def trains_weights(self) -> bool:
        """Whether base weights are trained, so that the model is exported at the end."""
        trainable = params_lib.flatten(self.state.trainable)
        return not trainable.keys() <= self.loaded.model.adapter_paths

    def evaluates_at(self, step: int) -> bool:
        """Returns whether tasks are evaluated and the state is saved after this step."""
        return self._is_due(step, self.schedule.eval_period)

    def logs_at(self, step: int) -> bool:
        """Returns whether means are logged after this step."""
        return self._is_due(step, self.schedule.log_period or self.schedule.eval_period)

    @property
    def needs_eval(self) -> bool:
        """Whether an evaluation is due: before the first step, or if the last was interrupted."""
        return self.evaluates_at(self.step) and self.evaluated_step != self.step

    @property
    def is_complete(self) -> bool:
        """Whether all steps and evaluations are done."""
        return self.step == self.schedule.train_steps and not self.needs_eval

    def _is_due(self, step: int, period: int) -> bool:
        return (step - self.first_step) % period == 0 or step == self.schedule.train_steps

    def params(self) -> Tree:
        """Merges trainable and frozen parameters into one tree."""
        return params_lib.merge(self.state.trainable, self.frozen)

    def adapter_params(self) -> dict[str, np.ndarray]:
        """Returns the current adapter parameters on the host, {path: values}, such as a prompt [P, D]."""
        flat, paths = params_lib.flatten(self.params()), sorted(self.loaded.model.adapter_paths)
        return {path: np.asarray(jax.device_get(flat[path]), np.float32) for path in paths}

    def prompt_drift(self) -> dict[str, float]:
        """Returns the mean L2 distance of the rows of the adapter parameters from their start."""
        distances = [
            np.linalg.norm(now - self._initial[path], axis=-1).ravel()
            for path, now in self.adapter_params().items()
        ]
        return {"prompt_distance": float(np.mean(np.concatenate(distances)))} if distances else {}

    def log(
        self, learning_rate: optimizers.Schedule | None = None, bar: bool = True
    ) -> reporting.StepLog:
        """Returns the log of the next steps; see `reporting.StepLog`."""
        return reporting.StepLog(
            self.model_dir / "train",
            first_step=self.first_step,
            step=self.step,
            last_step=self.schedule.train_steps,
            learning_rate=learning_rate,
            bar=bar,
            unwritten=self.unlogged,
        )

    def guard(self) -> nan_guard.NanGuard:
        """Returns the guard against non-finite steps."""
        return nan_guard.NanGuard([self], self.schedule.nan_tolerance)

    def digest(self) -> str:
        """Returns the identity of base model and trainable parameters."""
        return params_lib.structure_digest(self.state.trainable, self.loaded.digest)

    def resume(self) -> None:
        """Restores the latest undamaged state in MODEL_DIR, if the folder has states.

        Raises:
          ValueError: the run in the folder has another model, other trainable parameters or other
            settings, or is beyond TRAIN_STEPS; or all its states are damaged.
        """
        damaged = []
        for step in reversed(train_state.steps(self.model_dir)):
            try:
                self._restore(step)
                logging.info("%s", self._describe_start())
                break
            except train_state.DamagedError as error:
                logging.warning("%s Trying the previous state.", error)
                damaged.append(str(error))
        else:
            if damaged:
                raise ValueError(
                    f"MODEL_DIR {self.model_dir} holds a run, but none of its states can be read:\n  "
                    + "\n  ".join(damaged)
                    + "\nExpected a readable state. Remove these folders, or set another MODEL_DIR."
                )
        # Fails if processes restored different states.
        atomic.wait_for_writer(f"begin at step {self.step} in {self.model_dir}")

    def _restore(self, latest: int) -> None:
        """Restores a state. Raises as `resume`, and train_state.DamagedError."""
        metadata, changed = train_state.read_metadata(self.model_dir, latest), False
        if self._settings is not None:
            changed = settings_lib.check_state(
                self.model_dir,
                latest,
                metadata.get("settings"),
                self._settings,
                allow_changed=self._allow_changed_settings,
            )
        # Versions that recorded no settings computed the digest differently.
        if "settings" in metadata and metadata["digest"] != self.digest() and not changed:
            raise ValueError(
                f"MODEL_DIR {self.model_dir} holds a run with another base model or other "
                "trainable parameters; expected the same. Set another MODEL_DIR, or the "
                "INITIAL_CHECKPOINT_PATH, PROMPT_LENGTH and TRAINABLE of that run."
            )
        if latest > self.schedule.train_steps:
            raise ValueError(
                f"TRAIN_STEPS is {self.schedule.train_steps}, less than step {latest}, which the "
                f"run in MODEL_DIR {self.model_dir} has reached. Set TRAIN_STEPS above {latest} or "
                f"TRAIN_STEPS_RELATIVE above {latest - metadata['first_step']} to continue it, or another MODEL_DIR."
            )
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.state
        )
        tree, _ = train_state.restore(self.model_dir, latest, abstract._asdict())
        self.state = state.TrainState(**tree)
        self.position, self.first_step = metadata["position"], metadata["first_step"]
        self.best = best_evaluation.from_json(metadata["best"])
        self.training_loss = metadata.get("training_loss")
        self.metrics, self.evaluated_step = metadata["metrics"], metadata["evaluated_step"]
        self.unlogged, self.skipped = metadata["unlogged"], metadata["skipped"]
        self._saved_step = latest
        if changed and latest < self.schedule.train_steps:  # Earlier metrics may be of other data.
            self.best, self.evaluated_step = best_evaluation.BestEvaluation(), None

    def _describe_start(self) -> str:
        if not self.is_complete:
            return f"Resuming from step {self.step} in {self.model_dir}."
        return (
            f"The run in {self.model_dir} is complete at step {self.step}; nothing is trained. To "
            f"continue it, set TRAIN_STEPS above {self.step}."
        )

    def save(self, unlogged: Sequence[Mapping[str, float]] = ()) -> None:
        """Writes the adapter file with its card, then the state.

        The order matters: a run that resumes from a state does not write the prompt of that step
        again. `unlogged` are the sums of the steps since the last log line.
        """
        self._save_adapter(f"prompt_{self.step}")
        if self._saved_step == self.step:
            return  # It was saved before an evaluation that was interrupted.
        self.unlogged = unlogged
        metadata = {
            "position": dict(self.position or {}),
            "digest": self.digest(),
            "best": dataclasses.asdict(self.best),
            "settings": self._settings and dataclasses.asdict(self._settings),
            "first_step": self.first_step,
            "metrics": self.metrics,
            "evaluated_step": self.evaluated_step,
            "unlogged": list(unlogged),
            "training_loss": self.training_loss,
            "skipped": self.skipped,
        }
        train_state.save(
            self.model_dir, self.step, self.state._asdict(), metadata, keep=self.schedule.keep
        )
        self._saved_step = self.step

    def record(self, results: Mapping[str, Mapping[str, float]], loss: float | None = None) -> None:
        """Records an evaluation, and saves the prompt as "best" if it is the best so far.

        Ties are decided by `loss`, of the evaluation targets, or by the training loss without it.
        """
        self.metrics = {task: dict(values) for task, values in results.items()}
        self.evaluated_step = self.step
        firsts = [next(iter(values.values())) for values in results.values() if values]
        mean = sum(firsts) / len(firsts) if firsts else math.nan
        named = (("evaluation loss", loss), ("training loss", self.training_loss))
        losses = (best_evaluation.Loss(name, x) for name, x in named if x is not None)
        is_untrained = self.step == self.first_step
        if self.best.add(self.step, mean, next(losses, None), is_untrained=is_untrained):
            self._save_adapter("best")

    def _save_adapter(self, name: str) -> None:
        adapter_files.save(
            self.model_dir,
            name,
            self.adapter_params(),
            self.loaded.model,
            base_model=self.loaded.checkpoint,
            base_model_digest=self.loaded.digest,
            task=self.task,
            labels=list(self.labels),
            step=self.step,
            # Metrics of an earlier step do not describe this prompt.
            metrics=self.metrics if self.evaluated_step == self.step else {},
        )

    def prompt_file(self, name: str) -> epath.Path:
        """Returns the path of the adapter file `name`."""
        return adapter_files.locate(self.model_dir, name, self.loaded.model)


@contextlib.contextmanager
def failing(folders: Sequence[epath.PathLike]) -> Iterator[None]:
    """Adds the last saved steps of these folders to the message of an OSError (a full disk)."""
    try:
        yield
    except OSError as error:
        last = {str(folder): train_state.latest_step(folder) for folder in folders}
        left = ", ".join(
            f"{folder} has no state" if step is None else f"{folder} has the state of step {step}"
            for folder, step in last.items()
        )
        raise OSError(
            f"training stopped: {error}\n{left}. Expected a writable MODEL_DIR with enough free space. "
            "Fix the cause and start the same command again: it resumes from there."
        ) from error


def _check_dtypes(trainable: Tree) -> None:
    """Raises ValueError for trainable parameters that are not float32."""
    for path, leaf in params_lib.flatten(trainable).items():
        if leaf.dtype != jnp.float32:
            raise ValueError(
                f"{path} is {leaf.dtype}; expected float32 to be trained. Set WEIGHTS_DTYPE='float32'."
            )
