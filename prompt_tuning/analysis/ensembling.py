"""Several prompts of one task as one classifier (paper section 6)."""

import collections
import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence

from etils import epath

from prompt_tuning.data import evaluation_task, pipeline
from prompt_tuning.inference import evaluator, predictor_config, truncation
from prompt_tuning.inference import predictor as predictor_lib
from prompt_tuning.models import decoding
from prompt_tuning.training import reporting

Predictions = Sequence[Sequence[predictor_lib.Prediction]]  # [examples][prompts]


def predict(
    predictor: predictor_lib.Predictor, task: evaluation_task.EvaluationTask, batch_size: int
) -> Predictions:
    """Predicts each example with each prompt of the model.

    A batch has `batch_size` examples, each once per prompt, in one forward pass.
    """
    names = predictor.loaded.model.method.soft_tokens.names
    examples = [{**example, "prompt": name} for example in task.examples for name in names]
    repeated = dataclasses.replace(task, examples=examples)
    predictions = predictor.predict(
        repeated, batch_size * len(names), scores_targets=task.needs_scores
    )
    is_truncated = collections.Counter(p.is_truncated[0] for p in predictions)
    truncation.report(task.name, is_truncated, task.lengths.targets)
    return [predictions[i : i + len(names)] for i in range(0, len(predictions), len(names))]


def majority(predictions: Sequence[predictor_lib.Prediction]) -> str:
    """Returns the text that most prompts predict; ties go to the highest mean score."""
    votes = collections.Counter(prediction.texts[0] for prediction in predictions)
    max_votes = max(votes.values())

    def mean_score(text: str) -> float:
        return statistics.mean(p.scores[0] for p in predictions if p.texts[0] == text)

    return max((text for text, count in votes.items() if count == max_votes), key=mean_score)


def likeliest(predictions: Sequence[predictor_lib.Prediction]) -> str:
    """Returns the text with the highest mean score; all prompts must score the same texts."""
    scores = [dict(zip(p.texts, p.scores, strict=True)) for p in predictions]
    return max(scores[0], key=lambda text: statistics.mean(of_prompt[text] for of_prompt in scores))


def ensemble(
    *,
    config: predictor_config.PredictorConfig,
    dataset: pipeline.DatasetConfig,
    output_dir: str,
    num_examples: int | None = None,
    config_text: str = "",
) -> dict[str, dict[str, dict[str, float]]]:
    """`prompt-tuning ensemble`: evaluates each prompt alone, and all as an ensemble.

    Writes config.gin and, for each task, <task>-ensemble.json with the metrics and
    <task>-ensemble.jsonl with all predictions.

    Args:
      config: a model with several named prompts. With a LabelRanking, prompts are also combined
        by their mean log-likelihoods.
      dataset: the examples; a batch has `batch_size` of them, each with all prompts.
      output_dir: EVAL_OUTPUT_DIR.
      num_examples: examples of each task; None for all.
      config_text: the settings, written to config.gin.

    Returns:
      {task: {row: {metric: value}}}; see `scores`.
    """
    config.check_batch_size(dataset.batch_size * _count_prompts(config))
    # Labels of all cards, so that prompts vote for the same texts.
    labels = [label for card in (config.labels or {}).values() for label in card]
    config = dataclasses.replace(config, labels={None: labels})
    tasks = config.open_tasks(dataset, num_examples)
    predictor, results = config.load(), {}
    reporting.start_folder(output_dir, config_text, "EVAL_OUTPUT_DIR")
    for task in tasks:
        predictions = predict(predictor, task, dataset.batch_size)
        ranks_labels = isinstance(config.model.decoder, decoding.LabelRanking)
        results[task.name] = scores(task, predictions, ranks_labels=ranks_labels)
        _write(epath.Path(output_dir), task, predictions, results[task.name])
    return results


def _count_prompts(config: predictor_config.PredictorConfig) -> int:
    """Returns the number of prompts. Raises ValueError if there is only one."""
    count = len(config.model.method.soft_tokens.names)
    if count < 2:
        raise ValueError(
            f"PROMPT_FILE matches {count} prompt; expected at least two for an ensemble. Set "
            "PROMPT_FILE to a list of files, or to a pattern such as 'runs/*/prompts/best.npy'."
        )
    return count


def _write(
    folder: epath.Path,
    task: evaluation_task.EvaluationTask,
    predictions: Predictions,
    results: Mapping[str, Mapping[str, float]],
) -> None:
    """Writes the files of a task, and prints its table."""
    text = json.dumps(results, indent=2) + "\n"
    reporting.write_text(folder / f"{task.name}-ensemble.json", text)
    lines = "".join(f"{json.dumps(line)}\n" for line in _lines(task, predictions))
    reporting.write_text(folder / f"{task.name}-ensemble.jsonl", lines)
    keys = list(results["average"])
    rows = [[name, *(f"{values[key]:.2f}" for key in keys)] for name, values in results.items()]
    print(reporting.table([[task.name, *keys], *rows]))


def scores(
    task: evaluation_task.EvaluationTask, predictions: Predictions, *, ranks_labels: bool
) -> dict[str, dict[str, float]]:
    """Returns {row: metrics} for "prompt 0", …, "average", "deviation", "best" and "majority vote".

    "best" has the highest first metric. Label rankings also have "mean log-likelihood".

    Raises:
      ValueError: the task has no metrics for this split.
    """

    def metrics(texts, target_scores) -> dict[str, float]:
        return evaluator.numeric_metrics(
            task.metrics(texts, target_scores if task.needs_scores else None)
        )

    singles = [
        metrics([p.texts[0] for p in of_prompt], [p.target_score for p in of_prompt])
        for of_prompt in zip(*predictions, strict=True)
    ]
    if not singles[0]:
        raise ValueError(
            f"{task.name} has no metrics to compare prompts with; expected a task with "
            "metrics and a SPLIT with targets. Set MIXTURE_OR_TASK_NAME or "
            "SPLIT to one."
        )
    target_scores = None
    if task.needs_scores:
        target_scores = [
            statistics.mean(p.target_score for p in of_example) for of_example in predictions
        ]
    first = next(iter(singles[0]))
    results = {f"prompt {number}": single for number, single in enumerate(singles)}
    results["average"] = {key: statistics.mean(s[key] for s in singles) for key in singles[0]}
    results["deviation"] = {key: statistics.stdev(s[key] for s in singles) for key in singles[0]}
    results["best"] = max(singles, key=lambda single: single[first])
    results["majority vote"] = metrics(list(map(majority, predictions)), target_scores)
    if ranks_labels:
        texts = list(map(likeliest, predictions))
        results["mean log-likelihood"] = metrics(texts, target_scores)
    return results


def _lines(
    task: evaluation_task.EvaluationTask, predictions: Predictions
) -> list[dict[str, object]]:
    return [
        {
            "input": task.text(example, "inputs"),
            "target": task.text(example, "targets"),
            "predictions": [prediction.texts[0] for prediction in of_example],
            "prediction": majority(of_example),
        }
        for example, of_example in zip(task.examples, predictions, strict=True)
    ]
