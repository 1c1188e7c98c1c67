"""Ids with a role: T5's are read, others are refused before the weights."""

import json

import pytest

from prompt_tuning.checkpoints import base_model, special_ids


@pytest.mark.parametrize(
    ("config", "generation"),
    [
        ({}, None),
        ({"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}, {}),
        ({"eos_token_id": None}, {"eos_token_id": [1], "num_beams": 4}),
    ],
)
def test_ids_of_a_t5_are_read(tmp_path, config, generation):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    special_ids.check(tmp_path, config)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("eos_token_id", 2, 1),
        ("eos_token_id", [1, 2], 1),
        ("pad_token_id", 1, 0),
        ("decoder_start_token_id", 2, 0),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_other_ids_are_refused(tmp_path, name, key, value, expected):
    config = {key: value} if name == "config.json" else {}
    (tmp_path / "generation_config.json").write_text(json.dumps({key: value}))
    with pytest.raises(ValueError) as error:
        special_ids.check(tmp_path, config)
    assert f"{tmp_path / name} has {key} {value}; expected {expected}, as T5" in str(error.value)
    assert "choose another model" in str(error.value)


def test_a_model_is_refused_before_its_weights(tmp_path):
    """They are absent here."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "eos_token_id": 2}))
    with pytest.raises(ValueError, match=r"config\.json has eos_token_id 2; expected 1"):
        base_model.read_config(tmp_path)
