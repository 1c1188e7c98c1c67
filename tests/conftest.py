"""What all tests share: 8 host devices, strict dtypes, a vocabulary, a tiny model, job and run, goldens."""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

# XLA compiles test programs in half the time; set before JAX starts, for processes that tests start too.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_parallel_codegen_split_count=1 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)

import jax
import numpy as np
import optax
import pytest
import sentencepiece
from flax import linen as nn
from jax.sharding import AxisType

from prompt_tuning import params
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.cli import main as cli
from prompt_tuning.data import pipeline, vocabularies
from prompt_tuning.data.batches import batching, soft_tokens
from prompt_tuning.distributed import partitioning
from prompt_tuning.methods import base
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model
from prompt_tuning.training import optimizers, run, state, step

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)  # Compiling is most of a test's time.

TESTDATA = pathlib.Path(__file__).parent / "testdata"
SENTENCES = [
    f"{who} {verb} the {how} {what} in the {location} ."
    for who in ("she", "he", "nobody", "everyone")
    for verb in ("liked", "hated", "saw", "forgot")
    for how in ("good", "bad", "long", "dull")
    for what in ("film", "story", "song")
    for location in ("park", "town")
]


class Golden(NamedTuple):
    """A tiny T5 and what transformers and PEFT say of it; see scripts/make_goldens.py."""

    config: config_lib.T5Config
    params: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def teacher(self) -> dict[str, np.ndarray]:
        """The batch whose logits are stored."""
        targets = self.arrays["targets"]
        return {
            "encoder_input_tokens": self.arrays["inputs"],
            "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": targets,
        }


def read_golden(name: str) -> Golden:
    """Reads tests/testdata/NAME.npz."""
    with np.load(TESTDATA / f"{name}.npz") as file:
        arrays = dict(file)
    weights = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}
    config = config_lib.T5Config(**json.loads(str(arrays["config"])))
    return Golden(config, params.unflatten(weights), arrays)


@pytest.fixture(scope="session", params=["t5_gated_gelu_untied", "t5_relu_tied"])
def golden(request) -> Golden:
    """Each stored model in turn."""
    return read_golden(request.param)


@pytest.fixture(scope="session")
def decoder_only_golden() -> Golden:
    """A tiny decoder without encoder; see scripts/make_decoder_only_golden.py."""
    return read_golden("decoder_only")


class Adapter(NamedTuple):
    """A folder that PEFT wrote, and what the model answers with it."""

    folder: pathlib.Path
    base: Golden
    batch: dict[str, np.ndarray]
    logits: np.ndarray


@pytest.fixture
def peft_adapter(tmp_path) -> Callable[[str, str], Adapter]:
    """(model, adapter) -> the golden of these names from scripts/make_peft_goldens.py."""

    def write(base: str, name: str) -> Adapter:
        with np.load(TESTDATA / "peft_adapters.npz") as file:
            arrays = dict(file)
        folder, of = tmp_path / "from_peft" / name, f"{base}/{name}"
        folder.mkdir(parents=True)
        for part, file in (
            ("config", "adapter_config.json"),
            ("weights", "adapter_model.safetensors"),
        ):
            (folder / file).write_bytes(arrays[f"{of}/{part}"].tobytes())
        golden = read_golden(base)
        batch = golden._replace(arrays=arrays).teacher
        return Adapter(folder, golden, batch, arrays[f"{of}/logits"])

    return write


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], types.ModuleType]:
    """(name) -> the module scripts/NAME.py, a new one at each call."""

    def load(name: str) -> types.ModuleType:
        file = TESTDATA.parents[1] / "scripts" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> vocabularies.SentencePiece:
    """About 50 tokens (letters and a few words) and 100 sentinels."""
    folder = tmp_path_factory.mktemp("vocabulary")
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([*SENTENCES, "abcdefghijklmnopqrstuvwxyz0123456789:,'\""]),
        model_prefix=str(folder / "tiny"),
        vocab_size=100,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return vocabularies.SentencePiece(str(folder / "tiny.model"), extra_ids=100)


class Tiny(NamedTuple):
    """A prompted T5 of one layer a stack, small enough to train in a test.

    `checkpoint` is a Hugging Face folder at step 1,000 with the weights `base`.
    """

    model: model.EncoderDecoderModel
    vocabulary: vocabularies.SentencePiece
    checkpoint: str
    base: dict[str, Any]


@pytest.fixture(scope="session")
def tiny(vocabulary, tmp_path_factory) -> Tiny:
    """Heads, rows and columns that 8 devices can share; a prompt of 4 vectors."""
    config = config_lib.T5Config(
        vocab_size=256,
        embed_dim=16,
        num_heads=8,
        head_dim=2,
        mlp_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dropout_rate=0.1,
    )
    base = jax.device_get(jax.jit(model.EncoderDecoderModel(config).init)(jax.random.key(0)))
    folder = tmp_path_factory.mktemp("tiny") / "model"
    huggingface.save(
        folder, base, config, vocabulary_file=vocabulary.path, step=1000, dtype="float32"
    )
    prompted = model.EncoderDecoderModel(config, prompt_method.Prompt(4))
    return Tiny(prompted, vocabulary, str(folder), base)


traced = functools.cache(model.EncoderDecoderModel.abstract_params)


@pytest.fixture
def quick_shapes(monkeypatch) -> None:
    """abstract_params traces one layer of each stack and repeats it; families_test says it may."""

    def abstract_params(self):
        shallow = dataclasses.replace(self.config, num_encoder_layers=1, num_decoder_layers=1)
        tree = dict(traced(dataclasses.replace(self, config=shallow)))
        for stack in tree.keys() & {"encoder", "decoder"}:
            depth = getattr(self.config, f"num_{stack}_layers")
            rest = {name: leaf for name, leaf in tree[stack].items() if name != "layers_0"}
            tree[stack] = rest | {f"layers_{i}": tree[stack]["layers_0"] for i in range(depth)}
        return tree

    monkeypatch.setattr(model.EncoderDecoderModel, "abstract_params", abstract_params)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory) -> None:
    """What one test has compiled no other compiles again, nor a process that a test starts."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session", autouse=True)
def small_sample():
    """Check at most 256 examples: tf.data restarts a small file for each pass over it.

    More than the tiny job has, so that processes started by a test pack in the same shapes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "CHECKED_EXAMPLES", 256)
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_process():
    """What `cli.main` does to a whole process is not done to this one, which is all tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "start_process", lambda: None)
        patch.setattr(cli, "end_process", sys.exit)
        yield


class TinyJob(NamedTuple):
    """A folder with tiny.gin (the tiny model and its data), and train, eval, infer and text files."""

    folder: pathlib.Path

    def command(self, verb: str, *gin_files: str, **macros: Any) -> list[str]:
        """A command line on tiny.gin; without gin files the verb's own run."""
        files = [self.folder / "tiny.gin", *(gin_files or [f"runs/{verb}.gin"])]
        flags = [f"--gin.{name}={_gin_value(value)}" for name, value in macros.items()]
        return [verb, *(f"--gin_file={file}" for file in files), *flags]


def _gin_value(value: Any) -> str:
    return repr(str(value) if isinstance(value, pathlib.Path) else value)


@pytest.fixture(scope="session")
def tiny_job(tmp_path_factory, tiny) -> TinyJob:
    """Made once: tests write elsewhere."""
    folder = tmp_path_factory.mktemp("job")
    rows = [(text, how) for text in SENTENCES for how in ("good", "bad") if f" {how} " in text]
    lines = [f"{text}\t{how}\n" for text, how in rows]
    for name, some in (("train.tsv", lines[:-30]), ("eval.tsv", lines[-30:])):
        (folder / name).write_text("text\tlabel\n" + "".join(some))
    asked = "".join(json.dumps({"text": text}) + "\n" for text, _ in rows[-20:])
    (folder / "infer.jsonl").write_text(asked)
    (folder / "text.txt").write_text("".join(f"{text}\n" for text in SENTENCES))
    config = tiny.model.config
    macros = {
        "NUM_EMBEDDINGS": config.vocab_size,
        "EMBED_DIM": config.embed_dim,
        "NUM_HEADS": config.num_heads,
        "HEAD_DIM": config.head_dim,
        "MLP_DIM": config.mlp_dim,
        "NUM_ENCODER_LAYERS": config.num_encoder_layers,
        "NUM_DECODER_LAYERS": config.num_decoder_layers,
        "INITIAL_CHECKPOINT_PATH": tiny.checkpoint,
        "VOCABULARY_FILE": tiny.vocabulary.path,
        "EXTRA_IDS": tiny.vocabulary.extra_ids,
        "PROMPT_LENGTH": tiny.model.method.length,
        "TASK_FEATURE_LENGTHS": {"inputs": 40, "targets": 8},
        "TRAIN_FILE": folder / "train.tsv",
        "EVAL_FILE": folder / "eval.tsv",
        "INFER_FILE": folder / "infer.jsonl",
    }
    text = "".join(f"{name} = {_gin_value(value)}\n" for name, value in macros.items())
    (folder / "tiny.gin").write_text(f"include 'models/t5_1_1.gin'\n\n{text}")
    return TinyJob(folder)


@pytest.fixture
def few_steps(tiny) -> Callable[..., tuple[list[float], dict[str, np.ndarray]]]:
    """(model, {path: start of what it adds}, batch) -> losses, {path: what was trained}."""

    trainable = (".*/prompt/.*",)

    def go(of: model.EncoderDecoderModel, added: Mapping[str, np.ndarray], batch, steps=12):
        weights = params.merge(tiny.base, params.unflatten(added))
        tuned, frozen = params.split(weights, trainable)
        assert params.flatten(tuned).keys() == of.adapter_paths
        adafactor = optimizers.adafactor(0.3, start_step=1000)
        optimizer = optimizers.for_trainable(adafactor, trainable)

        @jax.jit
        def step(tuned, slots):
            def loss(tree):
                return of.loss(params.merge(tree, frozen), batch)

            (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(tuned)
            updates, slots = optimizer.update(gradient, slots, tuned)
            return optax.apply_updates(tuned, updates), slots, value

        slots, losses = optimizer.init(tuned), []
        for _ in range(steps):
            tuned, slots, value = step(tuned, slots)
            losses.append(float(value))
        return losses, params.flatten(jax.device_get(tuned))

    return go


SOFT = soft_tokens.SoftTokens(256 + np.arange(4, dtype=np.int32))
FIRST_STEP = 1000


class ShiftedPrompt(prompt_method.Prompt):
    """A method of two parameters: a prompt, and a vector that is added to each of its rows."""

    def parameters(self, config, shapes):
        shift = base.Parameter((config.embed_dim,), nn.initializers.normal(1.0))
        return super().parameters(config, shapes) | {"encoder/prompt/shift": shift}

    def embed_input(self, site, x, soft_ids):
        table = base.parameter(site, "prompt/prompt") + base.parameter(site, "prompt/shift")
        return prompt_method.fill(table, soft_ids, x)


@pytest.fixture(scope="session")
def shifted(tiny) -> model.EncoderDecoderModel:
    """The tiny model with two parameters beside the checkpoint's."""
    return dataclasses.replace(tiny.model, method=ShiftedPrompt(4))


def adafactor(start_step: int) -> optax.GradientTransformation:
    """The paper's."""
    return optimizers.adafactor(0.3, start_step=start_step, weight_decay_rate=1e-5)


@pytest.fixture(scope="session")
def load(tiny) -> Callable[..., state.LoadedModel]:
    """(mesh shape, settings of the network) -> the tiny model on a mesh of its own."""

    def make(shape: tuple[int, int] = (1, 1), **network_settings) -> state.LoadedModel:
        mesh = jax.make_mesh(
            shape,
            (partitioning.DATA, partitioning.MODEL),
            axis_types=(AxisType.Auto, AxisType.Auto),
            devices=jax.devices()[: shape[0] * shape[1]],
        )
        config = dataclasses.replace(tiny.model.config, **network_settings)
        model = dataclasses.replace(tiny.model, config=config)
        prompt = np.random.default_rng(5).normal(size=(4, 16)).astype(np.float32)
        weights = params.merge(tiny.base, params.unflatten({prompt_method.PATH: prompt}))
        placed = jax.device_put(weights, partitioning.shardings(model.abstract_params(), mesh))
        return state.LoadedModel(
            model, tiny.vocabulary, placed, mesh, "base", FIRST_STEP, "digest of the base"
        )

    return make


@pytest.fixture
def make_run(load, tmp_path) -> Callable[..., run.Run]:
    """Runs in `tmp_path` from step 1,000; settings of the network and of the schedule by name."""

    def make(
        loaded: state.LoadedModel | None = None,
        *,
        folder: str = "run",
        steps: int = 5,
        trainable: tuple[str, ...] = (".*/prompt/.*",),
        optimizer=adafactor,
        **schedule,
    ) -> run.Run:
        return run.Run(
            loaded or load(),
            run.TrainConfig(FIRST_STEP + steps, **schedule),
            tmp_path / folder,
            trainable=trainable,
            optimizer=optimizer,
            task="a task",
        )

    return make


@pytest.fixture(scope="session")
def make_step() -> Callable[..., step.Step]:
    """(run, number of microbatches) -> its step, as the trainer makes it."""

    def make(of: run.Run, num_microbatches: int = 1) -> step.Step:
        where = jax.tree.map(lambda x: x.sharding, of.state)
        return step.make_step(of.loaded.model, of.optimizer, where, num_microbatches)

    return make


class Batches:
    """Ids without meaning, in epochs of ten examples, with the interface of TrainBatches."""

    def __init__(self, pack: bool = False, size: int = 8):
        rng = np.random.default_rng(7)
        self.examples = [
            {"inputs": ids(rng, rng.integers(3, 7)), "targets": ids(rng, rng.integers(2, 4))}
            for _ in range(10)
        ]
        self.pack, self.size = pack, size
        self.position: Mapping[str, int] = {"epoch": 0, "examples": 0}

    def __iter__(self) -> Iterator[batching.Batch]:
        return self

    def __next__(self) -> batching.Batch:
        start = 10 * self.position["epoch"] + self.position["examples"]
        some = []
        for i in range(start, start + self.size):
            order = np.random.default_rng(i // 10).permutation(10)
            some.append(SOFT.insert(self.examples[order[i % 10]]))
        epoch, examples = divmod(start + self.size, 10)
        self.position = {"epoch": epoch, "examples": examples}
        if self.pack:
            return batching.Packing(3, ((32, 12),)).pack(some)
        return batching.pad(some, self.size, 10, 3)


def ids(rng: np.random.Generator, count: int) -> np.ndarray:
    """Tokens and the end token."""
    return np.append(rng.integers(3, 200, count - 1), 1).astype(np.int32)


@pytest.fixture
def make_batches() -> type[Batches]:
    """See Batches."""
    return Batches
