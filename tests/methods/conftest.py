"""A model to which methods add something; examples alone and in one row; a job."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.cli import main as cli
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model
from prompt_tuning.training import trainer

LENGTH = 3


@pytest.fixture(scope="session")
def deep() -> model.EncoderDecoderModel:
    """Two layers of an encoder, a prompt of 3 vectors; heads so wide that targets are few."""
    config = config_lib.T5Config(
        vocab_size=256,
        embed_dim=16,
        num_heads=2,
        head_dim=16,
        mlp_dim=16,
        num_encoder_layers=2,
        num_decoder_layers=1,
    )
    return model.EncoderDecoderModel(config, prompt_method.Prompt(LENGTH))


@pytest.fixture(scope="session")
def base(deep) -> dict[str, Any]:
    """Weights of `deep` without what is added to it."""
    rng = np.random.default_rng(2)

    def weight(path, shape):
        if path.endswith("scale"):
            return np.ones(shape, np.float32)
        width = shape[0] if path.endswith("kernel") else 1
        return (rng.normal(size=shape) * width**-0.5).astype(np.float32)

    shapes = params.flatten(nn.unbox(deep.abstract_params()))
    kept = [path for path in shapes if path not in deep.adapter_paths]
    return params.unflatten({path: weight(path, shapes[path].shape) for path in kept})


class Examples(NamedTuple):
    """Two examples, in rows of their own and in one row. Both of one shape, to compile once."""

    alone: dict[str, np.ndarray]
    packed: dict[str, np.ndarray]

    def check(self, logits: Callable[[dict], Any]) -> np.ndarray:
        """Asserts that both have the same logits, which are returned: [5 tokens, V]."""
        rows = np.asarray(logits(self.alone))
        alone = np.concatenate([rows[0, :3], rows[1, :2]])
        np.testing.assert_allclose(np.asarray(logits(self.packed))[0, :5], alone, atol=2e-5)
        return alone


@pytest.fixture(scope="session")
def examples(deep) -> Examples:
    """Inputs of different lengths behind the soft tokens."""
    soft = [deep.config.vocab_size + i for i in range(LENGTH)]
    inputs, targets = [[*soft, 5, 6, 9, 1], [*soft, 7, 1]], [[8, 9, 1], [10, 1]]
    starts = [[0, *row[:-1]] for row in targets]

    def batch(arrange):
        def numbers(rows):
            return [[n] * len(row) for n, row in enumerate(rows, 1)]

        columns = {
            "encoder_input_tokens": (inputs, 14),
            "encoder_segment_ids": (numbers(inputs), 14),
            "decoder_input_tokens": (starts, 6),
            "decoder_target_tokens": (targets, 6),
            "decoder_segment_ids": (numbers(targets), 6),
        }
        return {
            name: np.array([[*row, *[0] * (width - len(row))] for row in arrange(rows)], np.int32)
            for name, (rows, width) in columns.items()
        }

    return Examples(batch(lambda rows: rows), batch(lambda rows: [[*rows[0], *rows[1]], []]))


@pytest.fixture(scope="session")
def random_params(base) -> Callable[[model.EncoderDecoderModel], dict[str, Any]]:
    """(model) -> its parameters, what is added to the base being random numbers around 1."""

    def make(of: model.EncoderDecoderModel) -> dict[str, Any]:
        rng = np.random.default_rng(3)
        shapes = params.flatten(nn.unbox(of.abstract_params()))
        added = {
            path: rng.normal(1.0, 0.5, shapes[path].shape).astype(np.float32)
            for path in sorted(of.adapter_paths)
        }
        return params.unflatten(params.flatten(base) | added)

    return make


class Learned(NamedTuple):
    """What a run on the command line did: files' leaves before and after, and losses."""

    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    losses: list[float]


@pytest.fixture(scope="session")
def learn(deep, base, vocabulary, tiny_job, tmp_path_factory) -> Callable[..., Learned]:
    """(gin file, macros) -> trains and evaluates with it.

    Asserts what holds for each method: the base stays as it is to the bit, what is added moves,
    the loss falls, and `eval` answers with the file as training did.
    """
    folder = tmp_path_factory.mktemp("deep")
    huggingface.save(
        folder / "model", base, deep.config, vocabulary_file=vocabulary.path, step=1000,
        dtype="float32",
    )  # fmt: skip
    common = {
        "NUM_ENCODER_LAYERS": 2,
        "NUM_HEADS": 2,
        "HEAD_DIM": 16,
        "INITIAL_CHECKPOINT_PATH": folder / "model",
        "BATCH_SIZE": 16,
    }

    def run(gin_file: str, **macros: Any) -> Learned:
        place = tmp_path_factory.mktemp("learned")
        runs, finish = [], trainer._finish
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "_finish", lambda run: runs.append(run) or finish(run))
            told = {"TRAIN_STEPS": 1030, "EVAL_PERIOD": 30, "LOG_PERIOD": 6, "DROPOUT_RATE": 0.0}
            files = [gin_file, "runs/train.gin"]
            settings = common | told | {"MODEL_DIR": place / "run"} | macros
            result = cli.run(tiny_job.command("train", *files, **settings))
        found = params.flatten(jax.device_get(runs[0].params()))
        for path, leaf in params.flatten(base).items():
            np.testing.assert_array_equal(found.pop(path), leaf, err_msg=path)
        lines = (place / "run/train/metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss_per_nonpadding_target_token"] for line in lines]
        before, after = (
            _leaves(runs[0].prompt_file(f"prompt_{step}"), deep) for step in (1000, 1030)
        )
        assert before.keys() == after.keys() == found.keys()
        for path, leaf in after.items():
            np.testing.assert_array_equal(leaf, found[path], err_msg=path)
            assert not np.array_equal(leaf, before[path]), path
        assert losses[-1] < losses[0]
        told = {"PROMPT_FILE": result["prompt_file"], "EVAL_OUTPUT_DIR": place}
        settings = common | macros | told
        cli.run(tiny_job.command("eval", gin_file, "runs/eval.gin", **settings))
        (answers,) = (place / "inference_eval").glob("*0.jsonl")
        trained = place / "run/inference_eval/eval-001030.jsonl"
        assert answers.read_text() == trained.read_text()
        return Learned(before, after, losses)

    return run


def _leaves(path, of: model.EncoderDecoderModel) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        return prompt_files.load_leaves(path)
    return {of.prompt_path: prompt_files.load(path)}
