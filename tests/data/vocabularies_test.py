"""Vocabularies of pieces and of bytes, with their sentinels."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
import seqio

from prompt_tuning.data import seqio_tasks, vocabularies

TEXTS = [
    "she liked the good film .",
    "",
    "  two   spaces ",
    "naïve 漢字",
    "<extra_id_0> film <extra_id_99>",
]


@pytest.mark.parametrize("extra_ids", [0, 100])
@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_those_of_seqio(vocabulary, text, extra_ids):
    mine = dataclasses.replace(vocabulary, extra_ids=extra_ids)
    theirs = mine.for_seqio()
    ids = mine.encode(text)
    assert ids == list(theirs.encode(text))
    assert mine.decode(ids) == theirs.decode(ids)
    assert mine.size == theirs.vocab_size


def test_sentinels_are_the_last_ids_and_0_is_the_very_last(vocabulary):
    size = vocabulary.size
    assert size == dataclasses.replace(vocabulary, extra_ids=0).size + 100
    assert vocabulary.piece(size - 1) == "▁<extra_id_0>"
    assert vocabulary.piece(size - 100) == "▁<extra_id_99>"
    assert vocabulary.encode("<extra_id_0>") == [size - 1]


def test_text_ends_at_the_first_end_token(vocabulary):
    good, film = vocabulary.encode("good"), vocabulary.encode("film")
    assert vocabulary.decode([*good, 1, *film, 1, 0]) == "good"
    assert vocabulary.decode(np.array([1, *film])) == ""


def test_ids_beyond_the_vocabulary_are_unknown(vocabulary):
    """A model's table has more rows than there are pieces, and soft tokens lie behind it."""
    unknown = vocabulary.decode([vocabularies.UNK_ID])
    assert vocabulary.decode([vocabulary.size]) == vocabulary.decode([40_000]) == unknown
    assert vocabulary.piece(vocabulary.size) == ""


def test_piece_marks_the_space_in_front(vocabulary):
    assert "".join(map(vocabulary.piece, vocabulary.encode("good film"))) == "▁good▁film"


@pytest.mark.parametrize(("surplus", "fits"), [(-1, False), (0, True), (383, True), (384, False)])
def test_rows_of_the_embedding_it_fits(vocabulary, surplus, fits):
    if fits:
        vocabulary.check_fits(vocabulary.size + surplus)
        return
    with pytest.raises(ValueError, match="Set VOCABULARY_FILE and EXTRA_IDS"):
        vocabulary.check_fits(vocabulary.size + surplus)


def test_a_file_that_is_absent_or_another_thing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.model does not exist. Set VOCABULARY_FILE"):
        _ = vocabularies.SentencePiece(str(tmp_path / "none.model")).size
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(
        ValueError, match=r"text\.model is not a sentencepiece model .* VOCABULARY_FILE"
    ):
        _ = vocabularies.SentencePiece(str(tmp_path / "text.model")).size


@pytest.mark.parametrize("extra_ids", [0, 100])
@pytest.mark.parametrize("text", [*TEXTS, "\x00\x7f\n"])
def test_bytes_have_the_ids_and_texts_of_seqio(text, extra_ids):
    mine = vocabularies.ByteVocabulary(extra_ids)
    theirs = mine.for_seqio()
    ids = mine.encode(text)
    assert ids == list(theirs.encode(text))
    assert mine.decode(ids) == theirs.decode(ids) == text
    assert mine.size == theirs.vocab_size == 259 + extra_ids
    for odd in ([*ids, 1, 70], [2, 0, *ids, 258, 300, 40_000], [*ids[:1], 70, 130]):
        assert mine.decode(np.array(odd)) == theirs.decode(odd), odd


def test_bytes_have_the_ids_of_byt5s_tokenizer():
    """What transformers says; see scripts/make_family_goldens.py."""
    file = pathlib.Path(__file__).parents[1] / "testdata" / "family_byt5.npz"
    with np.load(file) as arrays:
        for texts, name in (("input_texts", "inputs"), ("target_texts", "targets")):
            for text, row in zip(arrays[texts], arrays[name], strict=True):
                ids = vocabularies.ByteVocabulary().encode(str(text))
                assert [*ids, vocabularies.EOS_ID] == row[row > 0].tolist()
                assert vocabularies.ByteVocabulary().decode(row) == text


def test_a_path_is_a_model_or_a_folder(vocabulary, tmp_path):
    shutil.copy(vocabulary.path, tmp_path / "spiece.model")
    model = tmp_path / "spiece.model"
    assert vocabularies.load(model, 7) == vocabularies.SentencePiece(str(model), 7)
    assert vocabularies.load("gs://no/such/a.model") == vocabularies.SentencePiece(
        "gs://no/such/a.model"
    )
    folder = vocabularies.HuggingFaceTokenizer(str(tmp_path))
    assert vocabularies.load(tmp_path) == vocabularies.load(tmp_path, 100) == folder
    assert vocabularies.load(tmp_path / "tokenizer.json") == folder
    with pytest.raises(ValueError, match=r"is 20, but .* has 100 sentinels; .*EXTRA_IDS = 0"):
        vocabularies.load(tmp_path, 20)
    folder.check_fits(folder.size)
    with pytest.raises(ValueError, match=r"the model's embedding has 8 rows.*Set VOCABULARY_FILE"):
        folder.check_fits(8)


def test_pieces_of_bytes():
    some = vocabularies.ByteVocabulary(extra_ids=2)
    ids = [0, 1, 2, *some.encode("a ä\n"), 259, 260, 261]
    shown = ["<pad>", "</s>", "<unk>", "a", "▁", "<0xC3>", "<0xA4>", "<0x0A>"]
    assert [some.piece(i) for i in ids] == [*shown, "<extra_id_1>", "<extra_id_0>", ""]


def test_bytes_fit_byt5_and_no_other():
    vocabularies.ByteVocabulary().check_fits(384)
    with pytest.raises(ValueError, match=r"bytes with 0 extra ids has 259 ids.*Set EXTRA_IDS"):
        vocabularies.ByteVocabulary().check_fits(32128)


def test_ids_are_those_of_a_task(vocabulary):
    texts = ["she liked the film .", "", "  two  spaces ", "SHE <extra_id_0>"]
    rows = [{"inputs": text, "targets": "good"} for text in texts]
    task = seqio.Task(
        "same",
        source=seqio_tasks.InMemory({"train": rows}),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=seqio_tasks.text_features(),
    )
    task = seqio_tasks.use_vocabulary(task, vocabulary)
    expected = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    tokenized = [vocabularies.tokenize_pair(text, "good", vocabulary) for text in texts]
    for ours, theirs in zip(tokenized, expected, strict=True):
        for name in ("inputs", "targets"):
            np.testing.assert_array_equal(ours[name], theirs[name])
