"""Declarations of tokenizer files: vocabulary, sentinels, special and added tokens."""

import json
import pathlib

import pytest
from sentencepiece import sentencepiece_model_pb2

from prompt_tuning.data import vocabularies
from prompt_tuning.data.tokenizers import tokenizer_folder, tokenizer_loader


@pytest.fixture
def make_folder(tmp_path, vocabulary):
    """({file: JSON}, number of sentinels in the model) -> folder with spiece.model."""

    def make(files, model_sentinels=0):
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(pathlib.Path(vocabulary.path).read_bytes())
        for i in reversed(range(model_sentinels)):
            piece = f"▁<extra_id_{i}>"
            model.pieces.add(piece=piece, score=0.0, type=model.SentencePiece.USER_DEFINED)
        (tmp_path / "spiece.model").write_bytes(model.SerializeToString())
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("files", "model_sentinels", "sentinels"),
    [
        ({}, 0, 100),  # transformers' default
        ({"tokenizer_config.json": {"extra_ids": 0}}, 0, 0),
        ({"tokenizer_config.json": {"extra_ids": 300}}, 0, 300),  # umT5
        ({"tokenizer_config.json": {"extra_ids": 0}}, 100, 100),  # mT5
        ({}, 100, 100),
        ({"added_tokens.json": 3}, 0, 3),
    ],
)
def test_the_number_of_sentinels_is_that_of_the_folder(
    make_folder, vocabulary, files, model_sentinels, sentinels
):
    base_size = vocabulary.size - vocabulary.extra_ids
    if (added := files.get("added_tokens.json")) is not None:
        tokens = {f"<extra_id_{i}>": base_size + added - 1 - i for i in range(added)}
        files = {"added_tokens.json": tokens}
    loaded = vocabularies.load(make_folder(files, model_sentinels))
    assert loaded.num_sentinels == loaded.extra_ids == loaded.size - base_size == sentinels
    if sentinels:
        assert loaded.piece(loaded.size - 1).strip("▁") == "<extra_id_0>"
        assert loaded.encode("a <extra_id_0> b").count(loaded.size - 1) == 1


def test_declared_sentinels_in_addition_to_those_of_the_model_are_refused(make_folder):
    folder = make_folder({"tokenizer_config.json": {"extra_ids": 100}}, model_sentinels=100)
    message = r"extra_ids 100, but spiece\.model already has 100 sentinels.*Set extra_ids to 0"
    with pytest.raises(ValueError, match=message):
        tokenizer_loader.load(folder)


def test_tokens_without_ids_get_ids_in_the_order_of_transformers(make_folder, vocabulary):
    files = {
        "tokenizer_config.json": {
            "additional_special_tokens": ["<b>", {"content": "<c>"}],
            "eos_token": "</s>",
            "mask_token": "<mask>",
        },
        "special_tokens_map.json": {"bos_token": {"content": "<s>", "lstrip": True}},
        "added_tokens.json": {"<b>": vocabulary.size},
    }
    loaded = vocabularies.load(make_folder(files))
    tokens = [loaded.piece(i) for i in range(vocabulary.size, loaded.size)]
    assert tokens == ["<b>", "<s>", "<mask>", "<c>"]
    for token in tokens:
        assert loaded.encode(f"a{token}b").count(loaded.encode(token)[0]) == 1


def test_a_special_token_keeps_its_first_flags(make_folder, vocabulary):
    size = vocabulary.size
    token = {"content": "New", "lstrip": True, "normalized": True, "special": False}
    files = {
        "tokenizer_config.json": {"added_tokens_decoder": {str(size): token}},
        "special_tokens_map.json": {"additional_special_tokens": ["New"]},
    }
    declared = tokenizer_folder.TokenizerFolder(make_folder(files)).tokens["New"]
    assert declared.index == size and declared.source.name == "tokenizer_config.json"
    assert declared.flags == {"lstrip": True, "normalized": True, "special": False}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer_config.json", "[1]", "tokenizer_config.json is not a JSON object"),
        ("tokenizer.json", "{", "tokenizer.json is not a JSON object"),
        ("tokenizer.json", '{"model": {"vocab": [["a", "b"]]}}', "cannot be read"),
        ("tokenizer.json", '{"model": {"vocab": [["a"]]}}', "cannot be read"),
        ("tokenizer_config.json", '{"extra_ids": -1}', "extra_ids -1; expected an integer from"),
        ("added_tokens.json", '{"a": "b"}', "added token with text 'a' and id 'b'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}', "id 'x'"),
        ("spiece.model", "text", "spiece.model is not a sentencepiece model"),
    ],
)
def test_a_damaged_file_is_refused(make_folder, name, text, message):
    folder = make_folder({})
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        tokenizer_loader.load(folder)
    assert str(folder) in str(error.value)
