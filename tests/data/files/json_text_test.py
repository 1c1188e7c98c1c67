import pytest

from prompt_tuning.data.files import json_text


@pytest.mark.parametrize("text", ['{"a": "\\ud83d\\ude00"}', b'{"a": "\\ud83d\\ude00"}'])
def test_a_pair_of_surrogates_is_text(text):
    assert json_text.parse(text, "a.json") == {"a": "\N{GRINNING FACE}"}


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 100_000, '{"a": "\\ud83d"}', b'{"a": "\\uD83D"}', b"\xff", "1" * 5000],
    ids=["open", "deep", "half a pair", "half a pair in bytes", "no UTF-8", "a long number"],
)
def test_what_is_none_is_named(text):
    with pytest.raises(ValueError, match=r"^TRAIN_FILE a.jsonl, line 3: not JSON \("):
        json_text.parse(text, "TRAIN_FILE a.jsonl, line 3")
