"""The best evaluation of a run: highest metric, then lowest loss, then latest step."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Loss(NamedTuple):
    """A loss per target token with its name, such as "training loss"."""

    name: str
    value: float


@dataclasses.dataclass
class BestEvaluation:
    """The best evaluation so far. The untrained prompt is best only if its metric is higher.

    Attributes:
      metric: highest mean of the first metric of each task; None before the first evaluation.
      step: step of the best evaluation.
      loss: loss of the best evaluation, [name, value]; None if unknown.
      untrained_metric: metric of the untrained prompt; None if it was not evaluated.
      evaluations: number of evaluations of a trained prompt.
      equal: number of these with the highest metric.
      is_untrained: whether the best prompt is the untrained one.
    """

    metric: float | None = None
    step: int | None = None
    loss: Loss | None = None
    untrained_metric: float | None = None
    evaluations: int = 0
    equal: int = 0
    is_untrained: bool = False

    def add(self, step: int, metric: float, loss: Loss | None, *, is_untrained: bool) -> bool:
        """Adds an evaluation; returns whether it is the best so far. A NaN metric never is.

        Losses of different names are not compared; the later evaluation wins then.
        """
        # The correlation of constant predictions is NaN.
        if math.isnan(metric):
            return False
        if is_untrained:
            self.untrained_metric = metric
        else:
            self.evaluations += 1
        if self.metric is None or metric > self.metric:
            self.equal = 0
        elif metric < self.metric:
            return False
        self.equal += not is_untrained
        if metric == self.metric and not self.is_untrained and not self._is_lower(loss):
            return False
        self.metric, self.step, self.loss, self.is_untrained = metric, step, loss, is_untrained
        return True

    def _is_lower(self, loss: Loss | None) -> bool:
        """Returns whether a loss is at most the best evaluation's, or not comparable with it."""
        comparable = loss and self.loss and loss.name == self.loss.name
        return not comparable or loss.value <= self.loss.value

    def describe(self) -> str | None:
        """Describes ties and an untrained best prompt; None if the metric decides."""
        if not self.evaluations:
            return None
        if self.is_untrained:
            return (
                f"No evaluation beat the untrained prompt (metric {self.metric:g} at step "
                f"{self.step}), which is the best prompt. Train longer (TRAIN_STEPS), or change "
                "LEARNING_RATE."
            )
        lines = []
        if self.metric == self.untrained_metric:
            lines = [f"No evaluation beat the untrained prompt (metric {self.metric:g})."]
        if self.equal > 1:
            lines.append(
                f"{self.equal} of {self.evaluations} evaluations have the highest metric, "
                f"{self.metric:g}, so the metric alone does not decide which prompt is best."
            )
        if not lines:
            return None
        reason = (
            f"the lowest {self.loss.name}, {self.loss.value:.4g}"
            if self.loss
            else "the latest step"
        )
        reason = f" ({reason})" if self.equal > 1 else ""
        return f"{' '.join(lines)} The best prompt is that of step {self.step}{reason}."


def from_json(content: Mapping[str, Any] | float | None) -> BestEvaluation:
    """Restores `dataclasses.asdict` of a BestEvaluation; older versions stored only the metric."""
    if not isinstance(content, Mapping):
        return BestEvaluation(content)
    loss = None if content["loss"] is None else Loss(*content["loss"])
    return BestEvaluation(**{**content, "loss": loss})
