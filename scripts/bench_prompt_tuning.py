"""Worker of scripts/bench.py for this package (see bench_workers.py). It needs no TensorFlow.

Each function of PROGRAMS prepares one benchmark. Weights are random and are made on the device in
their dtype. A step is that of training/step.py with the paper's Adafactor.
"""

import dataclasses
import importlib.metadata
import json
import pathlib
import tempfile
import types

import bench_sizes
import bench_text
import bench_weights
import bench_workers
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from orbax import checkpoint as orbax

from prompt_tuning import assets
from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import base_model, lazy_arrays, train_state
from prompt_tuning.checkpoints.formats import huggingface, t5x
from prompt_tuning.data import evaluation_task, pipeline, vocabularies
from prompt_tuning.data.batches import batching
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import predictor as predictor_lib
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import decoding
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import optimizers, state
from prompt_tuning.training import step as step_lib

TRAINABLE = (".*/prompt/.*",)
START_STEP = 1_100_000  # of the LM-adapted checkpoints
MESH = bench_weights.MESH
EOS_ID = decoding.EOS_ID


class Training:
    """A training state and its step."""

    def __init__(self, model: model_lib.EncoderDecoderModel):
        """Initializes random weights and the paper's optimizer."""
        optimizer = optimizers.for_trainable(
            optimizers.adafactor(0.3, start_step=START_STEP, weight_decay_rate=1e-5), TRAINABLE
        )
        trainable, self._frozen = params_lib.split(bench_weights.random_weights(model), TRAINABLE)
        initial = state.TrainState(jnp.asarray(START_STEP), trainable, optimizer.init(trainable))
        self.state = jax.device_put(initial, partitioning.replicated(MESH))
        shardings = jax.tree.map(lambda x: x.sharding, self.state)
        self._step, self._rng = step_lib.make_step(model, optimizer, shardings), jax.random.key(0)

    def compile(self, batch: batching.Batch) -> bench_workers.Json:
        """Compiles the step for batches of this shape; returns XLA's FLOPs and memory."""
        placed = partitioning.place_batch(batch, MESH)
        with partitioning.use(MESH):
            lowered = self._step.lower(self.state, self._frozen, placed, self._rng)
        self._step = lowered.compile()
        return {
            "compiled_flops": self._step.cost_analysis()["flops"]
            * MESH.size,  # the analysis is per device
            "temporary_bytes": self._step.memory_analysis().temp_size_in_bytes,
        }

    def run_step(self, batch: batching.Batch) -> None:
        """Starts a step on a batch of numpy arrays."""
        placed = partitioning.place_batch(batch, MESH)
        with partitioning.use(MESH):
            self.state, _ = self._step(self.state, self._frozen, placed, self._rng)

    def wait(self) -> None:
        """Waits for all steps."""
        jax.block_until_ready(self.state)


def train(
    *, size, batch, input_length, prompt_length, target_length, dropout, dtype, steps
) -> bench_workers.Prepared:
    """`steps` training steps on a padded batch of full rows."""
    model = bench_weights.make_model(size, dtype, dropout, prompt_length)
    rng = np.random.default_rng(0)
    examples = [
        bench_weights.random_example(model, input_length, target_length, rng) for _ in range(batch)
    ]
    padded = batching.pad(examples, batch, prompt_length + input_length, target_length)
    job = Training(model)
    compiled = job.compile(padded)

    def run() -> None:
        for _ in range(steps):
            job.run_step(padded)
        job.wait()

    facts = {
        **compiled,
        "analytic_flops": bench_sizes.train_flops(
            bench_sizes.SIZES[size], batch, input_length, prompt_length, target_length
        ),
        "examples": steps * batch,
        "parameters": params_lib.count(nn.unbox(model.abstract_params())),
    }
    return bench_workers.Prepared(run, facts)


def products(*, size, rows, dtype, times) -> bench_workers.Prepared:
    """The kernels' products of an encoder layer, `times` times."""
    pairs = [
        (jnp.ones((m, k), jnp.dtype(dtype)), jnp.ones((k, n), jnp.dtype(dtype)))
        for m, k, n in bench_sizes.products(bench_sizes.SIZES[size], rows)
    ]
    dot = jax.jit(jnp.dot)
    # A CPU would run several at once; an accelerator runs them in order.
    waits_for_each = jax.default_backend() == "cpu"

    def run() -> None:
        for _ in range(times):
            for a, b in pairs:
                result = dot(a, b)
                if waits_for_each:
                    jax.block_until_ready(result)
        jax.block_until_ready(result)

    flops = times * bench_sizes.products_flops(bench_sizes.SIZES[size], rows)
    return bench_workers.Prepared(run, {"flops": flops})


def read_examples(
    vocabulary: vocabularies.SentencePiece, path: str, number: int
) -> list[batching.Example]:
    """Tokenizes the first rows of a TSV file, with EOS, without truncation and soft tokens."""

    def ids(text: str) -> np.ndarray:
        return np.array([*vocabulary.encode(text), EOS_ID], np.int32)

    pairs = bench_text.read(path, number)
    return [{"inputs": ids(sentence), "targets": ids(label)} for sentence, label in pairs]


def file(
    *,
    size,
    mode,
    path,
    vocabulary,
    examples,
    batch,
    input_length,
    prompt_length,
    target_length,
    dropout,
    dtype,
) -> bench_workers.Prepared:
    """Reads, batches and trains on the rows of a file, in their order."""
    model = bench_weights.make_model(size, dtype, dropout, prompt_length)
    tokenizer = vocabularies.SentencePiece(vocabulary)
    soft_tokens, job = state.soft_tokens(model, tokenizer), Training(model)
    lengths = {"inputs": input_length, "targets": target_length}
    config = pipeline.DatasetConfig(None, lengths, "train", batch, pack=mode == "packed")
    # A run selects its shapes before the first step, so this is not timed.
    data = read_examples(tokenizer, path, examples)
    assemble = batching.make_assembler(
        config.max_lengths, batch, soft_tokens, data, pack=config.pack
    )
    if mode == "padded":

        def assemble(rows):
            trimmed = [soft_tokens.insert(config.max_lengths.trim(row)) for row in rows]
            return batching.pad(trimmed, batch, prompt_length + input_length, target_length)

    def batches(rows):
        return (assemble(rows[i : i + batch]) for i in range(0, len(rows), batch))

    def run() -> None:
        for arrays in batches(read_examples(tokenizer, path, examples)):
            job.run_step(arrays)
        job.wait()

    tokens = sum(min(len(example["inputs"]), input_length) for example in data)
    shapes = sorted({arrays["encoder_input_tokens"].shape for arrays in batches(data)})
    facts = {"examples": len(data), "input_tokens": tokens, "shapes": shapes}
    return bench_workers.Prepared(run, facts)


def decode(
    *, size, batch, input_length, prompt_length, target_length, dtype, steps
) -> bench_workers.Prepared:
    """Greedy decoding of exactly `target_length` tokens, `steps` times."""
    model = bench_weights.make_model(size, dtype, prompt_length=prompt_length)
    rng, weights = np.random.default_rng(0), bench_weights.random_weights(model)
    rows = [
        bench_weights.random_example(model, input_length, 1, rng)["inputs"] for _ in range(batch)
    ]
    ids = jax.device_put(np.stack(rows).astype(np.int32))

    @jax.jit
    def predict(weights, ids):
        return model.predict(weights, ids, target_length)[0]

    def run() -> jax.Array:
        with partitioning.use(MESH):
            for _ in range(steps):
                tokens = predict(weights, ids)
        return jax.block_until_ready(tokens)

    if (np.asarray(run()) == EOS_ID).any():
        raise ValueError("a sequence ended before target_length tokens")

    return bench_workers.Prepared(run, {"tokens": steps * batch * target_length})


def score(
    *, size, path, vocabulary, examples, batch, input_length, prompt_length, dtype
) -> bench_workers.Prepared:
    """Reads the rows of a file and ranks the labels of each, as `eval` with LABELS."""
    labels = tuple(bench_text.LABELS.values())
    model = bench_weights.make_model(size, dtype, prompt_length=prompt_length)
    model = dataclasses.replace(model, decoder=decoding.LabelRanking(labels))
    tokenizer, weights = vocabularies.SentencePiece(vocabulary), bench_weights.random_weights(model)
    loaded = state.LoadedModel(model, tokenizer, weights, MESH, None, None, "")
    predictor = predictor_lib.Predictor(loaded)
    no_metrics = types.SimpleNamespace(score_metric_fns=())

    def run() -> list[str]:
        task = evaluation_task.EvaluationTask(
            "sst2",
            read_examples(tokenizer, path, examples),
            batching.MaxLengths(input_length, 8),
            no_metrics,
            tokenizer,
        )
        return [p.texts[0] for p in predictor.predict(task, batch, num_decodes=1)]

    predictions = run()
    if not set(predictions) <= set(labels):
        raise ValueError(f"predictions {set(predictions)} are not all among {labels}")
    return bench_workers.Prepared(run, {"examples": len(predictions)})


def write_models(*, size, folder) -> bench_workers.Prepared:
    """Writes a float32 model of random weights in each format."""
    model = bench_weights.make_model(size, "float32")
    weights = jax.device_get(bench_weights.random_weights(model))
    vocabulary = assets.path("t5_mini/spiece.model")
    target = f"{folder}/huggingface"
    huggingface.save(
        target, weights, model.config, vocabulary_file=vocabulary, step=0, dtype="float32"
    )
    stored = {path: lazy_arrays.from_numpy(x) for path, x in params_lib.flatten(weights).items()}
    t5x.save(f"{folder}/t5x", stored, step=0, dtype="float32")
    # As T5X's trainer saves it, without the optimizer's state.
    handler = orbax.PyTreeCheckpointHandler(use_ocdbt=True)
    with orbax.CheckpointManager(folder, item_handlers={"state": handler}) as manager:
        item = orbax.args.PyTreeSave({"target": weights, "state": {"step": np.int32(0)}})
        manager.save(0, args=orbax.args.Composite(state=item))
    pathlib.Path(folder, "0").rename(f"{folder}/orbax")
    return bench_workers.Prepared(lambda: None, {})


def load(*, size, folder, format, dtype) -> bench_workers.Prepared:
    """Loads a model onto the devices."""
    boxed = bench_weights.make_model(size, "float32").abstract_params()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), nn.unbox(boxed))
    shardings = partitioning.shardings(boxed, MESH)

    def run() -> None:
        weights, _ = base_model.load(f"{folder}/{format}", abstract, shardings)
        jax.block_until_ready(weights)

    growth = bench_workers.memory_growth(run)
    facts = {"weights_bytes": params_lib.size_in_bytes(abstract), "growth_bytes": growth}
    return bench_workers.Prepared(run, facts)


def save(*, size, prompt_length) -> bench_workers.Prepared:
    """Saves the training state of a prompt."""
    # Random values, since constant ones would be compressed.
    shape = prompt_length, bench_sizes.SIZES[size].embed_dim
    table = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    trainable = params_lib.unflatten({prompt_method.PATH: table})
    optimizer = optimizers.for_trainable(optimizers.adafactor(0.3), TRAINABLE)
    initial = optimizer.init(trainable)
    moments = jax.tree.map(lambda x: x + table if x.shape == shape else x, initial)
    tree = state.TrainState(jnp.asarray(0), trainable, moments)

    def run() -> int:
        with tempfile.TemporaryDirectory() as folder:
            train_state.save(folder, 0, tree, {}, keep=1)
            files = pathlib.Path(folder).rglob("*")
            return sum(file.stat().st_size for file in files if file.is_file())

    return bench_workers.Prepared(run, {"state_bytes": run()})


def write_pieces(*, vocabulary, file) -> bench_workers.Prepared:
    """Writes the vocabulary's [token, score] pairs as JSON, for an environment without sentencepiece."""
    processor = vocabularies.SentencePiece(vocabulary).processor
    ids = range(processor.GetPieceSize())
    pairs = [(processor.IdToPiece(i), processor.GetScore(i)) for i in ids]
    pathlib.Path(file).write_text(json.dumps(pairs))
    return bench_workers.Prepared(lambda: None, {})


PROGRAMS = {
    function.__name__: function
    for function in (train, products, file, decode, score, write_models, load, save, write_pieces)
}


def device_peak() -> int | None:
    """Peak memory of the first device in bytes; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


if __name__ == "__main__":
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")}
    device = jax.devices()[0]
    hello = {"platform": device.platform, "device": device.device_kind, "versions": versions}
    bench_workers.serve(hello, PROGRAMS, device_peak)
