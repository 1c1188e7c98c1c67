"""A sentencepiece vocabulary with its sentinels."""

import dataclasses

import numpy as np
import pytest

from prompt_tuning.data import vocabularies

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


@pytest.mark.parametrize(("surplus", "fits"), [(-1, False), (0, True), (255, True), (256, False)])
def test_rows_of_the_embedding_it_fits(vocabulary, surplus, fits):
    if fits:
        vocabulary.check_fits(vocabulary.size + surplus)
        return
    with pytest.raises(ValueError, match="set VOCABULARY_FILE and EXTRA_IDS"):
        vocabulary.check_fits(vocabulary.size + surplus)


def test_a_file_that_is_absent_or_another_thing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.model does not exist; set VOCABULARY_FILE"):
        _ = vocabularies.SentencePiece(str(tmp_path / "none.model")).size
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(
        ValueError, match=r"text\.model is not a sentencepiece model .* VOCABULARY_FILE"
    ):
        _ = vocabularies.SentencePiece(str(tmp_path / "text.model")).size
