"""PEFT's adapters: what is read of them, and that nothing else is, whatever they hold.

Their logits are compared in runtime/converter_test.py.
"""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning.checkpoints import peft, peft_lora

CONFIG = {
    "peft_type": "PROMPT_TUNING",
    "task_type": "SEQ_2_SEQ_LM",
    "num_virtual_tokens": 2,
    "num_transformer_submodules": 2,
    "token_dim": 3,
}
TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
KERNEL = "encoder/layers_0/attention/query/kernel"
MODULE = "base_model.model.encoder.block.0.layer.0.SelfAttention.q"
LORA = {"peft_type": "LORA", "task_type": None, "lora_alpha": 6}
PAIR = {
    f"{MODULE}.lora_A.weight": np.array([[1, 2, 3]], np.float32),
    f"{MODULE}.lora_B.weight": np.array([[10], [20]], np.float32),
}


@pytest.fixture
def adapter(tmp_path):
    """(tensors or bytes, settings) -> a folder."""

    def write(tensors=None, config=CONFIG, **settings):
        content = {"prompt_embeddings": TABLE} if tensors is None else tensors
        if isinstance(content, dict):
            content = safetensors.numpy.save(content, {"format": "pt"})
        (tmp_path / peft.CONFIG).write_text(json.dumps({**config, **settings}))
        (tmp_path / peft.WEIGHTS).write_bytes(content)
        return tmp_path

    return write


def test_the_first_rows_are_the_encoders(adapter):
    path = adapter()
    assert peft.is_adapter(path) and peft.kind(path) == peft.PROMPT_TUNING
    found = peft.read_prompt(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, TABLE[:2])
    # PEFT's default, where it does not say it.
    np.testing.assert_array_equal(
        peft.read_prompt(adapter(num_transformer_submodules=None)), TABLE[:2]
    )
    alone = adapter(num_virtual_tokens=4, num_transformer_submodules=1)
    np.testing.assert_array_equal(peft.read_prompt(alone), TABLE)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        half = adapter({"prompt_embeddings": TABLE.astype(dtype)}, peft_type="P_TUNING")
        np.testing.assert_array_equal(peft.read_prompt(half), TABLE[:2], strict=True)


def with_header(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def of(dtype, shape, data):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    return with_header({"prompt_embeddings": entry}, data)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "damaged"),
        (struct.pack("<Q", 2**63) + b"{}", "damaged"),
        (struct.pack("<Q", 2) + b"[]", "damaged"),
        (of("F32", [4, 3], b"few"), "damaged"),
        (of("F32", [2**62, 2**62], b""), "damaged"),
        (of("F32", [4, -3], b""), "damaged"),
        (of("PICKLE", [4, 3], b""), "damaged"),
        (of("F8_E4M3", [4, 3], b"x" * 12), r"F8_E4M3 \(4, 3\); expected floats \(4, 3\)"),
        (of("I32", [4, 3], b"x" * 48), r"I32 \(4, 3\); expected floats"),
        (of("F32", [3, 4], b"x" * 48), r"F32 \(3, 4\); expected floats \(4, 3\)"),
        (of("F32", [0], b""), r"F32 \(0,\); expected floats \(4, 3\)"),
        (of("F32", [], b"1234"), r"F32 \(\); expected floats"),
        (
            {"prompt_embeddings": TABLE + np.float32("nan")},
            "NaN or infinite values in prompt_embeddings",
        ),
        ({}, "holds no tensors; expected"),
        ({"../../evil": TABLE}, r"holds '\.\./\.\./evil'; expected .* such as prompt_embeddings"),
        ({"prompt_embeddings": TABLE, "x" * 999: TABLE}, r"holds 'x{79}…; expected"),
        ({f"{i}": TABLE for i in range(9)}, r"holds '0', '1', '2' and more; expected"),
    ],
)
def test_tensors_are_checked_before_they_are_used(adapter, content, told):
    with pytest.raises(ValueError, match=rf"adapter_model\.safetensors.*{told}"):
        peft.read_prompt(adapter(content))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "adapter of None; expected one of"),
        ("nonsense", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        (" " * 2**20 + "{}", "bytes; expected at most 1048576"),
        ("{}", "adapter of None; expected one of PROMPT_TUNING, P_TUNING, PREFIX"),
        ('{"peft_type": ["LORA"]}', r"adapter of \['LORA'\]; expected one of"),
        ('{"peft_type": "CARTRIDGE"}', r"adapter of 'CARTRIDGE'; expected one of"),
    ],
)
def test_a_config_is_checked_before_it_is_used(adapter, text, told):
    path = adapter()
    (path / peft.CONFIG).write_text(text)
    with pytest.raises(ValueError, match=told):
        peft.kind(path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"task_type": "CAUSAL_LM"}, "for the task 'CAUSAL_LM'; expected SEQ_2_SEQ_LM"),
        ({"task_type": None}, "for the task None; expected"),
        ({"num_virtual_tokens": "2"}, "num_virtual_tokens '2'; expected a whole number"),
        ({"num_virtual_tokens": True}, "num_virtual_tokens True; expected"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens 0; expected"),
        ({"token_dim": None}, "token_dim None; expected"),
        ({"token_dim": 10**4000}, "token_dim 1000.*…; expected a whole number"),
        ({"num_transformer_submodules": 1}, r"\(4, 3\); expected floats \(2, 3\)"),
        ({"peft_type": "PREFIX_TUNING"}, "an adapter of PREFIX_TUNING; expected one of PROMPT"),
        ({"peft_type": "IA3"}, "an adapter of IA3; expected one of PROMPT_TUNING or P_TUNING"),
    ],
)
def test_settings_of_a_prompt_are_checked(adapter, settings, told):
    with pytest.raises(ValueError, match=told):
        peft.read_prompt(adapter(**settings))


def test_pickled_weights_are_not_read(adapter):
    path = adapter()
    (path / peft.WEIGHTS).rename(path / peft.PICKLED)
    with pytest.raises(
        ValueError, match=r"adapter_model\.bin, which is pickled.*safe_serialization"
    ):
        peft.read_prompt(path)
    (path / peft.PICKLED).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"adapter_model\.safetensors is missing; expected it"
    ):
        peft.read_prompt(path)


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
        ({"use_dora": True}, "sets 'use_dora'; expected a plain LoRA: merge it with PEFT"),
        ({"a_setting_to_come": {"x": 1}}, "sets 'a_setting_to_come'; expected"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa', which changed the base"),
        ({"init_lora_weights": []}, r"init_lora_weights \[\]"),
        ({"lora_alpha": "6"}, "lora_alpha '6'; expected a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan; expected a number"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000.*…; expected a number"),
        ({"alpha_pattern": {"k": 1, "(a+)+$": 1}}, r"alpha_pattern with the key '\(a\+\)\+\$'"),
        ({"alpha_pattern": {"(?=a)q": 1}}, r"with the key '\(\?=a\)q'; expected names of modules"),
        ({"alpha_pattern": {".*.*.*.*.*q": 1}}, "at most 4 quantifiers"),
        ({"alpha_pattern": {"(q": 1}}, r"alpha_pattern with the key '\(q'"),
        (
            {
                "alpha_pattern": {"a?" * n + "q": 1 for n in range(1, 5)}
                | {f"{n}?": 1 for n in range(13)}
            },
            "alpha_pattern with the key '12\\?'; .*at most 16 regular",
        ),
        ({"alpha_pattern": ["q"]}, r"alpha_pattern \['q'\]; expected \{pattern: number\}"),
        ({"rank_pattern": {r"block\.0\..*q": 2}}, r"SelfAttention.q the rank 2 .*tensors have 1"),
        ({"r": 4}, "the rank 4 .*tensors have 1"),
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
        with pytest.raises(
            ValueError, match=r"sets modules_to_save \['lm_head'\], which stored 'base"
        ):
            merged(path, **weights)


def test_matrices_of_a_lora_are_checked(adapter):
    (down, a), (up, b) = PAIR.items()
    for tensors, told in [
        ({down: a}, "lacks base_model.*lora_B"),
        ({up: b}, "lacks base_model.*lora_A"),
        ({down: a[:0], up: b[:, :0]}, r"lora_[AB].weight of F32 \(.*0.*\); expected floats"),
        ({down: a[:, :2], up: b}, r"lora_A.weight of F32 \(1, 2\); expected floats \(1, 3\)"),
        ({down: a[0], up: b}, "expected floats"),
        ({down: a, up: b[:1]}, r"lora_B.weight of F32 \(1, 1\); expected floats \(2, 1\)"),
        ({**PAIR, "base_model.model.lm_head.weight": b}, "holds 'base_model.model.lm_head.weight'"),
    ]:
        with pytest.raises(ValueError, match=told):
            merged(adapter(tensors, LORA))


def test_an_adapter_is_written_whole_or_not_at_all(tmp_path):
    settings = {"base_model": None, "num_layers": 1, "num_heads": 1}
    peft.save_prompt(tmp_path / "a", TABLE, **settings)
    np.testing.assert_array_equal(peft.read_prompt(tmp_path / "a"), TABLE)
    with pytest.raises(FileExistsError):
        peft.save_prompt(tmp_path / "a", TABLE, **settings)
