"""Names of tensors; those of complete folders are in huggingface_test.py."""

import numpy as np
import pytest

from prompt_tuning.checkpoints import lazy_arrays
from prompt_tuning.checkpoints.formats import tensor_names

BLOCKS = {tensor_names.FIRST_NORM: (4,), "decoder.block.0.layer.0.layer_norm.weight": (4,)}


def test_a_parameter_without_a_name_is_an_error():
    assert tensor_names.name_of("decoder/decoder_norm/scale") == "decoder.final_layer_norm.weight"
    with pytest.raises(ValueError, match="parameter 'encoder/prompt/prompt' does not exist"):
        tensor_names.name_of("encoder/prompt/prompt")


@pytest.mark.parametrize("is_scaled", [True, False])
def test_a_model_without_output_layer_is_one_where_it_is_the_embedding(is_scaled):
    config = {"architectures": ["MT5Model"], "vocab_size": 8}
    shapes = BLOCKS | {"shared.weight": (8, 4)}
    if is_scaled:
        tensor_names.check("model", shapes, config, is_scaled)
    else:
        with pytest.raises(ValueError, match="model contains a MT5Model without output layer"):
            tensor_names.check("model", shapes, config, is_scaled)


@pytest.mark.parametrize("architectures", [None, [], [3], "T5", ["T5ForConditionalGeneration"]])
def test_architectures_may_be_anything(architectures):
    config = {"architectures": architectures, "vocab_size": 8}
    tensor_names.check("model", BLOCKS | {"lm_head.weight": (8, 4)}, config, False)


def test_copies_may_be_of_several_dtypes():
    array = np.ones((8, 4), np.float16)
    stored = {
        "decoder.embed_tokens.weight": lazy_arrays.from_numpy(array),
        "lm_head.weight": lazy_arrays.from_numpy(array.astype(np.float32)),
        tensor_names.UNUSED: lazy_arrays.from_numpy(array),
    }
    assert tensor_names.without_copies("model", stored, is_tied=True).keys() == {"shared.weight"}
    names = {"shared.weight", "lm_head.weight"}
    assert tensor_names.without_copies("model", stored, is_tied=False).keys() == names
