"""The decoder: positions, the cache."""

import jax
import jax.numpy as jnp
import numpy as np


def test_decoder_reads_its_positions(golden, prompted, prompted_teacher):
    def logits(positions):
        batch = prompted_teacher | {"decoder_positions": np.tile(positions, (3, 1))}
        return np.asarray(prompted.logits(prompted.params, batch))

    real = golden.arrays["targets"] > 0
    in_order = np.arange(real.shape[1], dtype=np.int32)
    expected = np.asarray(prompted.logits(prompted.params, prompted_teacher))
    # Only distances count, and three tokens further apart is another bucket.
    np.testing.assert_allclose(logits(in_order + 7)[real], expected[real], atol=1e-5)
    assert np.abs(logits(in_order * 3) - expected)[real].max() > 0.01


def test_cached_steps_give_the_teacher_forced_logits(golden, prompted, prompted_teacher):
    net, variables = prompted.model.module, {"params": prompted.params}
    encoder_ids = prompted_teacher["encoder_input_tokens"]
    inputs = prompted_teacher["decoder_input_tokens"]
    expected = np.asarray(prompted.logits(prompted.params, prompted_teacher))
    encoded = net.apply(variables, encoder_ids, method=net.encode)
    cache = net.apply(variables, encoded, inputs.shape[1] + 2, method=net.start_cache)

    @jax.jit
    def step(ids, index, cache):
        return net.apply(variables, ids, index, cache, encoder_ids, method=net.step)

    for i in range(inputs.shape[1]):
        found, cache = step(inputs[:, i], jnp.int32(i), cache)
        real = golden.arrays["targets"][:, i] > 0
        np.testing.assert_allclose(found[real], expected[real, i], rtol=0, atol=1e-5)
