"""The worker of scripts/bench.py that runs this package, without TensorFlow; see bench_workers.py.

Each function named in PROGRAMS makes one program ready. Weights are random, made on the device in
their dtype; a step is training/step.py's with the paper's Adafactor, as `prompt-tuning train` runs it.
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
    """A state, and the step that moves it."""

    def __init__(self, model: model_lib.EncoderDecoderModel):
        """Random weights on the devices, and the paper's optimizer."""
        optimizer = optimizers.for_trainable(
            optimizers.adafactor(0.3, start_step=START_STEP, weight_decay_rate=1e-5), TRAINABLE
        )
        tuned, self._frozen = params_lib.split(bench_weights.random_weights(model), TRAINABLE)
        started = state.TrainState(jnp.asarray(START_STEP), tuned, optimizer.init(tuned))
        self.state = jax.device_put(started, partitioning.replicated(MESH))
        where = jax.tree.map(lambda x: x.sharding, self.state)
        self._step, self._rng = step_lib.make_step(model, optimizer, where), jax.random.key(0)

    def compile(self, batch: batching.Batch) -> bench_workers.Json:
        """Compiles the step for batches of this shape; returns its FLOPs and memory, as XLA says."""
        placed = partitioning.place_batch(batch, MESH)
        with partitioning.use(MESH):
            lowered = self._step.lower(self.state, self._frozen, placed, self._rng)
        self._step = lowered.compile()
        return {
            "compiled_flops": self._step.cost_analysis()["flops"] * MESH.size,  # of one device
            "temporary_bytes": self._step.memory_analysis().temp_size_in_bytes,
        }

    def move(self, batch: batching.Batch) -> None:
        """One step, from numpy arrays; does not wait for it."""
        placed = partitioning.place_batch(batch, MESH)
        with partitioning.use(MESH):
            self.state, _ = self._step(self.state, self._frozen, placed, self._rng)

    def wait(self) -> None:
        """Until the prompt is moved."""
        jax.block_until_ready(self.state)


def train(
    *, size, batch, input_length, prompt_length, target_length, dropout, dtype, steps
) -> bench_workers.Prepared:
    """`steps` steps on one padded batch whose rows are full."""
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
            job.move(padded)
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


def products(*, size, rows, dtype, library, times) -> bench_workers.Prepared:
    """`times` times the kernels' products of an encoder layer, by XLA or by numpy."""
    shapes = bench_sizes.products(bench_sizes.SIZES[size], rows)
    if library == "numpy":
        rng = np.random.default_rng(0)
        pairs = [
            (rng.random((m, k), np.float32), rng.random((k, n), np.float32)) for m, k, n in shapes
        ]
        dot = np.dot
    else:
        pairs = [
            (jnp.ones((m, k), jnp.dtype(dtype)), jnp.ones((k, n), jnp.dtype(dtype)))
            for m, k, n in shapes
        ]
        dot = jax.jit(jnp.dot)
    # A CPU would run several at once; an accelerator takes them in order, and waiting costs time.
    patient = jax.default_backend() == "cpu"

    def run() -> None:
        for _ in range(times):
            for a, b in pairs:
                last = dot(a, b)
                if patient:
                    jax.block_until_ready(last)
        jax.block_until_ready(last)

    flops = times * bench_sizes.products_flops(bench_sizes.SIZES[size], rows)
    return bench_workers.Prepared(run, {"flops": flops})


def read_examples(
    vocabulary: vocabularies.SentencePiece, path: str, number: int
) -> list[batching.Example]:
    """The first examples of a TSV file as ids with an end token; neither cut nor with soft ids."""

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
    """From lines of a file to a prompt that all their batches have moved, in the file's order."""
    model = bench_weights.make_model(size, dtype, dropout, prompt_length)
    words = vocabularies.SentencePiece(vocabulary)
    soft, job = state.soft_tokens(model, words), Training(model)
    lengths = {"inputs": input_length, "targets": target_length}
    config = pipeline.DatasetConfig(None, lengths, "train", batch, pack=mode == "packed")
    # Chosen once, as a run does before its first step: not in the time.
    known = read_examples(words, path, examples)
    assemble = batching.make_assembler(config.max_lengths, batch, soft, known, pack=config.pack)
    if mode == "padded":

        def assemble(some):
            trimmed = [soft.insert(config.max_lengths.trim(each)) for each in some]
            return batching.pad(trimmed, batch, prompt_length + input_length, target_length)

    def batches(waiting):
        return (assemble(waiting[i : i + batch]) for i in range(0, len(waiting), batch))

    def run() -> None:
        for each in batches(read_examples(words, path, examples)):
            job.move(each)
        job.wait()

    tokens = sum(min(len(example["inputs"]), input_length) for example in known)
    shapes = sorted({each["encoder_input_tokens"].shape for each in batches(known)})
    return bench_workers.Prepared(
        run, {"examples": len(known), "input_tokens": tokens, "shapes": shapes}
    )


def decode(
    *, size, batch, input_length, prompt_length, target_length, dtype, steps
) -> bench_workers.Prepared:
    """`steps` times greedy decoding of `target_length` tokens; no row ends before."""
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
        raise ValueError("a row ended early: the time would be of fewer tokens")

    return bench_workers.Prepared(run, {"tokens": steps * batch * target_length})


def score(
    *, size, path, vocabulary, examples, batch, input_length, prompt_length, dtype
) -> bench_workers.Prepared:
    """From lines of a file to the more probable label of each, as `eval` does with LABELS."""
    labels = tuple(bench_text.LABELS.values())
    model = bench_weights.make_model(size, dtype, prompt_length=prompt_length)
    model = dataclasses.replace(model, decoder=decoding.LabelRanking(labels))
    words, weights = vocabularies.SentencePiece(vocabulary), bench_weights.random_weights(model)
    loaded = state.LoadedModel(model, words, weights, MESH, None, None, "")
    predictor = predictor_lib.Predictor(loaded)
    no_metrics = types.SimpleNamespace(score_metric_fns=())

    def run() -> list[str]:
        task = evaluation_task.EvaluationTask(
            "sst2",
            read_examples(words, path, examples),
            batching.MaxLengths(input_length, 8),
            no_metrics,
            words,
        )
        return [p.texts[0] for p in predictor.predict(task, batch, num_decodes=1)]

    answers = run()
    if not set(answers) <= set(labels):
        raise ValueError("an answer is no label")
    return bench_workers.Prepared(run, {"examples": len(answers)})


def write_models(*, size, folder) -> bench_workers.Prepared:
    """Writes a model of random weights in each format that is read, float32."""
    model = bench_weights.make_model(size, "float32")
    weights = jax.device_get(bench_weights.random_weights(model))
    vocabulary = assets.path("t5_mini/spiece.model")
    target = f"{folder}/huggingface"
    huggingface.save(
        target, weights, model.config, vocabulary_file=vocabulary, step=0, dtype="float32"
    )
    stored = {path: lazy_arrays.from_numpy(x) for path, x in params_lib.flatten(weights).items()}
    t5x.save(f"{folder}/t5x", stored, step=0, dtype="float32")
    # As T5X's trainer saves it, but for the optimizer's state.
    handler = orbax.PyTreeCheckpointHandler(use_ocdbt=True)
    with orbax.CheckpointManager(folder, item_handlers={"state": handler}) as manager:
        item = orbax.args.PyTreeSave({"target": weights, "state": {"step": np.int32(0)}})
        manager.save(0, args=orbax.args.Composite(state=item))
    pathlib.Path(folder, "0").rename(f"{folder}/orbax")
    return bench_workers.Prepared(lambda: None, {})


def load(*, size, folder, format, dtype) -> bench_workers.Prepared:
    """Reads a model and places it on the devices."""
    boxed = bench_weights.make_model(size, "float32").abstract_params()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), nn.unbox(boxed))
    where = partitioning.shardings(boxed, MESH)

    def run() -> None:
        weights, _ = base_model.load(f"{folder}/{format}", abstract, where)
        jax.block_until_ready(weights)

    growth = bench_workers.growth(run)
    facts = {"weights_bytes": params_lib.size_in_bytes(abstract), "growth_bytes": growth}
    return bench_workers.Prepared(run, facts)


def save(*, size, prompt_length) -> bench_workers.Prepared:
    """Saves what a run needs to resume: prompt, optimizer, step."""
    # Random: what repeats would be compressed.
    shape = prompt_length, bench_sizes.SIZES[size].embed_dim
    table = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    tuned = params_lib.unflatten({prompt_method.PATH: table})
    optimizer = optimizers.for_trainable(optimizers.adafactor(0.3), TRAINABLE)
    moments = jax.tree.map(lambda x: x + table if x.shape == shape else x, optimizer.init(tuned))
    tree = state.TrainState(jnp.asarray(0), tuned, moments)

    def run() -> int:
        with tempfile.TemporaryDirectory() as folder:
            train_state.save(folder, 0, tree, {}, keep=1)
            files = pathlib.Path(folder).rglob("*")
            return sum(each.stat().st_size for each in files if each.is_file())

    return bench_workers.Prepared(run, {"state_bytes": run()})


def pieces(*, vocabulary, file) -> bench_workers.Prepared:
    """Writes the vocabulary's [token, score] pairs as JSON, for a peer without sentencepiece."""
    words = vocabularies.SentencePiece(vocabulary).processor
    pairs = [(words.IdToPiece(i), words.GetScore(i)) for i in range(words.GetPieceSize())]
    pathlib.Path(file).write_text(json.dumps(pairs))
    return bench_workers.Prepared(lambda: None, {})


PROGRAMS = {
    each.__name__: each
    for each in (train, products, file, decode, score, write_models, load, save, pieces)
}


def device_peak() -> int | None:
    """The most bytes in use so far on the first device; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


if __name__ == "__main__":
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")}
    device = jax.devices()[0]
    hello = {"platform": device.platform, "device": device.device_kind, "versions": versions}
    bench_workers.serve(hello, PROGRAMS, device_peak)
