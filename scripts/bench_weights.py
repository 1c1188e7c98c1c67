"""Models with random weights for scripts/bench_prompt_tuning.py, made on the device in their dtype."""

import functools
from collections.abc import Callable

import bench_sizes
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning import params as params_lib
from prompt_tuning.cli import host_memory
from prompt_tuning.data.batches import batching
from prompt_tuning.distributed import partitioning
from prompt_tuning.methods import base
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoding
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import state

host_memory.keep_freed()  # as the command does, before JAX starts its threads
MESH = partitioning.make_mesh()


class EndlessGreedy(decoding.Greedy):
    """Greedy decoding that never predicts EOS, so all sequences have full length."""

    def __call__(self, cache, step, encoder_ids, max_length, rng=None):
        """See decoding.Greedy."""

        def endless(tokens, index, cache, encoder_ids):
            logits, cache = step(tokens, index, cache, encoder_ids)
            return logits.at[:, decoding.EOS_ID].set(decoding.NEVER), cache

        return super().__call__(cache, endless, encoder_ids, max_length, rng)


def make_model(
    size: str, dtype: str, dropout: float = 0.0, prompt_length: int = 0
) -> model_lib.EncoderDecoderModel:
    """Makes a T5 1.1 of this size, with a prompt unless `prompt_length` is 0."""
    sizes = bench_sizes.SIZES[size]
    config = config_lib.T5Config(
        vocab_size=sizes.vocab_size,
        embed_dim=sizes.embed_dim,
        num_heads=sizes.num_heads,
        head_dim=sizes.head_dim,
        mlp_dim=sizes.mlp_dim,
        num_encoder_layers=sizes.num_layers,
        num_decoder_layers=sizes.num_layers,
        dropout_rate=dropout,
        dtype=dtype,
    )
    method = prompt_method.Prompt(prompt_length) if prompt_length else base.NO_METHOD
    return model_lib.EncoderDecoderModel(config, method, decoder=EndlessGreedy())


def random_weights(model: model_lib.EncoderDecoderModel) -> dict:
    """Draws parameters at about T5's initial scale, in the model's dtype (the prompt in float32).

    They are drawn one by one: the float32 copy of `model.init` would not fit for larger sizes.
    """
    boxed = model.abstract_params()
    shardings = params_lib.flatten(partitioning.shardings(boxed, MESH))
    weights = {}
    for seed, (path, leaf) in enumerate(params_lib.flatten(nn.unbox(boxed)).items()):
        dtype = "float32" if path == prompt_method.PATH else model.config.dtype
        if path.endswith("/scale"):
            weights[path] = jnp.ones(leaf.shape, dtype, device=shardings[path])
            continue
        deviation = 1.0 if path.startswith("token_embedder") else leaf.shape[0] ** -0.5
        if "/query/" in path:
            deviation *= model.config.head_dim**-0.5
        weights[path] = _make_sampler(leaf.shape, dtype, shardings[path])(seed, deviation)
    return params_lib.unflatten(weights)


@functools.cache
def _make_sampler(
    shape: tuple[int, ...], dtype: str, sharding
) -> Callable[[int, float], jax.Array]:
    """Returns (seed, standard deviation) -> normal values; compiled once per shape."""

    def draw(seed, deviation):
        # threefry compiles for seconds and needs more memory.
        rng = jax.random.key(seed, impl="rbg")
        return jax.random.normal(rng, shape, dtype) * deviation.astype(dtype)

    jitted = jax.jit(draw, out_shardings=sharding)
    return lambda seed, deviation: jitted(seed, jnp.float32(deviation))


def random_example(model, inputs: int, targets: int, rng: np.random.Generator) -> batching.Example:
    """Random tokens, preceded by soft tokens."""
    ids = {"inputs": rng.integers(2, 32000, inputs), "targets": rng.integers(2, 32000, targets)}
    return state.soft_tokens(model).insert(ids)
