"""Predictions that end at the maximum length."""

from collections import Counter

from prompt_tuning.inference import truncation


def test_truncated_predictions_are_reported(caplog):
    truncation.report("films", Counter({True: 2, False: 2}), 3)
    assert caplog.messages == [
        "films: 2 of 4 predictions are truncated: they reach the maximum length, "
        "TASK_FEATURE_LENGTHS['targets'] = 3 tokens, without an end token. Increase it if you "
        "expect longer predictions."
    ]
    truncation.report("texts", Counter([True]), 3, "max_length", longest_target=2)
    assert "expect longer predictions (the longest target has 2)." in caplog.messages[-1]
    assert "max_length = 3 tokens" in caplog.messages[-1]


def test_predictions_that_end_are_not_reported(caplog):
    truncation.report("films", Counter(), 3)
    truncation.report("films", Counter([False]), 3)
    assert not caplog.messages
