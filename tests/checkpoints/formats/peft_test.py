"""PEFT's adapters: what is read of them, and that nothing else is, whatever they hold.

Their logits are compared in inference/converter_test.py.
"""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning.checkpoints.formats import peft

CONFIG = {
    "peft_type": "PROMPT_TUNING",
    "task_type": "SEQ_2_SEQ_LM",
    "num_virtual_tokens": 2,
    "num_transformer_submodules": 2,
    "token_dim": 3,
}
TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


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
        ({}, "contains no tensors; expected"),
        (
            {"../../evil": TABLE},
            r"contains '\.\./\.\./evil'; expected .* such as prompt_embeddings",
        ),
        ({"prompt_embeddings": TABLE, "x" * 999: TABLE}, r"contains 'x{79}…; expected"),
        ({f"{i}": TABLE for i in range(9)}, r"contains '0', '1', '2' and more; expected"),
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
        ({"num_virtual_tokens": "2"}, "num_virtual_tokens '2'; expected an integer"),
        ({"num_virtual_tokens": True}, "num_virtual_tokens True; expected"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens 0; expected"),
        ({"token_dim": None}, "token_dim None; expected"),
        ({"token_dim": 10**4000}, "token_dim 1000.*…; expected an integer"),
        ({"num_transformer_submodules": 1}, r"\(4, 3\); expected floats \(2, 3\)"),
        ({"peft_type": "PREFIX_TUNING"}, "a PEFT adapter of PREFIX_TUNING; expected one of PROMPT"),
        ({"peft_type": "IA3"}, "a PEFT adapter of IA3; expected one of PROMPT_TUNING or P_TUNING"),
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
        FileNotFoundError, match=r"adapter_model\.safetensors does not exist; expected it"
    ):
        peft.read_prompt(path)


def test_an_adapter_is_written_whole_or_not_at_all(tmp_path):
    settings = {"base_model": None, "num_layers": 1, "num_heads": 1}
    peft.save_prompt(tmp_path / "a", TABLE, **settings)
    np.testing.assert_array_equal(peft.read_prompt(tmp_path / "a"), TABLE)
    with pytest.raises(FileExistsError):
        peft.save_prompt(tmp_path / "a", TABLE, **settings)
