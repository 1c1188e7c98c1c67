"""PEFT's LoRA: its scale, its patterns and what is saved beside it, by hand.

Logits of merged models are compared with PEFT's in inference/converter_test.py.
"""

import json

import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning.checkpoints.formats import peft, peft_lora

KERNEL = "encoder/layers_0/attention/query/kernel"
MODULE = "base_model.model.encoder.block.0.layer.0.SelfAttention.q"
LORA = {"peft_type": "LORA", "task_type": None, "lora_alpha": 6}
PAIR = {
    f"{MODULE}.lora_A.weight": np.array([[1, 2, 3]], np.float32),
    f"{MODULE}.lora_B.weight": np.array([[10], [20]], np.float32),
}


@pytest.fixture
def adapter(tmp_path):
    """(tensors, settings) -> a folder."""

    def write(tensors, config, **settings):
        (tmp_path / peft.CONFIG).write_text(json.dumps({**config, **settings}))
        safetensors.numpy.save_file(tensors, tmp_path / peft.WEIGHTS)
        return tmp_path

    return write


def merged(path, **more):
    weights = {KERNEL: np.ones((3, 2), np.float32), **more}
    peft_lora.merge(path, weights)
    return weights


def test_a_lora_is_added_to_its_kernel(adapter):
    # Inputs 3, outputs 2, rank 1: 1 + 6 / 1 · (B A) transposed.
    expected = 1 + 6 * np.array([[10, 20], [20, 40], [30, 60]], np.float32)
    other = KERNEL.replace("query", "key")
    found = merged(adapter(PAIR, LORA), **{other: np.ones((3, 2), np.float32)})
    np.testing.assert_array_equal(found[KERNEL], expected)
    np.testing.assert_array_equal(found[other], np.ones((3, 2)))


def test_the_scale_of_a_lora_follows_its_settings(adapter):
    wide = {name: np.repeat(x, 4, axis=int("lora_B" in name)) for name, x in PAIR.items()}

    def scale(**settings):
        change = merged(adapter(wide, LORA, **settings))[KERNEL] - 1
        return float(change[0, 0]) / (4 * 10)

    assert scale() == 6 / 4
    assert scale(use_rslora=True) == 6 / 2
    assert scale(alpha_pattern={"k": 1, "SelfAttention.q": 2, "q": 3}) == 2 / 4
    # Not the end of a name, but of a word.
    assert scale(alpha_pattern={"Attention.q": 2}) == 6 / 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"use_dora": True}, "sets 'use_dora', .*; expected a plain LoRA. Merge it with PEFT"),
        ({"a_setting_to_come": {"x": 1}}, "sets 'a_setting_to_come', .*; expected"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa', which changes the base"),
        ({"init_lora_weights": []}, r"init_lora_weights \[\]"),
        ({"lora_alpha": "6"}, "lora_alpha '6'; expected a finite number"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan; expected a finite number"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000.*…; expected a finite number"),
        ({"alpha_pattern": {"k": 1, "(a+)+$": 1}}, r"the key '\(a\+\)\+\$' in alpha_pattern"),
        ({"alpha_pattern": {"(?=a)q": 1}}, r"has the key '\(\?=a\)q' in .*; expected module names"),
        ({"alpha_pattern": {".*.*.*.*.*q": 1}}, "at most 4 quantifiers"),
        ({"alpha_pattern": {"(q": 1}}, r"the key '\(q' in alpha_pattern"),
        (
            {
                "alpha_pattern": {"a?" * n + "q": 1 for n in range(1, 5)}
                | {f"{n}?": 1 for n in range(13)}
            },
            "the key '12\\?' in alpha_pattern; .*at most 16 regular",
        ),
        ({"alpha_pattern": ["q"]}, r"alpha_pattern \['q'\]; expected \{pattern: number\}"),
        (
            {"rank_pattern": {r"block\.0\..*q": 2}},
            r"the rank of .*SelfAttention.q to 2 .*tensors have rank 1",
        ),
        ({"r": 4}, "the rank of .* to 4 .*tensors have rank 1"),
    ],
)
def test_settings_of_a_lora_that_are_not_followed_are_told(adapter, settings, told):
    with pytest.raises(ValueError, match=told):
        merged(adapter(PAIR, LORA, **settings))


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (r"block\.0\..*\.q", True),
        (r"block\.[1-9]\..*\.q", False),
        (r"encoder\.(?:block|layer)\.\d+\.layer\.0\.SelfAttention\.(q|v)", True),
        (r"decoder.*\.q", False),
        (r"[^k]", True),
        (r"Self.*", True),
        (r"Attention\.q", False),
    ],
)
def test_patterns_of_a_lora_match_as_in_peft(adapter, pattern, matches):
    found = merged(adapter(PAIR, LORA, alpha_pattern={"k": 9, pattern: 3, "q": 6}))
    assert found[KERNEL][0, 0] == 1 + (3 if matches else 6) * 10


def test_saved_modules_of_a_lora_replace_those_of_the_base(adapter):
    head, norm = "decoder/logits_dense/kernel", "encoder/encoder_norm/scale"
    weights = {head: np.zeros((3, 5), np.float32), norm: np.zeros(3, np.float32)}
    saved = {
        "base_model.model.lm_head.weight": np.arange(15, dtype=np.float32).reshape(5, 3),
        "base_model.model.encoder.final_layer_norm.weight": np.ones(3, np.float32),
    }
    found = merged(adapter(PAIR | saved, LORA, modules_to_save=["lm_head"]), **weights)
    np.testing.assert_array_equal(found[head], np.arange(15).reshape(5, 3).T)
    np.testing.assert_array_equal(found[norm], np.ones(3))
    embedding = {"base_model.model.shared.weight": np.ones((5, 3), np.float32)}
    for tensors, weights in (
        (embedding, {"token_embedder/embedding": np.ones((5, 3))}),
        (saved, {}),
    ):
        path = adapter(PAIR | tensors, LORA, modules_to_save=["lm_head"])
        with pytest.raises(ValueError, match=r"sets modules_to_save \['lm_head'\], and 'base"):
            merged(path, **weights)


def test_matrices_of_a_lora_are_checked(adapter):
    (down, a), (up, b) = PAIR.items()
    for tensors, told in [
        ({down: a}, "lacks base_model.*lora_B"),
        ({up: b}, "lacks base_model.*lora_A"),
        ({down: a[:0], up: b[:, :0]}, r"lora_[AB].weight is F32 \(.*0.*\); expected floats"),
        ({down: a[:, :2], up: b}, r"lora_A.weight is F32 \(1, 2\); expected floats \(1, 3\)"),
        ({down: a[0], up: b}, "expected floats"),
        ({down: a, up: b[:1]}, r"lora_B.weight is F32 \(1, 1\); expected floats \(2, 1\)"),
        (
            {**PAIR, "base_model.model.lm_head.weight": b},
            "contains 'base_model.model.lm_head.weight'",
        ),
    ]:
        with pytest.raises(ValueError, match=told):
            merged(adapter(tensors, LORA))
