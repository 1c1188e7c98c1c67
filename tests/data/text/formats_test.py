"""T5's text formats."""

import pytest
import tensorflow as tf

from prompt_tuning.data import seqio_tasks
from prompt_tuning.data.text import formats

LABELS = ("negative", "positive")


def one(convert, example, *arguments, **settings):
    """The only example that `convert` makes of an example."""
    dataset = tf.data.Dataset.from_tensors(example)
    [result] = convert(dataset, *arguments, **settings).as_numpy_iterator()
    return result


def sst2(**extra):
    return {"idx": 7, "label": tf.constant(1, tf.int64), "sentence": "a fine film "} | extra


def test_glue_keeps_text_and_index():
    assert one(formats.glue, sst2(), "sst2", LABELS) == {
        "inputs": b"sst2 sentence: a fine film ",
        "targets": b"positive",
        "idx": 7,
    }


def test_glue_keys_are_sorted_by_default():
    example = one(formats.glue, sst2(premise="p", hypothesis="h"), "mnli", LABELS)
    assert example["inputs"] == b"mnli hypothesis: h premise: p sentence: a fine film "


def test_glue_keys_select_features_and_their_order():
    example = sst2(question="q", answer="a", start1=3)
    result = one(formats.glue, example, "multirc", LABELS, keys=("question", "answer"))
    assert result["inputs"] == b"multirc question: q answer: a"


def test_a_nested_index_is_flattened():
    example = one(formats.glue, sst2(idx={"paragraph": 1, "question": 2}), "multirc", LABELS)
    assert (example["idx/paragraph"], example["idx/question"]) == (1, 2)


@pytest.mark.parametrize(("label", "name"), [(0, b"negative"), (-1, b"<unk>")])
def test_labels_become_names_and_missing_ones_unk(label, name):
    example = sst2(label=tf.constant(label, tf.int64))
    assert one(formats.glue, example, "sst2", LABELS)["targets"] == name
    assert one(formats.labelled_text, example, "sentence", LABELS)["targets"] == name


def test_an_example_may_have_no_index():
    example = {"sentence": "a", "label": 1}
    assert one(formats.glue, example, "b", LABELS).keys() == {"inputs", "targets"}


LINES = "one  line\n\nanother\t"


def test_white_space_is_kept():
    example = sst2(sentence=LINES, short="1\n2")
    assert one(formats.glue, example, "b", LABELS, ("sentence",))["inputs"] == (
        f"b sentence: {LINES}".encode()
    )
    assert one(formats.labelled_text, example, "sentence", LABELS)["inputs"] == LINES.encode()
    expected = {"inputs": f"summarize: {LINES}".encode(), "targets": b"1\n2"}
    assert one(formats.summary, example, "sentence", "short") == expected
    news = one(formats.summary, example, "sentence", "short", "news:")
    assert news["inputs"] == f"news: {LINES}".encode()


def test_one_line_collapses_white_space_of_the_inputs():
    example = {"inputs": LINES, "targets": "a\nb"}
    assert one(formats.one_line, example) == {
        "inputs": b"one line another ",
        "targets": b"a\nb",
    }


@pytest.mark.parametrize(
    ("label", "target"),
    [(1.8, b"1.8"), (5.0, b"5.0"), (2.75, b"2.8"), (3.083, b"3.0"), (0.0, b"0.0")],
)
def test_similarity_is_rounded_to_a_fifth(label, target):
    example = {"sentence1": "one .", "sentence2": "two .", "label": label, "idx": 3}
    assert one(formats.stsb, example) == {
        "inputs": b"stsb sentence1: one . sentence2: two .",
        "targets": target,
        "idx": 3,
    }


def test_markup_is_removed_from_the_inputs():
    example = {"inputs": "a <b>Sent 1: </b>B.<br><b>Sent 2: </b>C < d", "targets": "<b>"}
    assert one(formats.remove_markup, example) == {
        "inputs": b"a Sent 1: B. Sent 2: C < d",
        "targets": b"<b>",
    }


PASSAGE = "One. Two\n@highlight\nThree!\n@highlight\nFour 'five'\n@highlight\nSix"


def record(answers):
    return {
        "query": "Who is @placeholder?",
        "passage": PASSAGE,
        "entities": tf.constant(["Ann", "Bob"]),
        "answers": tf.constant(answers, tf.string),
        "idx": {"passage": 3, "query": 5},
    }


def test_record_makes_one_example_per_answer():
    dataset = tf.data.Dataset.from_tensors(record(["Ann", "Bob"]))
    examples = list(formats.record(dataset).as_numpy_iterator())
    assert [example["targets"] for example in examples] == [b"Ann", b"Bob"]
    for example in examples:
        assert example["inputs"] == (
            b"record query: Who is @placeholder? entities: Ann, Bob passage: "
            b"One. Two. Three! Four 'five' Six"
        )
        assert example["answers"].tolist() == [b"Ann", b"Bob"]
        assert (example["idx/passage"], example["idx/query"]) == (3, 5)


def test_record_without_answers_has_the_target_unk():
    assert one(formats.record, record([]))["targets"] == b"<unk>"


def wsc(text, index, pronoun="it", label=1):
    return {
        "text": text,
        "span1_text": "the cat",
        "span1_index": 0,
        "span2_text": pronoun,
        "span2_index": index,
        "label": label,
        "idx": 4,
    }


@pytest.mark.parametrize(
    ("text", "index", "inputs"),
    [
        ("The cat saw that it slept .", 4, b"wsc: The cat saw that *it* slept ."),
        # Two spaces count as a word, and stay.
        ("The  cat saw it .", 4, b"wsc: The  cat saw *it* ."),
        # Punctuation joined to the pronoun.
        ('Good for it," he said', 2, b'wsc: Good for *it* ," he said'),
        # The index is that of the preceding word.
        ("They use it , but", 1, b"wsc: They use *it* , but"),
        ("The cat slept because of it", 5, b"wsc: The cat slept because of *it*"),
    ],
)
def test_wsc_marks_the_pronoun(text, index, inputs):
    expected = {"inputs": inputs, "targets": b"the cat", "label": 1, "idx": 4}
    assert one(formats.wsc, wsc(text, index)) == expected


def test_wsc_refuses_a_pronoun_that_is_not_at_its_index():
    with pytest.raises(tf.errors.InvalidArgumentError, match="no it at span2_index"):
        one(formats.wsc, wsc("The cat saw that it slept .", 1))


def test_wsc_for_training_keeps_only_correct_referents():
    examples = [wsc("a it", 1, label=label) for label in (1, 0, -1, 1)]
    columns = {key: [example[key] for example in examples] for key in examples[0]}
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    assert len(list(formats.wsc(dataset))) == 4
    labels = [example["label"] for example in formats.wsc(dataset, correct_only=True)]
    assert labels == [1, 1]


@pytest.mark.parametrize(
    ("sentence", "inputs"),
    [
        ("Bob asked Tom if he can .", b"wsc: Bob asked Tom if *he* can ."),
        ("Bob thinks that he, he", b"wsc: Bob thinks that *he*, he"),
        ("The other is he.", b"wsc: The other is *he*."),
    ],
)
def test_definite_pronoun_marks_the_first_matching_pronoun(sentence, inputs):
    example = {
        "sentence": sentence,
        "pronoun": "he",
        "candidates": tf.constant(["Bob", "Tom"]),
        "label": 1,
    }
    assert one(formats.definite_pronoun, example) == {"inputs": inputs, "targets": b"Tom"}


def test_the_first_word_of_the_inputs_is_removed():
    example = {"inputs": "sst2 sentence: sst2 x", "targets": "y z"}
    expected = {"inputs": b"sentence: sst2 x", "targets": b"y z"}
    assert one(formats.remove_first_text_token, example) == expected


def test_the_sentinel_is_that_of_the_models_vocabulary(vocabulary):
    example = {"inputs": tf.constant([5, 6]), "targets": tf.constant([7])}
    features = seqio_tasks.text_features(vocabulary.for_seqio())
    result = one(formats.add_sentinel_to_beginning, example, output_features=features, index=3)
    assert result["inputs"].tolist() == [vocabulary.size - 4, 5, 6]
    assert vocabulary.decode(result["inputs"][:1]) == "<extra_id_3>"
    assert result["targets"].tolist() == [7]
