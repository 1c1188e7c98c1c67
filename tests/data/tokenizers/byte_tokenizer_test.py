"""ByT5's tokenizer of a Hugging Face folder equals transformers 5."""

import json
import pathlib

import numpy as np
import pytest

from prompt_tuning.data import vocabularies
from prompt_tuning.data.text import preprocessors
from prompt_tuning.data.tokenizers import byte_tokenizer

# Made with transformers by scripts/make_tokenizer_goldens.py.
GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[2] / "testdata" / "byte_tokenizers.json").read_text()
)
FOLDERS = GOLDEN["folders"]
OF_CLASS = {"tokenizer_class": "ByT5Tokenizer"}
CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"


@pytest.fixture
def load(tmp_path):
    """({file: JSON}) -> vocabulary of a folder with these files."""

    def load_files(files):
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content))
        return vocabularies.load(tmp_path)

    return load_files


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_and_texts_equal_transformers(load, name):
    expected = FOLDERS[name]
    vocabulary = load(expected["files"])
    assert vocabulary.size == expected["size"]
    ids = [vocabulary.encode(text) for text in GOLDEN["texts"]]
    assert ids == expected["ids"]
    assert [vocabulary.decode(row) for row in ids] == expected["decoded"]


def test_tokens_in_a_text_are_encoded_as_ids(load):
    vocabulary = load({CONFIG: OF_CLASS})
    assert vocabulary.encode("a </s> b<extra_id_0>") == [100, 1, 101, 259]
    assert vocabulary.encode("<extra_id_124><extra_id_125>")[0] == 383
    assert vocabulary.decode([100, 0, 259, 2, 384, 40_000, 101, 1, 102]) == "a<extra_id_0><unk>b"
    assert vocabulary.decode([198, 100, 131]) == "a"  # invalid UTF-8 except "a"
    pieces = [vocabulary.piece(i) for i in (0, 1, 2, 100, 35, 198, 259, 383, 384)]
    texts = ["<pad>", "</s>", "<unk>", "a", "▁", "<0xC3>", "<extra_id_0>", "<extra_id_124>", ""]
    assert pieces == texts


def test_the_sentinels_of_pretraining_are_the_last_bytes(load):
    """Not the tokens <extra_id_i>."""
    vocabulary = load({CONFIG: OF_CLASS})
    assert (vocabulary.size, vocabulary.num_sentinels, vocabulary.extra_ids) == (384, 125, 125)
    assert vocabulary.sentinels_end == vocabularies.ByteVocabulary().sentinels_end == 259
    vocabulary.check_fits(384)
    with pytest.raises(ValueError, match="has 384 ids, but the model's embedding has 383"):
        vocabulary.check_fits(383)
    of_seqio = vocabulary.for_seqio()
    assert preprocessors.sentinels_end(of_seqio) == 259
    preprocessors.check_sentinels(of_seqio, 100, 512)
    with pytest.raises(ValueError, match="does not end with the sentinels"):
        preprocessors.check_sentinels(of_seqio, 101, 512)


def test_seqio_encodes_like_the_tokenizer(load):
    vocabulary = load(FOLDERS["added_json"]["files"])
    of_seqio, texts = vocabulary.for_seqio(), GOLDEN["texts"]
    assert of_seqio.encode_tf(texts).to_list() == list(map(vocabulary.encode, texts))
    ids = np.array(vocabulary.encode("é newtok <sp> b"))
    assert of_seqio.decode_tf(ids).numpy().decode() == "é newtok <sp> b"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        # transformers 5 assigns id 260 to <extra_id_0> here, and id 384 twice.
        (
            {"added_tokens.json": {"newtok": 384}},
            "token '<extra_id_0>' id 260 .*; expected id 259, .* added_tokens_decoder of",
        ),
        ({CONFIG: {"extra_ids": 0, "added_tokens_decoder": {"400": {"content": "new"}}}}, "id 400"),
        ({CONFIG: {"extra_ids": 0, "added_tokens_decoder": {"5": {"content": "new"}}}}, "id 5 in"),
        ({CONFIG: {"extra_special_tokens": ["é"]}}, "adds the token 'é' like a byte"),
        (
            {CONFIG: {"added_tokens_decoder": {"259": {"content": "new", "single_word": True}}}},
            "'new' with single_word to a ByT5Tokenizer; expected tokens of at least two",
        ),
        ({CONFIG: {"eos_token": "<pad>"}}, "eos_token|pad_token '<pad>', whose id is"),
        (
            {CONFIG: {"extra_ids": 0, "added_tokens_decoder": {"259": {"content": "</s>"}}}},
            "eos_token '</s>', whose id is 259; expected id 1, as in T5, mT5, umT5 and ByT5",
        ),
        (
            {
                CONFIG: {"extra_ids": 0, "extra_special_tokens": ["new"]},
                MAP: {"additional_special_tokens": ["x1"]},
            },
            "lists other special tokens in tokenizer_config.json than in special_tokens_map.json",
        ),
        ({MAP: {"additional_special_tokens": ["new"]}}, "lists 0 sentinels, but .* extra_ids 125"),
        ({CONFIG: {"added_tokens_decoder": {"384": 5}}}, "tokenizer files that cannot be read"),
        ({CONFIG: {"extra_special_tokens": [5]}}, "tokenizer files that cannot be read"),
    ],
)
def test_invalid_token_declarations_are_refused(load, files, message):
    with pytest.raises(ValueError, match=message):
        load({CONFIG: OF_CLASS} | files | {CONFIG: OF_CLASS | files.get(CONFIG, {})})


@pytest.mark.parametrize(
    ("decoder", "is_used"), [({}, True), ({"added_tokens_decoder": {}}, False)]
)
def test_added_tokens_decoder_excludes_tokens_of_other_files(load, decoder, is_used):
    vocabulary = load({CONFIG: OF_CLASS | decoder, MAP: {"bos_token": "<s>"}})
    assert (vocabulary.encode("<s>") == [259]) == is_used
    assert vocabulary.size == 384 + is_used


def test_a_character_outside_latin_1_can_be_a_token(load):
    vocabulary = load({CONFIG: OF_CLASS | {"extra_special_tokens": ["漢"]}})
    assert vocabulary.encode("a漢b") == [100, 259, 101]
    assert vocabulary.decode([259]) == "漢"


def test_another_number_of_sentinels_than_the_folder_has_is_refused(load):
    with pytest.raises(ValueError, match=r"is 100, but the tokenizer in .* has 125 sentinels"):
        vocabularies.load(load({CONFIG: OF_CLASS}).path, 100)


def test_the_vocabulary_without_a_folder_encodes_tokens_as_bytes():
    """As in seqio, which T5X's tasks use."""
    ids = vocabularies.ByteVocabulary(125).encode("</s><extra_id_0>")
    assert ids == [byte + byte_tokenizer.OFFSET for byte in b"</s><extra_id_0>"]
