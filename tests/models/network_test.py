"""The network: against transformers and PEFT, packing, masks, cache, sizes, names."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model


def test_logits_are_those_of_transformers(golden):
    plain = model.EncoderDecoderModel(golden.config)
    found = jax.jit(plain.logits)(golden.params, golden.teacher)
    real = golden.arrays["targets"] > 0
    np.testing.assert_allclose(found[real], golden.arrays["logits"][real], rtol=0, atol=2e-5)


def test_logits_with_a_prompt_are_those_of_peft(golden, prompted, prompted_teacher):
    found = prompted.logits(prompted.params, prompted_teacher)
    real = golden.arrays["targets"] > 0
    expected = golden.arrays["prompt_logits"][real]
    np.testing.assert_allclose(found[real], expected, rtol=0, atol=2e-5)


def test_ids_without_a_prompt_do_not_read_it(golden, prompted):
    found = prompted.logits(prompted.params, golden.teacher)
    real = golden.arrays["targets"] > 0
    np.testing.assert_allclose(found[real], golden.arrays["logits"][real], rtol=0, atol=2e-5)


@pytest.mark.parametrize("remat_policy", ["none", "full"])
def test_a_bias_in_each_layer_that_is_the_stacks_changes_nothing(golden, remat_policy):
    flat, config = params.flatten(golden.params), golden.config
    for stack in ("encoder", "decoder"):
        table = flat.pop(f"{stack}/relpos_bias/rel_embedding")
        for i in range(getattr(config, f"num_{stack}_layers")):
            flat[f"{stack}/layers_{i}/relpos_bias/rel_embedding"] = table
    config = dataclasses.replace(
        config, relative_attention_per_layer=True, remat_policy=remat_policy
    )
    found = jax.jit(model.EncoderDecoderModel(config).logits)(
        params.unflatten(flat), golden.teacher
    )
    real = golden.arrays["targets"] > 0
    np.testing.assert_allclose(found[real], golden.arrays["logits"][real], rtol=0, atol=2e-5)


def test_bfloat16_gives_float32_logits_near_those_of_float32(golden):
    config = dataclasses.replace(golden.config, dtype="bfloat16")
    found = jax.jit(model.EncoderDecoderModel(config).logits)(golden.params, golden.teacher)
    real = golden.arrays["targets"] > 0
    assert found.dtype == jnp.float32
    error = np.asarray(found)[real] - golden.arrays["logits"][real]
    # Rounding of 2^-9 through five layers, not the std of 2 of an unrelated network.
    assert np.sqrt((error**2).mean()) < 0.1


def pack(rows: list[list[int]], width: int) -> dict[str, np.ndarray]:
    """One row of examples behind each other: ids, segment ids from 1, positions from 0."""
    tail = [0] * (width - sum(map(len, rows)))
    segments = [segment for segment, row in enumerate(rows, 1) for _ in row]
    positions = [i for row in rows for i in range(len(row))]
    columns = {
        "ids": [i for row in rows for i in row],
        "segment_ids": segments,
        "positions": positions,
    }
    return {name: np.array([[*column, *tail]], np.int32) for name, column in columns.items()}


def test_packed_examples_have_the_logits_they_have_alone(golden, prompted, prompted_teacher):
    def real(rows):
        return [[int(i) for i in row if i > 0] for row in rows]

    alone = np.asarray(prompted.logits(prompted.params, prompted_teacher))
    targets = real(prompted_teacher["decoder_target_tokens"])
    encoder = pack(real(prompted_teacher["encoder_input_tokens"]), width=60)
    decoder = pack(targets, width=40)
    starts = [[0, *row[:-1]] for row in targets]
    batch = {
        "encoder_input_tokens": encoder["ids"],
        "encoder_segment_ids": encoder["segment_ids"],
        "encoder_positions": encoder["positions"],
        "decoder_target_tokens": decoder["ids"],
        "decoder_input_tokens": pack(starts, width=40)["ids"],
        "decoder_segment_ids": decoder["segment_ids"],
        "decoder_positions": decoder["positions"],
    }
    together = np.asarray(prompted.logits(prompted.params, batch))[0]
    begin = 0
    for row, target in zip(alone, targets, strict=True):
        found = together[begin : begin + len(target)]
        np.testing.assert_allclose(found, row[: len(target)], rtol=0, atol=1e-5)
        begin += len(target)


def test_more_padding_changes_nothing(golden, prompted, prompted_teacher):
    real = golden.arrays["targets"] > 0
    wide = {key: np.pad(ids, ((0, 1), (0, 6))) for key, ids in prompted_teacher.items()}
    expected = np.asarray(prompted.logits(prompted.params, prompted_teacher))
    found = np.asarray(prompted.logits(prompted.params, wide))
    np.testing.assert_allclose(found[:-1, :-6][real], expected[real], rtol=0, atol=1e-5)
    assert np.isfinite(found).all()


def test_decoder_is_causal_and_encoder_is_not(golden, prompted, prompted_teacher):
    before = np.asarray(prompted.logits(prompted.params, prompted_teacher))[1]
    ids = prompted_teacher["decoder_input_tokens"].copy()
    ids[1, 7] = 5 if ids[1, 7] != 5 else 6
    after = prompted.logits(prompted.params, prompted_teacher | {"decoder_input_tokens": ids})[1]
    moved = np.abs(after - before).max(-1)
    assert (moved[:7] == 0).all()
    assert (moved[7:] > 1e-3).all()
    ids = prompted_teacher["encoder_input_tokens"].copy()
    ids[1, -1 - int((ids[1] == 0).sum())] = 5  # its last real token
    after = prompted.logits(prompted.params, prompted_teacher | {"encoder_input_tokens": ids})[1]
    assert (np.abs(after - before).max(-1) > 1e-4).all()


def attention_paths(parent: str, width: int, joined: int) -> dict[str, tuple[int, int]]:
    inner = {f"{parent}/{name}/kernel": (width, joined) for name in ("query", "key", "value")}
    return inner | {f"{parent}/out/kernel": (joined, width)}


@pytest.mark.parametrize("tied", [False, True])
def test_parameter_tree_is_that_of_t5x(tied):
    v, d, h, c, f = 16, 6, 2, 4, 10
    activations = ("relu",) if tied else ("gelu", "linear")
    config = config_lib.T5Config(v, d, h, c, f, 2, 1, activations, logits_via_embedding=tied)
    expected = {"token_embedder/embedding": (v, d)}
    for stack, layers, attentions, norms in [
        ("encoder", 2, ["attention"], ["attention", "mlp"]),
        (
            "decoder",
            1,
            ["self_attention", "encoder_decoder_attention"],
            ["self_attention", "cross_attention", "mlp"],
        ),
    ]:
        expected[f"{stack}/relpos_bias/rel_embedding"] = (h, 32)
        expected[f"{stack}/{stack}_norm/scale"] = (d,)
        for layer in (f"{stack}/layers_{i}" for i in range(layers)):
            for name in attentions:
                expected |= attention_paths(f"{layer}/{name}", d, h * c)
            expected |= {f"{layer}/pre_{name}_layer_norm/scale": (d,) for name in norms}
            for name in ("wi",) if tied else ("wi_0", "wi_1"):
                expected[f"{layer}/mlp/{name}/kernel"] = (d, f)
            expected[f"{layer}/mlp/wo/kernel"] = (f, d)
    if not tied:
        expected["decoder/logits_dense/kernel"] = (d, v)
    found = params.flatten(nn.unbox(model.EncoderDecoderModel(config).abstract_params()))
    assert {path: leaf.shape for path, leaf in found.items()} == expected
    assert {leaf.dtype for leaf in found.values()} == {jnp.dtype("float32")}


def test_initial_weights_have_the_spread_of_t5():
    # Mesh TensorFlow's: queries (D·C)^-1/2, keys and values D^-1/2, out (H·C)^-1/2.
    d, h, c, f = 64, 8, 16, 96
    config = config_lib.T5Config(256, d, h, c, f, 1, 1)
    weights = params.flatten(jax.jit(model.EncoderDecoderModel(config).init)(jax.random.key(0)))
    for name, spread in {
        "encoder/layers_0/attention/query/kernel": (d * c) ** -0.5,
        "encoder/layers_0/attention/key/kernel": d**-0.5,
        "encoder/layers_0/attention/out/kernel": (h * c) ** -0.5,
        "encoder/layers_0/mlp/wi_0/kernel": d**-0.5,
        "encoder/layers_0/mlp/wo/kernel": f**-0.5,
        "token_embedder/embedding": 1.0,
    }.items():
        assert math.isclose(float(weights[name].std()), spread, rel_tol=0.05), name
