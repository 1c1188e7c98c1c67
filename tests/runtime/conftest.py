"""Runs on meshes of any shape, without a checkpoint and without seqio."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AxisType

from prompt_tuning import optimizers, params, partitioning
from prompt_tuning.data import batching, packing, soft_tokens
from prompt_tuning.models import model as model_lib
from prompt_tuning.prompts import module
from prompt_tuning.runtime import run, state, step

SOFT = soft_tokens.SoftTokens(256 + np.arange(4, dtype=np.int32))
FIRST_STEP = 1000


class ShiftedPrompt(nn.Module):
    """A method of two parameters: a prompt, and a vector that is added to each of its rows."""

    length: int

    @nn.compact
    def __call__(self, soft_ids, x):
        table = self.param("prompt", nn.initializers.ones, (self.length, x.shape[-1]))
        shift = self.param("shift", nn.initializers.normal(1.0), (x.shape[-1],))
        rows = jnp.take(table, jnp.clip(soft_ids, 0), axis=0) + shift
        return jnp.where((soft_ids >= 0)[..., None], rows, x)


@pytest.fixture(scope="session")
def shifted(tiny) -> model_lib.EncoderDecoderModel:
    """The tiny model with two parameters beside the checkpoint's."""
    return dataclasses.replace(tiny.model, prompt=ShiftedPrompt(4))


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
        weights = params.merge(tiny.base, params.unflatten({module.PATH: prompt}))
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
            run.Schedule(FIRST_STEP + steps, **schedule),
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
            some.append(SOFT.put_into(self.examples[order[i % 10]]))
        epoch, examples = divmod(start + self.size, 10)
        self.position = {"epoch": epoch, "examples": examples}
        if self.pack:
            return packing.Packing(3, ((32, 12),)).pack(some)
        return batching.pad(some, self.size, 10, 3)


def ids(rng: np.random.Generator, count: int) -> np.ndarray:
    """Tokens and the end token."""
    return np.append(rng.integers(3, 200, count - 1), 1).astype(np.int32)


@pytest.fixture
def make_batches() -> type[Batches]:
    """See Batches."""
    return Batches
