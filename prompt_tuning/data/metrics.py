"""Metrics of answers, as seqio metric functions; shares are in percent."""

from collections.abc import Sequence


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """The share of predictions that are the target, in percent."""
    hits = sum(t == p for t, p in zip(targets, predictions, strict=True))
    return {"accuracy": 100.0 * hits / len(targets)}
