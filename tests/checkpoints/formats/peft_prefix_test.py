"""PEFT's prefixes: which pair is which layer's, what is written, and what is refused.

Their logits are compared in inference/converter_test.py.
"""

import json

import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning.checkpoints.formats import peft, peft_prefix
from prompt_tuning.methods import prefix
from prompt_tuning.models import config as config_lib

# A decoder of two layers: heads 2, head size 3.
MODEL = config_lib.T5Config(24, 8, 2, 3, 10, 1, 2)
CONFIG = {
    "peft_type": "PREFIX_TUNING",
    "task_type": "SEQ_2_SEQ_LM",
    "num_virtual_tokens": 2,
    "num_attention_heads": 2,
    "num_layers": 3,
    "token_dim": 6,
}


@pytest.fixture
def adapter(tmp_path):
    """(number of layers stored, settings) -> a folder whose vectors v of token p are 10·v + p."""

    def write(layers=3, **settings):
        vectors, tokens = np.arange(2 * layers), np.arange(2)
        table = np.repeat(10.0 * vectors[None] + tokens[:, None], 6, axis=1).astype(np.float32)
        content = safetensors.numpy.save({"prompt_embeddings": table}, {"format": "pt"})
        settings = {**CONFIG, "num_layers": layers, **settings}
        (tmp_path / peft.CONFIG).write_text(json.dumps(settings))
        (tmp_path / peft.WEIGHTS).write_bytes(content)
        return tmp_path

    return write


@pytest.mark.parametrize(("layers", "pairs"), [(2, [0, 0]), (3, [0, 2]), (4, [0, 2]), (5, [0, 2])])
def test_each_layer_gets_the_pair_that_peft_gives_it(adapter, layers, pairs):
    found = peft_prefix.read(adapter(layers), MODEL)
    assert len(found) == 4
    for layer, pair in enumerate(pairs):
        for j, part in enumerate(("key", "value")):
            leaf = found[f"decoder/layers_{layer}/prefix/{part}"]
            assert leaf.shape == (2, 2, 3)
            for token in range(2):
                np.testing.assert_array_equal(leaf[token], 10 * (2 * pair + j) + token)


def test_heads_are_in_the_order_of_the_numbers(adapter):
    path = adapter(2)
    table = np.arange(2 * 24, dtype=np.float32).reshape(2, 24)
    (path / peft.WEIGHTS).write_bytes(safetensors.numpy.save({"prompt_embeddings": table}))
    found = peft_prefix.read(path, MODEL)["decoder/layers_1/prefix/value"]
    np.testing.assert_array_equal(found[1], [[30, 31, 32], [33, 34, 35]])


@pytest.mark.parametrize(("layers", "stored"), [(1, 1), (2, 3), (3, 3), (4, 5)])
def test_each_layer_has_a_pair_of_its_own_in_what_is_written(tmp_path, rng, layers, stored):
    leaves = {
        prefix.path_of(i, part): rng.normal(size=(4, 2, 3)).astype(np.float32)
        for i in range(layers)
        for part in prefix.PARTS
    }
    peft_prefix.save(tmp_path / "a", leaves, base_model="t5")
    settings = json.loads((tmp_path / "a" / peft.CONFIG).read_text())
    assert settings["num_layers"] == stored and settings["base_model_name_or_path"] == "t5"
    model = config_lib.T5Config(24, 8, 2, 3, 10, 1, layers)
    found = peft_prefix.read(tmp_path / "a", model)
    assert found.keys() == leaves.keys()
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, leaves[path], strict=True)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"layers": 1},
            r"for 1 layers with 2 heads.*expected at least 2 layers with 2 heads and width 6",
        ),
        ({"num_attention_heads": 3}, "with 3 heads and width 6; expected"),
        ({"token_dim": 8}, "with 2 heads and width 8; expected"),
        ({"num_virtual_tokens": 3}, r"\(2, 36\); expected floats \(3, 36\)"),
        ({"num_layers": 4}, r"\(2, 36\); expected floats \(2, 48\)"),
        ({"num_layers": "3"}, "num_layers '3'; expected an integer"),
        ({"num_attention_heads": None}, "num_attention_heads None; expected an integer"),
        ({"num_transformer_submodules": 1}, "num_transformer_submodules 1; expected 2"),
        ({"task_type": "CAUSAL_LM"}, "for the task 'CAUSAL_LM'; expected SEQ_2_SEQ_LM"),
    ],
)
def test_what_does_not_fit_is_told(adapter, settings, told):
    with pytest.raises(ValueError, match=told):
        peft_prefix.read(adapter(**settings), MODEL)
