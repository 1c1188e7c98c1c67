"""Labels ranked by their likelihood."""

import math

import pytest
import tensorflow as tf

from prompt_tuning.data.text import ranking

LABELS = ("bad", "good")


def test_each_example_once_for_each_label():
    columns = {"inputs": ["a", "b"], "targets": ["good", "bad"]}
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    got = list(ranking.candidates(dataset, LABELS).as_numpy_iterator())
    assert [(e["inputs"], e["targets"], bool(e["is_correct"])) for e in got] == [
        (b"a", b"bad", False),
        (b"a", b"good", True),
        (b"b", b"bad", True),
        (b"b", b"good", False),
    ]
    assert [e["idx"].tolist() for e in got] == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_a_target_is_what_the_metrics_need():
    example = {"idx": [3, 1], "is_correct": True, "targets": [5, 6, 1]}
    target = ranking.candidate("good", example=example, is_target=True)
    assert target == (3, True, 3)
    assert ranking.candidate("x", example=example, is_target=False) == "x"


def test_candidates_may_be_an_examples_own():
    example = {
        "inputs": tf.constant("a"),
        "entities": tf.constant(["Ann", "Bob", "Cy"]),
        "answers": tf.constant(["Cy", "Ann"]),
    }
    others = example | {"entities": tf.constant(["Dee"]), "answers": tf.constant(["Dee"])}
    datasets = [tf.data.Dataset.from_tensors(each) for each in (example, others)]
    spec = {name: tf.TensorSpec([] if name == "inputs" else [None], tf.string) for name in example}
    dataset = tf.data.Dataset.from_generator(
        lambda: (each for d in datasets for each in d), output_signature=spec
    )
    got = list(ranking.entities(dataset).as_numpy_iterator())
    assert [(e["targets"], bool(e["is_correct"]), e["idx"].tolist()) for e in got] == [
        (b"Ann", True, [0, 0]),
        (b"Bob", False, [0, 1]),
        (b"Cy", True, [0, 2]),
        (b"Dee", True, [1, 0]),
    ]


@pytest.mark.parametrize(
    ("scores", "percent", "normed"),
    [
        ([-4.0, -1.0, -1.0, -2.0], 100.0, 50.0),
        ([-1.0, -5.0, -1.0, -5.0], 50.0, 50.0),
        # -1 for 1 token against -3 for 4.
        ([-1.0, -3.0, -1.0, -5.0], 50.0, 100.0),
    ],
)
def test_the_likeliest_label_counts(scores, percent, normed):
    targets = [
        ranking.Candidate(0, False, 1),
        ranking.Candidate(0, True, 4),
        ranking.Candidate(9, True, 1),
        ranking.Candidate(9, False, 4),
    ]
    assert ranking.rank_accuracy(targets, scores) == {"accuracy": percent}
    assert ranking.by_length(targets, scores, ranking.rank_accuracy, "normed_") == {
        "normed_accuracy": normed
    }


def of_labels(*right, num_classes=2):
    return [
        ranking.Candidate(number, label == wanted, 1)
        for number, wanted in enumerate(right)
        for label in range(num_classes)
    ]


def test_metrics_of_two_labels():
    # How much likelier the second label is: 2, 1, 1, -1, -3.
    scores = [-3.0, -1.0, -2.0, -1.0, -2.0, -1.0, -1.0, -2.0, -1.0, -4.0]
    found = ranking.rank_classes(of_labels(1, 0, 1, 1, 0), scores, num_classes=2)
    assert list(found) == ["accuracy", "f1", "auc-roc", "auc-pr"]
    # Of six pairs of a positive and a negative four and a half are in order. At the positives
    # 1 of 1, 2 of 3 (one of the same score) and 3 of 4 are positive.
    expected = {
        "accuracy": 60.0,
        "f1": 200 / 3,
        "auc-roc": 100 * 4.5 / 6,
        "auc-pr": 100 * (1 + 2 / 3 + 3 / 4) / 3,
    }
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("label", [0, 1])
def test_areas_need_both_labels(label):
    found = ranking.rank_classes(of_labels(label, label), [-1.0, -2.0] * 2, num_classes=2)
    assert math.isnan(found["auc-roc"]) and math.isnan(found["auc-pr"])
    assert found["accuracy"] == 100.0 * (1 - label)


def test_metrics_of_three_labels():
    targets = of_labels(0, 1, 2, 2, num_classes=3)
    scores = [-1.0, -2.0, -3.0] * 2 + [-3.0, -2.0, -1.0] * 2
    found = ranking.rank_classes(targets, scores, num_classes=3)
    assert found == pytest.approx({"accuracy": 75.0, "mean_3class_f1": 100 * (2 / 3 + 0 + 1) / 3})


def test_candidates_that_a_limit_has_cut_do_not_count():
    targets, scores = of_labels(1, 0)[:3], [-2.0, -1.0, -9.0]
    assert ranking.rank_classes(targets, scores, num_classes=2)["accuracy"] == 100.0
    assert ranking.rank_classes(targets[:1], scores[:1], num_classes=2) == {}
