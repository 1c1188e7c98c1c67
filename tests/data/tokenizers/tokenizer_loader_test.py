"""Tokenizers of Hugging Face folders equal transformers 5; invalid folders are refused."""

import base64
import copy
import json
import pathlib
import re

import pytest
from sentencepiece import sentencepiece_model_pb2

from prompt_tuning import assets
from prompt_tuning.data import vocabularies
from prompt_tuning.data.tokenizers import tokenizer_loader

# Made with transformers by scripts/make_tokenizer_goldens.py.
GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[2] / "testdata" / "tokenizers.json").read_text()
)
FOLDERS = GOLDEN["folders"]
# A folder of transformers 4 has both files.
BOTH = "added_4.57_T5TokenizerFast"
PLAIN = "plain_5.24_T5Tokenizer"


@pytest.fixture(scope="module")
def proto():
    """The sentencepiece model of the golden tokenizers."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(pathlib.Path(assets.path("t5_mini/spiece.model")).read_bytes())
    return model


@pytest.fixture
def write(tmp_path, proto):
    """(name in the goldens, {file: change of its JSON}, change of the model) -> folder."""

    def write_folder(name, changes=None, change_model=lambda model: None, has_model=None):
        files, model = copy.deepcopy(FOLDERS[name]["files"]), copy.deepcopy(proto)
        change_model(model)
        if stored := files.get("tokenizer.json"):
            scores = [[piece.piece, piece.score] for piece in model.pieces]
            stored["model"]["vocab"] = scores + stored["model"]["vocab"]
            rules = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
            normalizer = stored["normalizer"]
            normalizer.get("normalizers", [normalizer])[0]["precompiled_charsmap"] = rules
        for file, change in (changes or {}).items():
            change(files.setdefault(file, {}))
        for file, content in files.items():
            (tmp_path / file).write_text(json.dumps(content))
        if FOLDERS[name]["has_model"] if has_model is None else has_model:
            (tmp_path / "spiece.model").write_bytes(model.SerializeToString())
        return tmp_path

    return write_folder


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_and_texts_equal_transformers(write, name):
    vocabulary, expected = vocabularies.load(write(name)), FOLDERS[name]
    assert vocabulary.size == expected["size"]
    ids = [vocabulary.encode(text) for text in GOLDEN["texts"]]
    assert ids == expected["ids"]
    # Before 0.23 the tokenizers library decodes added tokens without their normalization.
    decoded = [vocabulary.decode(row).lower() for row in ids]
    assert decoded == [text.lower() for text in expected["decoded"]]


@pytest.mark.parametrize("name", [name for name in FOLDERS if name.startswith("added")])
def test_an_added_token_has_one_id_and_decodes_to_its_text(write, name):
    vocabulary = vocabularies.load(write(name))
    last = range(vocabulary.size - 4, vocabulary.size)
    tokens = [vocabulary.piece(i).lower() for i in last]  # t5_mini's vocabulary folds case
    assert tokens == ["newtok", "new tok", "<sp>", "[sep]"]
    for index in last:
        assert vocabulary.encode(vocabulary.piece(index)) == [index]
        assert vocabulary.decode([index]) == vocabulary.piece(index)
    assert vocabulary.num_sentinels == 20 and vocabulary.extra_ids == 24
    assert vocabulary.encode("<extra_id_0>") == [vocabulary.sentinels_end - 1]
    assert vocabulary.decode([vocabulary.sentinels_end - 20]) == "<extra_id_19>"


def test_decoding_stops_at_eos_and_ignores_padding(write):
    vocabulary = vocabularies.load(write(PLAIN))
    good = vocabulary.encode("good")
    assert vocabulary.decode([0, *good, 0, 1, *good]) == "good"
    assert vocabulary.decode([*good, vocabulary.size, 40_000]) == "good"
    assert vocabulary.piece(vocabulary.size) == ""


def test_the_vocabulary_may_have_more_sentinels_than_extra_ids(write):
    """As in transformers, sentinels of tokenizer.json are kept."""
    few = {"tokenizer_config.json": lambda config: config.update(extra_ids=20)}
    assert vocabularies.load(write(PLAIN, few)).num_sentinels == 100


def test_undeclared_special_tokens_are_those_of_t5(tmp_path):
    # Folders of 2020 have spiece.model and config.json only.
    model = pathlib.Path(assets.path("t5_mini/spiece.model")).read_bytes()
    (tmp_path / "spiece.model").write_bytes(model)
    vocabulary = vocabularies.load(tmp_path)
    a = vocabulary.encode("a")
    assert vocabulary.encode("</s>") == [1] and vocabulary.encode("<pad> a") == [0, *a]
    assert vocabulary.encode("a</s>a <unk>") == [*a, 1, *a, 2]
    assert vocabulary.encode("<extra_id_0>a") == [vocabulary.size - 1, *a]


@pytest.mark.parametrize(
    ("file", "content", "is_used"),
    [
        ("added_tokens.json", {"newtok": 8192}, False),
        ("special_tokens_map.json", {"sep_token": "newtok"}, False),
        ("tokenizer_config.json", {"sep_token": "newtok"}, True),
    ],
)
@pytest.mark.parametrize("has_decoder", [True, False])
def test_added_tokens_decoder_excludes_tokens_of_other_files(
    write, caplog, has_decoder, file, content, is_used
):
    changes = {file: lambda values: values.update(content)}
    folder = write(PLAIN, changes)
    if has_decoder:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        stored = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        decoder = {
            str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in stored
        }
        config["added_tokens_decoder"] = decoder
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = vocabularies.load(folder)
    is_token = len(vocabulary.encode("newtok")) == 1
    assert is_token == (is_used or not has_decoder)
    assert ("declares the token 'newtok', but added_tokens_decoder" in caplog.text) != is_token


@pytest.mark.parametrize(
    ("config", "is_used"),
    [
        ({}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, True),  # uses tokenizer.json
        ({"mask_token": "newtok"}, True),
    ],
)
def test_added_tokens_decoder_keeps_tokens_of_generic_classes_and_roles(write, config, is_used):
    new = {"id": 8192, "content": "newtok", "special": True, "single_word": False}
    new |= {"lstrip": False, "rstrip": False, "normalized": False}
    changes = {
        "tokenizer.json": lambda stored: stored["added_tokens"].append(new),
        "tokenizer_config.json": set_to(added_tokens_decoder={"0": {"content": "<pad>"}}, **config),
    }
    assert (len(vocabularies.load(write(PLAIN, changes)).encode("newtok")) == 1) == is_used


def test_a_file_without_a_model_type_is_read_as_unigram(write):
    """Early versions of the tokenizers library do not store the type."""
    untyped = {"tokenizer.json": lambda stored: stored["model"].pop("type")}
    assert vocabularies.load(write(PLAIN, untyped)).encode("</s>") == [1]


def test_truncation_and_padding_of_the_file_are_not_applied(write):
    def limit(stored):
        direction = {"direction": "Right", "strategy": "LongestFirst", "stride": 0}
        stored["truncation"] = direction | {"max_length": 2}
        pad = {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>", "pad_to_multiple_of": None}
        stored["padding"] = pad | {"strategy": {"Fixed": 8}, "direction": "Right"}

    for name in ("T5Tokenizer", "PreTrainedTokenizerFast"):
        of_class = {
            "tokenizer_config.json": lambda config, x=name: config.update(tokenizer_class=x)
        }
        vocabulary = vocabularies.load(write(PLAIN, {"tokenizer.json": limit} | of_class))
        assert len(vocabulary.encode("the good film was good")) == 5


def test_spaces_before_punctuation_are_removed_if_the_folder_says_so(write):
    text = "it 's a good film , is n't it ?"
    assert vocabularies.load(write(PLAIN)).decode(_ids(write(PLAIN), text)) == text

    def clean(config):
        config["clean_up_tokenization_spaces"] = True

    cleaned = vocabularies.load(write(PLAIN, {"tokenizer_config.json": clean}))
    assert cleaned.decode(cleaned.encode(text)) == "it's a good film, isn't it?"


def test_special_tokens_in_a_text_are_split_if_the_folder_says_so(write):
    split = {"tokenizer_config.json": set_to(split_special_tokens=True)}
    vocabulary = vocabularies.load(write(BOTH, split))
    assert len(vocabulary.encode("<sp>")) > 1
    assert len(vocabulary.encode("newtok")) == 1  # added, but not special


def _ids(folder, text):
    return vocabularies.load(folder).encode(text)


def test_a_generic_tokenizer_uses_the_pipeline_of_its_file(write):
    def change(stored):
        stored["normalizer"] = {"type": "Lowercase"}
        stored["pre_tokenizer"]["pretokenizers"][1]["prepend_scheme"] = "never"

    def generic(config):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"

    changes = {"tokenizer.json": change, "tokenizer_config.json": generic}
    vocabulary = vocabularies.load(write(PLAIN, changes))
    assert vocabulary.piece(vocabulary.encode("GOOD")[0])[0] == "g"
    of_t5 = vocabularies.load(write(PLAIN, {"tokenizer.json": change}))
    assert of_t5.piece(of_t5.encode("good")[0])[0] == "▁"


def set_to(**values):
    return lambda content: content.update(values)


def rename_piece(stored):
    stored["model"]["vocab"][217][0] = "▁elsewhere"


def score_piece(stored):
    stored["model"]["vocab"][217][1] = -1.5


def drop_piece(stored):
    del stored["model"]["vocab"][8000:]


def add_piece(stored):
    stored["model"]["vocab"].append(["▁elsewhere", -9.0])


def drop_rules(stored):
    stored["normalizer"] = None


def other_id(stored):
    stored["added_tokens"][-1]["id"] += 5


def gap(content):
    content["added_tokens_decoder"]["9000"] = {"content": "<far>", "special": True}


def bpe(stored):
    stored["model"] = {"type": "BPE", "vocab": {}, "merges": []}


def bos_first(stored):
    stored["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    }


REFUSED = [
    (BOTH, "tokenizer.json", rename_piece, r"id 217 is '.+' .* in the first, '▁elsewhere'"),
    (BOTH, "tokenizer.json", score_piece, r"id 217 is .*\(score -1\.5\) in the second"),
    (BOTH, "tokenizer.json", drop_piece, r"id 8000 is .* in the first, absent in the second"),
    (BOTH, "tokenizer.json", add_piece, r"is absent in the first, '▁elsewhere'"),
    (BOTH, "tokenizer.json", drop_rules, r"normalization rules .* Remove the file that"),
    (BOTH, "tokenizer.json", other_id, r"'\[SEP\]' has id 8115 in .*config\.json, and id 8120 in"),
    (BOTH, "added_tokens.json", set_to(newtok=7), r"'newtok' has id 8112 in .* id 7 in .*added_t"),
    (BOTH, "tokenizer_config.json", gap, r"'<far>' id 9000, but in the vocabulary it has id 8116"),
    (BOTH, "tokenizer_config.json", set_to(extra_ids=100), r"extra_ids 100, but .* 20 tokens"),
    (PLAIN, "tokenizer_config.json", set_to(extra_ids=101), r"extra_ids 101, but .* 100 tokens"),
    (
        PLAIN,
        "tokenizer_config.json",
        set_to(eos_token="good"),
        r"eos_token 'good', whose id is \d+; expected id 1",
    ),
    (
        PLAIN,
        "tokenizer_config.json",
        set_to(pad_token="</s>"),
        r"pad_token '</s>', whose id is 1; exp",
    ),
    (
        PLAIN,
        "special_tokens_map.json",
        set_to(unk_token={"content": "?"}),
        r"unk_token '\?', whose id is \d+; expected id 2",
    ),
    (PLAIN, "tokenizer_config.json", set_to(tokenizer_class="LlamaTokenizer"), r"'LlamaTokenizer'"),
    (PLAIN, "tokenizer.json", bpe, r"model of type 'BPE'; expected 'Unigram'"),
]


@pytest.mark.parametrize(("name", "file", "change", "message"), REFUSED)
def test_contradicting_files_are_refused(write, name, file, change, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_loader.load(write(name, {file: change}))


def test_a_generic_class_requires_tokenizer_json(write):
    generic = {"tokenizer_config.json": set_to(tokenizer_class="TokenizersBackend")}
    with pytest.raises(ValueError, match=r"'TokenizersBackend'; expected one of T5Tok.* or one of"):
        tokenizer_loader.load(write("added_4.30_T5Tokenizer", generic))


def test_a_post_processor_of_another_model_is_refused(write):
    generic = {"tokenizer_config.json": set_to(tokenizer_class="TokenizersBackend")}
    with pytest.raises(
        ValueError, match=r"puts the ids \[1\] around a text; expected only 1, </s>, after"
    ):
        tokenizer_loader.load(write(PLAIN, {"tokenizer.json": bos_first} | generic))


def test_a_model_that_encodes_differently_is_refused(write):
    """Vocabulary and normalization rules are equal, but not the handling of white space."""

    def keep_spaces(model):
        model.normalizer_spec.remove_extra_whitespaces = False

    with pytest.raises(ValueError, match=r"' The  quick .*' has ids \[.*\] in the first, \["):
        tokenizer_loader.load(write(BOTH, change_model=keep_spaces))


def test_byte_fallback_is_ignored_as_in_transformers(write, caplog):
    """umT5's model has byte tokens, which transformers' tokenizer does not use."""

    def fall_back(model):
        model.trainer_spec.byte_fallback = True
        for byte in range(256):
            model.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=model.SentencePiece.BYTE)

    changes = {"tokenizer.json": set_to(added_tokens=[])}
    loaded = tokenizer_loader.load(write(PLAIN, changes, fall_back, has_model=True))
    assert tokenizer_loader.UNK_ID in loaded.tokenizer.encode("漢字").ids
    assert "unknown characters become <unk>" in caplog.text


def test_a_model_of_another_type_is_refused(write):
    def make_bpe(model):
        model.trainer_spec.model_type = model.trainer_spec.BPE

    with pytest.raises(ValueError, match=r"of type BPE; expected UNIGRAM.* set VOCABULARY_FILE"):
        tokenizer_loader.load(write("added_4.30_T5Tokenizer", change_model=make_bpe))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    message = "has neither tokenizer.json nor spiece.model; expected one of them"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        tokenizer_loader.load(tmp_path)
