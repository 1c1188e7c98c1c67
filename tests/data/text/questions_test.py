"""T5's format of questions."""

import pytest
import tensorflow as tf

from prompt_tuning.data.text import questions


def dataset(**example):
    return tf.data.Dataset.from_tensors(example)


def squad(question, context, *answers):
    example = {"id": "7", "question": question, "context": context, "answers": {"text": answers}}
    [got] = questions.squad(dataset(**example)).as_numpy_iterator()
    return got


@pytest.mark.parametrize(
    ("text", "padded"),
    [
        ("What's up?", "What ' s up ? "),
        ("$12", " $ 12"),
        ("U.S.-led (1990)", "U . S . - led ( 1990 ) "),
        ("snake_case", "snake_case"),
        ("two\n\n lines", "two lines"),
        # Letters outside ASCII are no word characters to T5.
        ("naïve «a»", "na ï ve « a » "),
    ],
)
def test_punctuation_is_padded_as_in_t5(text, padded):
    assert questions.pad_punctuation(tf.constant(text)).numpy().decode() == padded


def test_squad_format():
    got = squad("Who won?", "It was Ann, not Bo.", "Ann", "Ann.")
    assert got["inputs"] == b"question: Who won ? context: It was Ann , not Bo . "
    assert got["targets"] == b"Ann"
    assert got["answers"].tolist() == [b"Ann", b"Ann . "]
    assert got["id"] == b"7"
    assert got.keys() == {"inputs", "targets", "answers", "id"}


@pytest.mark.parametrize(
    ("task_name", "inputs"),
    [(None, b"question: q ? context: c . "), ("race", b"race question: q ? context: c . ")],
)
def test_mrqa_format(task_name, inputs):
    example = {"qid": "7", "question": "q?", "context": "c.", "answers": ["$1", "1"]}
    [got] = questions.mrqa(dataset(**example), task_name).as_numpy_iterator()
    assert (got["inputs"], got["targets"], got["id"]) == (inputs, b" $ 1", b"7")
    assert got["answers"].tolist() == [b" $ 1", b"1"]


def test_a_target_is_all_answers():
    example = {"answers": [b"na \xc3\xaf ve", b"b"]}
    assert questions.all_answers("a", example=example, is_target=True) == ["na ï ve", "b"]
    assert questions.all_answers("a", example=example, is_target=False) == "a"
