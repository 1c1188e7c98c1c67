"""Training of a loaded model on examples in memory, for `prompt_tuning.tune`."""

import functools
import os
from collections.abc import Sequence

import jax
from etils import epath

from prompt_tuning.data import pipeline
from prompt_tuning.data.batches import batching
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import evaluator, predictor
from prompt_tuning.training import loop, optimizers, reporting, state, writer_lock
from prompt_tuning.training import run as run_lib
from prompt_tuning.training import settings as settings_lib
from prompt_tuning.training import step as step_lib

# The defaults of gin/optimizers/prompt.gin and gin/runs/train.gin.
TRAINABLE = (".*/prompt/.*",)
WEIGHT_DECAY_RATE = 1e-5
LOG_PERIOD = 100


def train(
    loaded: state.LoadedModel,
    examples: Sequence[batching.Example],
    dataset: pipeline.DatasetConfig,
    *,
    labels: Sequence[str] = (),
    steps: int,
    learning_rate: float,
    model_dir: epath.PathLike,
    settings: settings_lib.Settings | None = None,
    allow_changed_settings: bool = False,
) -> epath.Path:
    """Trains the prompt of a model; resumes a run in `model_dir`.

    Args:
      loaded: model with its prompt; the optimizer counts from its step.
      examples: token ids that end with EOS.
      dataset: batch settings; its source and split are unused.
      labels: labels of the examples, for the prompt's card.
      steps: number of training steps.
      learning_rate: constant learning rate.
      model_dir: gets the files of `prompt-tuning train`, without evaluations.
      settings: recorded, and compared with those of a run in `model_dir`; None to skip both.
      allow_changed_settings: resumes a run with other settings.

    Returns:
      The path of the last prompt.

    Raises:
      ValueError: the run in `model_dir` has other settings.
    """
    reporting.check_folder(model_dir, "MODEL_DIR")
    with writer_lock.hold(model_dir), run_lib.failing([model_dir]):
        step_lib.check_batch(dataset.batch_size, 1, loaded.mesh)
        rows = loaded.mesh.shape[partitioning.DATA]
        batches = pipeline.example_batches("examples", examples, dataset, loaded.soft_tokens, rows)
        first = loaded.step or 0
        run = run_lib.Run(
            loaded,
            run_lib.TrainConfig(first + steps, first, eval_period=steps, log_period=LOG_PERIOD),
            model_dir,
            trainable=TRAINABLE,
            optimizer=functools.partial(
                optimizers.adafactor, learning_rate, weight_decay_rate=WEIGHT_DECAY_RATE
            ),
            task=batches.name,
            labels=labels,
            settings=settings,
            allow_changed_settings=allow_changed_settings,
        )
        run.resume()
        text = f"# prompt_tuning.tune: {steps} steps of {learning_rate:g} from {first}\n"
        if settings is not None:
            text += "".join(f"# {name} = {value!r}\n" for name, value in settings.values.items())
        if not run.is_complete:
            reporting.start_folder(run.model_dir, text, "model_dir", run.step)
        folder = os.path.join(run.model_dir, "inference_eval")
        no_tasks = evaluator.Evaluator(
            predictor.Predictor(loaded), [], dataset.batch_size, folder, after_step=run.step
        )
        where = jax.tree.map(lambda x: x.sharding, run.state)
        step = step_lib.make_step(loaded.model, run.optimizer, where)
        with partitioning.use(loaded.mesh), no_tasks:
            loop.train_loop(
                run=run, step=step, batches=batches, evaluator=no_tasks, seed=dataset.seed
            )
        return run.prompt_file(f"prompt_{run.step}")
