"""The accuracy of a constant prediction, and warnings if an evaluation is not better."""

import json
import logging
from collections import Counter
from collections.abc import Sequence

from etils import epath

from prompt_tuning.checkpoints import atomic
from prompt_tuning.data import evaluation_task
from prompt_tuning.data.text import postprocessors

ACCURACY = "accuracy"
ADVICE = (
    "Try in this order: compare predictions and targets in %s, to check labels and "
    "INPUT_TEMPLATE; train longer (TRAIN_STEPS); another LEARNING_RATE, such as 0.1 or 1.0; "
    "another PROMPT_LENGTH; label ranking (decoding/labels.gin); initialization from the labels "
    "(prompts/from_class_labels.gin); a larger model."
)


def share(task: evaluation_task.EvaluationTask) -> float:
    """Returns the share of the most common target in percent, the accuracy of always predicting it."""
    return _share(_count_targets(task))


def _share(counts: Counter[str]) -> float:
    return 100 * max(counts.values()) / max(counts.total(), 1)


def warn_of_single_label(tasks: Sequence[evaluation_task.EvaluationTask]) -> None:
    """Warns of tasks whose examples all have the same target."""
    for task in tasks:
        counts = _count_targets(task)
        if len(counts) == 1 < len(task.examples) and postprocessors.UNKNOWN not in counts:
            logging.warning(
                "%s: all %d targets are %r, so the metrics cannot show whether the model "
                "distinguishes labels; expected examples of every label. Set EVAL_FILE to such "
                "examples, or evaluate another split.",
                task.name, len(task.examples), *counts,
            )  # fmt: skip


def warn_of_majority(
    tasks: Sequence[evaluation_task.EvaluationTask], folder: epath.PathLike, *, after_step: int
) -> None:
    """Warns of classification tasks whose accuracy does not exceed the majority class.

    Args:
      tasks: that were evaluated.
      folder: with their {task}-metrics.jsonl.
      after_step: evaluations up to this step are ignored, such as the one before training.
    """
    for task in tasks if atomic.is_writer() else ():
        path, counts = epath.Path(folder) / f"{task.name}-metrics.jsonl", _count_targets(task)
        lines = map(json.loads, path.read_text().splitlines() if path.exists() else ())
        values = [x[ACCURACY] for x in lines if ACCURACY in x and x["step"] > after_step]
        # Targets are labels if they recur.
        if not values or not 1 < len(counts) <= len(task.examples) // 2:
            continue
        if max(values) <= _share(counts):
            (label, count), *_ = counts.most_common(1)
            logging.warning(
                "%s: accuracy %.2f %% is not above %.2f %%, the accuracy of always predicting %r "
                f"(%d of %d examples). {ADVICE}",
                task.name, max(values), _share(counts), label, count, len(task.examples), folder,
            )  # fmt: skip


def _count_targets(task: evaluation_task.EvaluationTask) -> Counter[str]:
    return Counter(task.text(example, "targets") for example in task.examples)
