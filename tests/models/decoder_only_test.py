"""The network without encoder: against transformers, names, packing, prefill and cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.data.batches import batching
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoder_only_model


def mask_of(decoder_only):
    both = decoder_only.model.inputs_bidirectional_attention
    return "bidirectional" if both else "causal"


def test_logits_are_those_of_transformers(decoder_only_golden, decoder_only, decoder_only_teacher):
    stored, mask = decoder_only_golden.arrays, mask_of(decoder_only)
    real = stored["targets"] > 0
    logits = decoder_only.logits(decoder_only.params, decoder_only_teacher)
    np.testing.assert_allclose(
        logits[real], stored[f"{mask}_prompt_logits"][real], rtol=0, atol=2e-5
    )
    plain = decoder_only_teacher | {"encoder_input_tokens": stored["inputs"]}
    logits = decoder_only.logits(decoder_only.params, plain)
    np.testing.assert_allclose(logits[real], stored[f"{mask}_logits"][real], rtol=0, atol=2e-5)


def test_parameter_tree_is_that_of_t5x():
    v, d, h, c, f = 16, 6, 2, 4, 10
    config = config_lib.T5Config(v, d, h, c, f, 0, 1)
    expected = {
        "decoder/token_embedder/embedding": (v, d),
        "decoder/relpos_bias/rel_embedding": (h, 32),
        "decoder/decoder_norm/scale": (d,),
        "decoder/logits_dense/kernel": (d, v),
        **{
            f"decoder/layers_0/self_attention/{name}/kernel": (d, h * c)
            for name in ("query", "key", "value")
        },
        "decoder/layers_0/self_attention/out/kernel": (h * c, d),
        "decoder/layers_0/pre_self_attention_layer_norm/scale": (d,),
        "decoder/layers_0/pre_mlp_layer_norm/scale": (d,),
        "decoder/layers_0/mlp/wi_0/kernel": (d, f),
        "decoder/layers_0/mlp/wi_1/kernel": (d, f),
        "decoder/layers_0/mlp/wo/kernel": (f, d),
    }
    shapes = decoder_only_model.DecoderOnlyModel(config).abstract_params()
    tree = params.flatten(nn.unbox(shapes))
    assert {path: leaf.shape for path, leaf in tree.items()} == expected
    tied = dataclasses.replace(config, logits_via_embedding=True)
    tree = params.flatten(decoder_only_model.DecoderOnlyModel(tied).abstract_params())
    assert expected.keys() - tree.keys() == {"decoder/logits_dense/kernel"}


def real(ids):
    return ids[ids > 0]


def test_packed_examples_have_the_logits_they_have_alone(decoder_only, decoder_only_teacher):
    alone = np.asarray(decoder_only.logits(decoder_only.params, decoder_only_teacher))
    examples = [
        {"inputs": real(inputs), "targets": real(targets)}
        for inputs, targets in zip(
            decoder_only_teacher["encoder_input_tokens"],
            decoder_only_teacher["decoder_target_tokens"],
            strict=True,
        )
    ]
    batch = batching.pack([[examples[0], examples[2]], [examples[1]]], 2, 40, 20)
    together = np.asarray(decoder_only.logits(decoder_only.params, batch))
    segments = batch["decoder_segment_ids"]
    for (row, segment), example in {(0, 1): 0, (0, 2): 2, (1, 1): 1}.items():
        expected = alone[example, : len(examples[example]["targets"])]
        np.testing.assert_allclose(
            together[row][segments[row] == segment], expected, rtol=0, atol=1e-5
        )


def test_more_padding_changes_nothing(prefix_lm, decoder_only_teacher):
    before = decoder_only_teacher["decoder_target_tokens"] > 0
    wide = {key: np.pad(ids, ((0, 1), (0, 5))) for key, ids in decoder_only_teacher.items()}
    expected = prefix_lm.logits(prefix_lm.params, decoder_only_teacher)
    logits = np.asarray(prefix_lm.logits(prefix_lm.params, wide))
    np.testing.assert_allclose(logits[:-1, :-5][before], expected[before], rtol=0, atol=1e-5)
    assert np.isfinite(logits).all()


def test_prefill_and_cached_steps_give_the_teacher_forced_logits(
    decoder_only, decoder_only_teacher
):
    """Rows of three lengths at once."""
    net, variables = decoder_only.model.module, {"params": decoder_only.params}
    inputs = decoder_only_teacher["encoder_input_tokens"]
    targets = decoder_only_teacher["decoder_target_tokens"]
    expected = np.asarray(decoder_only.logits(decoder_only.params, decoder_only_teacher))
    length = targets.shape[1] + 2
    cache = jax.jit(lambda ids: net.apply(variables, ids, length, method=net.start_cache))(inputs)

    @jax.jit
    def step(ids, index, cache):
        return net.apply(variables, ids, index, cache, inputs, method=net.step)

    previous = np.zeros(len(inputs), np.int32)  # as a search begins
    for i in range(targets.shape[1]):
        logits, cache = step(previous, jnp.int32(i), cache)
        rows = targets[:, i] > 0
        np.testing.assert_allclose(logits[rows], expected[rows, i], rtol=0, atol=1e-5)
        previous = targets[:, i]


def test_the_prompt_is_read_in_the_prefill_and_not_in_steps(prefix_lm, decoder_only_teacher):
    net, path = prefix_lm.model.module, prefix_lm.model.prompt_path
    inputs = decoder_only_teacher["encoder_input_tokens"]
    flat = params.flatten(prefix_lm.params)
    others = params.unflatten({**flat, path: flat[path] + 1})

    @jax.jit
    def cache_of(weights):
        return net.apply({"params": weights}, inputs, 3, method=net.start_cache)

    cache, other_cache = cache_of(prefix_lm.params), cache_of(others)
    assert not np.allclose(cache[1]["cross"][0], other_cache[1]["cross"][0])

    @jax.jit
    def step(weights, cache, index):
        ids = np.full(len(inputs), 7, np.int32)
        return net.apply({"params": weights}, ids, jnp.int32(index), cache, inputs, method=net.step)

    for index in (0, 1):
        logits = step(prefix_lm.params, cache, index)[0]
        np.testing.assert_array_equal(logits, step(others, cache, index)[0])
        assert not np.allclose(logits, step(others, other_cache, index)[0])


def test_rematerialisation_changes_no_gradient(prefix_lm, decoder_only_teacher):
    config = dataclasses.replace(prefix_lm.model.config, remat_policy="minimal")
    again = dataclasses.replace(prefix_lm.model, config=config)
    plain, remat = (
        jax.jit(jax.grad(lambda w, m=m: m.loss(w, decoder_only_teacher)[0]))(prefix_lm.params)
        for m in (prefix_lm.model, again)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3), plain, remat)
