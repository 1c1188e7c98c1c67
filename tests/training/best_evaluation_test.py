"""The best evaluation: by metric, then by loss, then the later; the untrained prompt only if it is ahead."""

import dataclasses
import json
import re

import pytest

from prompt_tuning.training import best_evaluation

TRAINING, EVALUATION = "training loss", "evaluation loss"


def after(*evaluations, name=TRAINING):
    """The best of (metric, loss) at steps 0, 10, …, of which the first is of the untrained prompt."""
    best = best_evaluation.BestEvaluation()
    for number, (metric, loss) in enumerate(evaluations):
        loss = None if loss is None else best_evaluation.Loss(name, loss)
        best.add(10 * number, metric, loss, is_untrained=number == 0)
    return best


@pytest.mark.parametrize(
    ("evaluations", "step"),
    [
        ([(50, None), (60, 3.0), (55, 1.0)], 10),  # the metric decides
        ([(50, None), (50, 3.0), (50, 1.0), (50, 2.0)], 20),  # then the loss
        ([(50, None), (50, 3.0), (50, 3.0), (40, 1.0)], 20),  # then the later
        ([(50, None), (50, None), (50, None)], 20),
        ([(50, 1.0), (50, 9.0)], 10),  # the untrained prompt is not best
        ([(60, 9.0), (50, 1.0), (55, 1.0)], 0),  # unless it is ahead
        ([(50, None), (float("nan"), 1.0), (40, 1.0)], 0),
        ([(50, None), (100, 2.0), (100, None), (100, 5.0)], 30),  # without a loss the later
    ],
)
def test_which_evaluation_is_best(evaluations, step):
    assert after(*evaluations).step == step


def test_losses_of_two_kinds_are_not_compared():
    best = after((50, None), (60, 1.0))
    assert best.add(20, 60, best_evaluation.Loss(EVALUATION, 2.0), is_untrained=False)
    assert not best.add(30, 60, best_evaluation.Loss(EVALUATION, 3.0), is_untrained=False)


@pytest.mark.parametrize(
    ("evaluations", "text"),
    [
        ([(50, None), (60, 3.0), (55, 1.0)], None),
        ([(50, None)], None),
        (
            [(60, None), (50, 1.0)],
            r"No evaluation beat the untrained prompt \(metric 60 at step 0\)",
        ),
        (
            [(50, None), (50, 2.0), (50, 1.0)],
            r"No evaluation beat the untrained prompt \(metric 50\)\. 2 of 2 evaluations have the highest "
            r"metric, 50, .* The best prompt is that of step 20 \(the lowest training loss, 1\)",
        ),
        (
            [(50, None), (100, None), (60, None), (100, None)],
            r"^2 of 3 evaluations have the highest metric, 100, .* step 30 \(the latest step\)",
        ),
        (
            [(50, None), (50, 2.0), (40, 1.0)],
            r"beat the untrained prompt \(metric 50\)\. .* of step 10\.$",
        ),
    ],
)
def test_what_the_metric_did_not_decide(evaluations, text):
    found = after(*evaluations).describe()
    if text is None:
        assert found is None
    else:
        assert re.search(text, found)


def test_a_state_keeps_it():
    best = after((50, None), (60, 3.0))
    text = json.dumps(dataclasses.asdict(best))
    assert best_evaluation.from_json(json.loads(text)) == best
    assert best_evaluation.from_json(0.5).metric == 0.5  # of an earlier version
    assert best_evaluation.from_json(None) == best_evaluation.BestEvaluation()
