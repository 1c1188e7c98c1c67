"""Predictions that end at the maximum length."""

import numpy as np

from prompt_tuning.inference import truncation


def test_predictions_without_an_end_token_are_counted(caplog):
    counter = truncation.TruncationCounter()
    counter.add(np.array([[5, 6, 1], [5, 1, 0], [5, 6, 7]]))  # one ends exactly at the length
    counter.add(np.array([[8, 8, 8]]))
    counter.report("films", 3)
    assert caplog.messages == [
        "films: 2 of 4 predictions are truncated: they reach the maximum length, "
        "TASK_FEATURE_LENGTHS['targets'] = 3 tokens, without an end token. Increase it if you "
        "expect longer predictions."
    ]
    counter.report("texts", 3, "max_length", longest_target=2)
    assert "expect longer predictions (the longest target has 2)." in caplog.messages[-1]
    assert "max_length = 3 tokens" in caplog.messages[-1]


def test_predictions_that_end_are_not_reported(caplog):
    counter = truncation.TruncationCounter()
    counter.report("films", 3)
    counter.add(np.array([[5, 6, 1]]))
    counter.report("films", 3)
    assert not caplog.messages
