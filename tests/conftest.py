"""What all tests share: 8 host devices, strict dtypes, a seeded generator, the goldens."""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.models import network

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)  # Compiling is most of a test's time.

TESTDATA = pathlib.Path(__file__).parent / "testdata"


class Golden(NamedTuple):
    """A tiny T5 and what transformers and PEFT say of it; see scripts/make_goldens.py."""

    config: network.T5Config
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
    config = network.T5Config(**json.loads(str(arrays["config"])))
    return Golden(config, params.unflatten(weights), arrays)


@pytest.fixture(scope="session", params=["t5_gated_gelu_untied", "t5_relu_tied"])
def golden(request) -> Golden:
    """Each stored model in turn."""
    return read_golden(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every run."""
    return np.random.default_rng(0)
