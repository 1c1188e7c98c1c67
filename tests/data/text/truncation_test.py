"""Truncation of one field of the inputs, and the warning about truncated examples."""

import logging

import numpy as np
import pytest

from prompt_tuning.data import sources, vocabularies
from prompt_tuning.data.text import truncation

WORDS = "the film was good and the song was bad so she left early"
BEFORE, AFTER = "passage: ", " question: was it good ?"


def encode_words(text):
    """Tokens of up to five letters."""
    return [word[i : i + 5] for word in text.split() for i in range(0, len(word), 5)]


def truncate(field, length, encode, before=BEFORE, after=AFTER):
    spans = np.array([[len(before), len(before) + len(field)]])
    return truncation.truncate(before + field + after, spans, encode, length)


def test_a_text_that_fits_is_unchanged():
    text = BEFORE + "so  on " + AFTER
    assert truncate("so  on ", 100, encode_words) == text


@pytest.mark.parametrize("length", range(8, 22))
def test_the_words_that_fit_are_kept(length):
    rest = len(encode_words(BEFORE + AFTER))
    expected = " ".join(WORDS.split()[: max(0, length - rest)])
    assert truncate(WORDS, length, encode_words) == BEFORE + expected + AFTER


def test_the_tokens_of_the_next_word_that_fit_are_kept():
    rest = len(encode_words(BEFORE + AFTER))
    field = "so magnificently done"
    assert truncate(field, rest + 3, encode_words) == BEFORE + "so magnificen" + AFTER
    assert truncate(field, rest + 1, encode_words) == BEFORE + "so" + AFTER


FIELDS = [
    WORDS * 4,
    "the  film\n\nwas\tgood " * 9,
    "goodgoodfilm" * 30,
    "ﬁlm ½ " * 30,
]


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        *((kind, field) for kind in ("sentencepiece", "bytes") for field in FIELDS),
        ("bytes", "東京は夜" * 40),
    ],
)
def test_truncated_text_fits_after_tokenization(vocabulary, kind, field):
    encode = (vocabulary if kind == "sentencepiece" else vocabularies.ByteVocabulary()).encode
    rest = len(encode(BEFORE + AFTER))
    assert len(encode(field)) > 30
    for length in range(rest + 4, rest + 24, 6):
        text = truncate(field, length, encode)
        kept = text.removeprefix(BEFORE).removesuffix(AFTER)
        assert text == BEFORE + kept + AFTER and field.startswith(kept)
        assert len(encode(text)) <= length
        longest = max(len(encode(word)) for word in field.split())
        assert len(encode(text)) > length - min(longest, 6)


def test_every_occurrence_of_the_field_is_truncated():
    text = "a: one two three b: one two three ?"
    spans = np.array([[3, 16], [20, 33]])
    assert truncation.truncate(text, spans, encode_words, 7) == "a: one two b: one two ?"


def test_the_field_is_empty_if_the_other_text_does_not_fit():
    assert truncate(WORDS, 3, encode_words) == BEFORE + AFTER
    assert truncate("", 3, encode_words) == BEFORE + AFTER


def warning(log, source, sizes=(5, 30, 40, 8), key="inputs"):
    log.clear()
    truncation.warn_of_cuts("train", key, sizes, 20, source)
    return log.text


TEMPLATE = "passage: {passage} question: {question} answer:"


def test_the_warning_names_the_truncated_part_and_the_fix(caplog):
    caplog.set_level(logging.WARNING)
    files = sources.TaskSource(train_file="a.tsv", input_template=TEMPLATE)
    assert (
        "train: the inputs of 2 of 4 examples (50 %) have more than TASK_FEATURE_LENGTHS['inputs'] = 20 "
        "tokens, the longest 40; the end of each is cut off, which is '{question} answer:' of "
        "INPUT_TEMPLATE. Set TASK_FEATURE_LENGTHS['inputs'] to 40, or set TRUNCATE_FIELD to the field "
        "to shorten instead, one of ['passage', 'question']."
    ) in warning(caplog, files)
    shortened = sources.TaskSource(
        train_file="a.tsv", input_template=TEMPLATE, truncate_field="passage"
    )
    assert "because they are too long even with an empty 'passage' (TRUNCATE_FIELD)" in warning(
        caplog, shortened
    )
    single = sources.TaskSource(train_file="a.tsv", input_template="{text}")
    assert "TRUNCATE_FIELD" not in warning(caplog, single)
    assert "INPUT_TEMPLATE" not in warning(caplog, sources.TaskSource(name="films"))
    assert "INPUT_TEMPLATE" not in warning(caplog, files, key="targets")
    assert "Set task_feature_lengths['inputs'] to 40." in warning(caplog, None)
    assert not warning(caplog, files, sizes=(3, 20))
