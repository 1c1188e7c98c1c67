"""Labels ranked by their likelihood."""

import pytest
import tensorflow as tf

from prompt_tuning.data import ranking

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
    assert ranking.normed_rank_accuracy(targets, scores) == {"normed_accuracy": normed}
