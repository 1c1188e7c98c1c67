"""T5's text format of question answering."""

import pytest
import tensorflow as tf

from prompt_tuning.data.text import questions


def dataset(**example):
    return tf.data.Dataset.from_tensors(example)


def squad(question, context, *answers):
    example = {"id": "7", "question": question, "context": context, "answers": {"text": answers}}
    [converted] = questions.squad(dataset(**example)).as_numpy_iterator()
    return converted


@pytest.mark.parametrize(
    ("text", "padded"),
    [
        ("What's up?", "What ' s up ? "),
        ("$12", " $ 12"),
        ("U.S.-led (1990)", "U . S . - led ( 1990 ) "),
        ("snake_case", "snake_case"),
        ("two\n\n lines", "two lines"),
        # T5 treats letters outside ASCII as punctuation.
        ("naïve «a»", "na ï ve « a » "),
    ],
)
def test_punctuation_is_padded_as_in_t5(text, padded):
    assert questions.pad_punctuation(tf.constant(text)).numpy().decode() == padded


def test_squad_has_the_first_answer_as_target_and_keeps_all():
    example = squad("Who won?", "It was Ann, not Bo.", "Ann", "Ann.")
    assert example["inputs"] == b"question: Who won ? context: It was Ann , not Bo . "
    assert example["targets"] == b"Ann"
    assert example["answers"].tolist() == [b"Ann", b"Ann . "]
    assert example["id"] == b"7"
    assert example.keys() == {"inputs", "targets", "answers", "id"}


@pytest.mark.parametrize(
    ("task_name", "inputs"),
    [(None, b"question: q ? context: c . "), ("race", b"race question: q ? context: c . ")],
)
def test_mrqa_has_the_format_of_squad_after_an_optional_task_name(task_name, inputs):
    example = {"qid": "7", "question": "q?", "context": "c.", "answers": ["$1", "1"]}
    [example] = questions.mrqa(dataset(**example), task_name).as_numpy_iterator()
    assert (example["inputs"], example["targets"], example["id"]) == (inputs, b" $ 1", b"7")
    assert example["answers"].tolist() == [b" $ 1", b"1"]


def test_the_postprocessed_target_is_the_list_of_answers():
    example = {"answers": [b"na \xc3\xaf ve", b"b"]}
    assert questions.all_answers("a", example=example, is_target=True) == ["na ï ve", "b"]
    assert questions.all_answers("a", example=example, is_target=False) == "a"
