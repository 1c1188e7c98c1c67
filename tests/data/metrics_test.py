import pytest

from prompt_tuning.data import metrics, postprocessors


@pytest.mark.parametrize(
    ("targets", "predictions", "percent"),
    [
        (["a", "b"], ["a", "b"], 100.0),
        (["a", "b", "a", "b"], ["b", "b", "b", "b"], 50.0),
        (["a"], ["A"], 0.0),
        (["not good"], ["not"], 0.0),
    ],
)
def test_accuracy_is_the_percentage_of_exact_matches(targets, predictions, percent):
    assert metrics.accuracy(targets, predictions) == {"accuracy": percent}


def test_accuracy_refuses_lists_of_unequal_length():
    with pytest.raises(ValueError):
        metrics.accuracy(["a", "b"], ["a"])


def test_strip_takes_off_white_space_and_ignores_the_example():
    strip = postprocessors.strip
    assert strip(" not good \n", example={}, is_target=False) == "not good"
