"""The digest of weights: which values it covers. See also base_model_test.py."""

import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.checkpoints import digests, lazy_arrays

WEIGHTS = {
    "token_embedder/embedding": (100, 3),
    "encoder/layers_0/mlp/wo/kernel": (3, 3),
    "encoder/layers_1/mlp/wo/kernel": (3, 3),
    "encoder/layers_10/mlp/wo/kernel": (3, 3),
    "decoder/layers_2/mlp/wo/kernel": (3, 3),
    "decoder/decoder_norm/scale": (3,),
}


def digest(changed=None, position=0):
    rng = np.random.default_rng(0)
    arrays = {path: rng.normal(size=shape).astype(np.float32) for path, shape in WEIGHTS.items()}
    if changed:
        arrays[changed][position] += 1
    stored = {path: lazy_arrays.from_numpy(array) for path, array in arrays.items()}
    return digests.digest_weights(stored, params.unflatten(params.shapes(arrays)))


@pytest.mark.parametrize("path", WEIGHTS)
def test_values_of_the_outer_layers_are_covered(path):
    assert (digest(path) == digest()) == (path == "encoder/layers_1/mlp/wo/kernel")


def test_values_at_the_beginning_are_covered():
    assert digest("token_embedder/embedding", digests.SAMPLE - 1) != digest()
    assert digest("token_embedder/embedding", digests.SAMPLE) == digest()


def test_only_digests_of_weights_are_comparable():
    assert digests.is_comparable(digest())
    assert not digests.is_comparable("0123456789abcdef")
    assert not digests.is_comparable(None)
