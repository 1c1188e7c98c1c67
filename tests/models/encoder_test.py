"""The encoder: positions, padding."""

import jax
import numpy as np

from prompt_tuning.models import model


def test_encoder_tokens_may_stand_in_any_order_beside_their_positions(golden, rng):
    plain, ids = model.EncoderDecoderModel(golden.config).module, golden.arrays["inputs"]
    order = rng.permutation(ids.shape[1]).astype(np.int32)

    @jax.jit
    def encode(ids, positions):
        return plain.apply({"params": golden.params}, ids, None, positions, method=plain.encode)

    in_order = np.arange(len(order), dtype=np.int32)[None]
    expected = np.asarray(encode(ids, in_order))
    np.testing.assert_allclose(encode(ids[:, order], order[None]), expected[:, order], atol=1e-5)


def test_encoder_reads_nothing_of_padding(golden):
    plain, ids = model.EncoderDecoderModel(golden.config).module, golden.arrays["inputs"]
    encode = jax.jit(lambda weights: plain.apply({"params": weights}, ids, method=plain.encode))
    table = golden.params["token_embedder"]["embedding"].copy()
    table[0] += 100
    moved = golden.params | {"token_embedder": {"embedding": table}}
    real = ids > 0
    before, after = encode(golden.params), encode(moved)
    np.testing.assert_array_equal(before[real], after[real])
