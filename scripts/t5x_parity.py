"""Compares losses of T5X's trainer and of this package, from one state and on the same batches.

A third curve has T5X's loss and optimizer. Model and data are the embedded ones, without dropout.
Requires T5X (`prompt-tuning[t5x]`). --output writes data of T5X for the tests, which run without
it: losses, metrics of the first batch, decodes of the beam search, and the arguments of the
functions that gin/t5x binds:

    python scripts/t5x_parity.py --output tests/testdata/t5x.json
"""

import argparse
import functools
import importlib
import inspect
import itertools
import json
import pathlib
import tempfile
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning import assets
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.data import sources, vocabularies
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import exporter
from prompt_tuning.methods import initializers
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import model as model_lib
from prompt_tuning.t5x import models as t5x_models
from prompt_tuning.training import optimizers, run, state
from prompt_tuning.training import step as step_lib

STEPS, BATCH_SIZE = 20, 16
EOS_ID = 1
LABELS = ("positive", "negative")
LENGTHS = {"inputs": 48, "targets": 4}
# Functions that gin/t5x binds, by module of T5X.
BOUND = {
    "train": ("train",),
    "eval": ("evaluate",),
    "infer": ("infer",),
    "gin_utils": ("summarize_gin_config",),
    "partitioning": ("PjitPartitioner", "standard_logical_axis_rules"),
    "trainer": ("Trainer",),
    "utils": ("CheckpointConfig", "DatasetConfig", "RestoreCheckpointConfig", "SaveCheckpointConfig"),
}  # fmt: skip
BEAM_ALPHAS, BEAM_COUNTS = (0.0, 0.6, 1.0), (1, 2, 4)
OPTIMIZER = functools.partial(optimizers.adafactor, 0.3, weight_decay_rate=1e-5)


def make_model(folder: str) -> t5x_models.Model:
    """Exports t5_mini to `folder` as a T5X checkpoint, and wraps it with a prompt for T5X."""
    embedded = assets.path("t5_mini")
    model = model_lib.EncoderDecoderModel(
        huggingface.read_config(embedded), prompt_method.Prompt(20)
    )
    vocabulary = vocabularies.SentencePiece(assets.path("t5_mini/spiece.model"), extra_ids=100)
    checkpoint = exporter.export(
        model=model, vocabulary=vocabulary, checkpoint=embedded, output_dir=folder
    )
    return t5x_models.Model(
        model,
        vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=initializers.ClassLabels(LABELS),
        optimizer=OPTIMIZER,
    )


def read_batches(model: t5x_models.Model) -> list[dict[str, np.ndarray]]:
    """Reads the first batches of the reviews as T5X does, with seqio and the feature converter."""
    import seqio

    source = sources.TaskSource(
        train_file=assets.path("reviews/train.tsv"), input_template="{sentence}"
    )
    dataset = seqio.get_dataset(
        t5x_models.task(source, "train", model.vocabulary),
        LENGTHS,
        model.FEATURE_CONVERTER_CLS(pack=False),
        shuffle=False,
        batch_size=BATCH_SIZE,
    )
    return list(dataset.take(STEPS).as_numpy_iterator())


def losses_of_t5x(model: t5x_models.Model, batches: Sequence[dict], folder: str) -> list[float]:
    """Losses of T5X's trainer."""
    from t5x import partitioning as t5x_partitioning
    from t5x import trainer, utils

    replicated = [(name, None) for name in ("prompt", "prompt_embed", "embed_activations")]
    partitioner = t5x_partitioning.PjitPartitioner(
        num_partitions=1,
        logical_axis_rules=t5x_partitioning.standard_logical_axis_rules(
            additional_rules=replicated
        ),
    )
    initializer = utils.TrainStateInitializer(
        model.optimizer_def,
        model.get_initial_variables,
        {name: x.shape for name, x in batches[0].items()},
        partitioner,
    )
    restored = utils.RestoreCheckpointConfig(
        path=model.checkpoint,
        mode="specific",
        dtype="float32",
        state_transformation_fns=[t5x_models.FromBase(model)],
    )
    t5x_trainer = trainer.Trainer(
        model,
        initializer.from_checkpoint([restored]),
        partitioner,
        [],
        folder,
        initializer.train_state_axes,
        jax.random.PRNGKey(0),
        learning_rate_fn=optimizers.learning_rate_schedule(),
        num_microbatches=None,
    )
    with t5x_trainer:
        metrics = [t5x_trainer.train(iter([batch]), 1).result() for batch in batches]
    return [float(values["loss"].value) for values in metrics]


def losses_of_t5x_optimizer(model: t5x_models.Model, batches: Sequence[dict]) -> list[float]:
    """Losses of this package's logits with T5X's loss, MultiOptimizer and Adafactor."""
    from flax import traverse_util
    from t5x import adafactor, losses
    from t5x import optimizers as t5x_optimizers

    loaded = _loaded(model)
    prompt_optimizer = adafactor.Adafactor(
        learning_rate=0.3, multiply_by_parameter_scale=False, weight_decay_rate=1e-5
    )
    prompt = traverse_util.ModelParamTraversal(lambda path, _: path.endswith("/prompt/prompt"))
    optimizer = t5x_optimizers.MultiOptimizer(((prompt, prompt_optimizer),)).create(loaded.params)
    optimizer = optimizer.replace(state=optimizer.state.replace(step=jnp.int32(loaded.step)))

    def loss(params, batch):
        return losses.compute_weighted_cross_entropy(
            model.model.logits(params, batch),
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            z_loss=model.model.z_loss,
        )[0]

    @jax.jit
    def step(optimizer, batch):
        value, gradients = jax.value_and_grad(loss)(optimizer.target, batch)
        return optimizer.apply_gradient(gradients, learning_rate=0.3), value

    values = []
    for batch in batches:
        optimizer, value = step(optimizer, batch)
        values.append(float(value))
    return values


def metrics_of_t5x(model: t5x_models.Model, batch: dict) -> dict[str, float]:
    """T5X's loss and metrics of the initial logits, without timings."""
    from t5x import losses, models

    params = _loaded(model).params
    logits = model.model.logits(params, batch)
    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    loss, z_loss, _ = losses.compute_weighted_cross_entropy(
        logits, targets, weights, z_loss=model.model.z_loss
    )
    masks = {"encoder": batch["encoder_input_tokens"] != 0, "decoder": targets != 0}
    metrics = models.compute_base_metrics(logits, targets, weights, loss, z_loss, masks)
    return {
        name: float(metric.compute())
        for name, metric in metrics.items()
        if not name.startswith("timing/")
    }


def _loaded(model: t5x_models.Model) -> state.LoadedModel:
    return state.load_model(
        model.model,
        model.vocabulary,
        checkpoint=model.checkpoint,
        prompt_initializer=initializers.ClassLabels(LABELS),
    )


def losses_of_prompt_tuning(
    model: t5x_models.Model, batches: Sequence[dict], folder: str
) -> list[float]:
    """Losses of this package's training step."""
    loaded = _loaded(model)
    training = run.Run(
        loaded,
        run.TrainConfig(train_steps=loaded.step + len(batches)),
        folder,
        trainable=t5x_models.PROMPT,
        optimizer=OPTIMIZER,
        task="reviews",
    )
    step = step_lib.make_step(
        loaded.model, training.optimizer, jax.tree.map(lambda x: x.sharding, training.state)
    )
    losses, rng = [], jax.random.key(0)
    with partitioning.use(loaded.mesh):
        for batch in batches:
            placed = partitioning.place_batch(batch, loaded.mesh)
            training.state, sums = step(training.state, training.frozen, placed, rng)
            losses.append(float(sums["loss"]))
    return losses


def beam_logits() -> np.ndarray:
    """Logits [B, L, V, V] of the next token for each last token.

    The beams of row 0 end at once, those of row 1 never, some of row 2 late, and those of row 3 at
    any position.
    """
    rows, length, vocab = 4, 4, 12
    logits = 2 * np.sin(np.arange(rows * length * vocab * vocab, dtype=np.float64) ** 2)
    logits = logits.reshape(rows, length, vocab, vocab)
    logits[:3, ..., EOS_ID] = -20
    logits[0, 1:, :, EOS_ID] = 6
    best = np.argmax(logits[2, -2, 0])
    logits[2, -1, best, EOS_ID] = 6
    return logits.astype(np.float32)


def beams_of_t5x() -> list[dict]:
    """Decodes [B, N, L] and scores [B, N] of T5X's beam search, best first, for each setting."""
    from t5x import decoding

    logits = jnp.asarray(beam_logits())
    rows, length = logits.shape[:2]

    def step(state):
        (row,), last = state.cache.values(), state.cur_token[:, 0]
        return logits[row[:, 0], state.cur_index, last], state.cache

    searches = []
    for alpha, count in itertools.product(BEAM_ALPHAS, BEAM_COUNTS):
        start = jnp.zeros((rows, length), jnp.int32), {"row": jnp.arange(rows)[:, None]}
        tokens, scores = decoding.beam_search(*start, step, EOS_ID, count, alpha)
        searches.append(
            {
                "alpha": alpha,
                "num_decodes": count,
                "tokens": np.flip(tokens, 1).tolist(),
                "scores": np.flip(scores, 1).tolist(),
            }
        )
    return searches


def settings_of_t5x() -> dict[str, dict[str, bool]]:
    """{module.function of T5X: {argument: whether it is required}} for BOUND."""
    arguments = {}
    for name, members in BOUND.items():
        module = importlib.import_module(f"t5x.{name}")
        for member in members:
            parameters = inspect.signature(getattr(module, member)).parameters.values()
            arguments[f"{name}.{member}"] = {p.name: p.default is p.empty for p in parameters}
    return arguments


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the losses of all three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", metavar="FILE", help="JSON file for the data of T5X")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(folder)
        batches = read_batches(model)
        metrics = metrics_of_t5x(model, batches[0])
        curves = {
            "T5X's trainer": losses_of_t5x(model, batches, folder),
            "T5X's optimizer": losses_of_t5x_optimizer(model, batches),
            "prompt-tuning": losses_of_prompt_tuning(model, batches, folder),
        }
    print("step", *(f"{name:>16}" for name in curves))
    for number, losses in enumerate(zip(*curves.values(), strict=True)):
        print(f"{number:4}", *(f"{loss:16.6f}" for loss in losses))
    *t5x_losses, own_losses = (np.array(losses) for losses in curves.values())
    difference = max(np.max(np.abs(own_losses / losses - 1)) for losses in t5x_losses)
    print(f"largest relative difference: {difference:.1e}")
    if options.output:
        golden = {
            "losses": curves["T5X's trainer"],
            "metrics": metrics,
            "beams": beams_of_t5x(),
            "settings": settings_of_t5x(),
        }
        pathlib.Path(options.output).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
