"""Rank classification and its metrics."""

import math

import pytest
import tensorflow as tf

from prompt_tuning.data.text import ranking

LABELS = ("bad", "good")


def test_each_example_is_repeated_with_each_label():
    columns = {"inputs": ["a", "b"], "targets": ["good", "bad"]}
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    repeated = list(ranking.candidates(dataset, LABELS).as_numpy_iterator())
    assert [(e["inputs"], e["targets"], bool(e["is_correct"])) for e in repeated] == [
        (b"a", b"bad", False),
        (b"a", b"good", True),
        (b"b", b"bad", True),
        (b"b", b"good", False),
    ]
    assert [e["idx"].tolist() for e in repeated] == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_the_postprocessed_target_is_a_candidate():
    example = {"idx": [3, 1], "is_correct": True, "targets": [5, 6, 1]}
    target = ranking.candidate("good", example=example, is_target=True)
    assert target == (3, True, 3)
    assert ranking.candidate("x", example=example, is_target=False) == "x"


def test_entities_of_an_example_are_its_candidates():
    example = {
        "inputs": tf.constant("a"),
        "entities": tf.constant(["Ann", "Bob", "Cy"]),
        "answers": tf.constant(["Cy", "Ann"]),
    }
    others = example | {"entities": tf.constant(["Dee"]), "answers": tf.constant(["Dee"])}
    datasets = [tf.data.Dataset.from_tensors(e) for e in (example, others)]
    spec = {name: tf.TensorSpec([] if name == "inputs" else [None], tf.string) for name in example}
    dataset = tf.data.Dataset.from_generator(
        lambda: (e for d in datasets for e in d), output_signature=spec
    )
    repeated = list(ranking.entities(dataset).as_numpy_iterator())
    assert [(e["targets"], bool(e["is_correct"]), e["idx"].tolist()) for e in repeated] == [
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
def test_the_candidate_with_the_highest_score_is_predicted(scores, percent, normed):
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


def candidates_of(*labels, num_classes=2):
    return [
        ranking.Candidate(index, candidate == label, 1)
        for index, label in enumerate(labels)
        for candidate in range(num_classes)
    ]


def test_metrics_of_two_classes():
    # Score of the second label minus that of the first: 2, 1, 1, -1, -3.
    scores = [-3.0, -1.0, -2.0, -1.0, -2.0, -1.0, -1.0, -2.0, -1.0, -4.0]
    values = ranking.rank_classes(candidates_of(1, 0, 1, 1, 0), scores, num_classes=2)
    assert list(values) == ["accuracy", "f1", "auc-roc", "auc-pr"]
    # Of the six pairs of a positive and a negative, 4.5 are in order (one tie). The precisions at
    # the positives are 1/1, 2/3 (one tie) and 3/4.
    expected = {
        "accuracy": 60.0,
        "f1": 200 / 3,
        "auc-roc": 100 * 4.5 / 6,
        "auc-pr": 100 * (1 + 2 / 3 + 3 / 4) / 3,
    }
    assert values == pytest.approx(expected)


@pytest.mark.parametrize("label", [0, 1])
def test_areas_are_nan_if_all_labels_are_equal(label):
    values = ranking.rank_classes(candidates_of(label, label), [-1.0, -2.0] * 2, num_classes=2)
    assert math.isnan(values["auc-roc"]) and math.isnan(values["auc-pr"])
    assert values["accuracy"] == 100.0 * (1 - label)


def test_metrics_of_three_classes():
    targets = candidates_of(0, 1, 2, 2, num_classes=3)
    scores = [-1.0, -2.0, -3.0] * 2 + [-3.0, -2.0, -1.0] * 2
    values = ranking.rank_classes(targets, scores, num_classes=3)
    assert values == pytest.approx({"accuracy": 75.0, "mean_3class_f1": 100 * (2 / 3 + 0 + 1) / 3})


def test_an_incomplete_last_example_is_ignored():
    targets, scores = candidates_of(1, 0)[:3], [-2.0, -1.0, -9.0]
    assert ranking.rank_classes(targets, scores, num_classes=2)["accuracy"] == 100.0
    assert ranking.rank_classes(targets[:1], scores[:1], num_classes=2) == {}
