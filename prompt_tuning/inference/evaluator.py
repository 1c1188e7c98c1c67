"""Metrics of tasks, during training and of `prompt-tuning eval`."""

import collections
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.checkpoints import atomic, prompt_files
from prompt_tuning.checkpoints import prompt_paths as paths_lib
from prompt_tuning.data import evaluation_task, pipeline
from prompt_tuning.inference import evaluated_prompts, majority, predictor_config, truncation
from prompt_tuning.inference import predictor as predictor_lib
from prompt_tuning.training import counts, reporting, state

# Settings that do not change metrics. `EvaluatedPrompts` compares PROMPT_FILE per prompt.
FREE = ("EVAL_OUTPUT_DIR", "NUM_PARTITIONS", "PROMPT_FILE", "RESTORE_MODE")


class Evaluator:
    """Evaluates a model on tasks at several steps, and logs metrics. Use as a context manager.

    Attributes:
      loss: teacher-forced loss of the last evaluation, averaged over the tasks; None if not computed.
    """

    def __init__(
        self,
        predictor: predictor_lib.Predictor,
        tasks: Sequence[evaluation_task.EvaluationTask],
        batch_size: int,
        folder: epath.PathLike,
        *,
        after_step: int,
        written_examples: int | None = None,
        losses: tuple[epath.PathLike, int] | None = None,
    ):
        """Opens the logs in `folder`, and removes entries of later steps.

        Args:
          predictor: of the model.
          tasks: to evaluate.
          batch_size: examples per batch.
          folder: for {task}-metrics.jsonl, {task}-{step}.jsonl and TensorBoard's {task}/.
          after_step: last evaluated step.
          written_examples: number of predictions to write per task; None for all.
          losses: folder for teacher-forced losses, and number of batches per task; None or 0
            batches to compute no loss.
        """
        self._predictor, self._tasks, self._batch_size = predictor, tasks, batch_size
        self._folder, self._written = epath.Path(folder), written_examples
        self._logs = _logs(tasks, self._folder, "eval/", after_step)
        folder, self._loss_batches = losses or ("", 0)
        self._loss_logs = _logs(tasks if self._loss_batches else (), folder, "", after_step)
        self.loss: float | None = None

    def evaluate(self, params: state.Tree, step: int) -> dict[str, dict[str, float]]:
        """Computes, writes and returns the metrics of each task with these parameters."""
        predictor = self._predictor.with_params(params)
        results = {task.name: self._evaluate_task(predictor, task, step) for task in self._tasks}
        losses = []
        for task in self._tasks if self._loss_batches else ():
            means = predictor.compute_losses(task, self._batch_size, self._loss_batches)
            self._loss_logs[task.name].write(step, means)
            losses.append(means[reporting.LOSS])
        self.loss = sum(losses) / len(losses) if losses else None
        for name, metrics in results.items():
            self._logs[name].write(step, metrics)
            shown = ", ".join(
                f"{key} {value:.2f}" for key, value in numeric_metrics(metrics).items()
            )
            logging.info("step %d  %s: %s", step, name, shown)
        return {name: numeric_metrics(metrics) for name, metrics in results.items()}

    def _evaluate_task(
        self, predictor: predictor_lib.Predictor, task: evaluation_task.EvaluationTask, step: int
    ) -> dict[str, float | str]:
        """Writes the predictions of a task; returns its metrics and samples of text."""
        predictions = predictor.predict(
            task,
            self._batch_size,
            num_decodes=int(task.needs_answers),
            scores_targets=task.needs_scores,
        )
        is_truncated = collections.Counter(p.is_truncated[0] for p in predictions)
        longest = max(len(example["targets"]) for example in task.examples)
        truncation.report(task.name, is_truncated, task.lengths.targets, longest_target=longest)
        texts = [prediction.texts[0] for prediction in predictions]
        target_scores = [prediction.target_score for prediction in predictions]
        metrics = task.metrics(
            texts,
            target_scores if task.needs_scores else None,
            {"scores": [prediction.scores[0] for prediction in predictions]},
        )
        _warn_of_single_prediction(task, texts)
        lines = map(_to_json, itertools.repeat(task), task.examples, predictions)
        text = "".join(itertools.islice(lines, self._written))
        reporting.write_text(self._folder / f"{task.name}-{step:06d}.jsonl", text)
        return metrics

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *_) -> None:
        for log in (*self._logs.values(), *self._loss_logs.values()):
            log.close()


def numeric_metrics(metrics: Mapping[str, float | str]) -> dict[str, float]:
    """Returns the metrics without samples of text."""
    return {name: value for name, value in metrics.items() if not isinstance(value, str)}


def _warn_of_single_prediction(task: evaluation_task.EvaluationTask, texts: Sequence[str]) -> None:
    targets = {task.text(example, "targets") for example in task.examples}
    if task.needs_answers and len(set(texts)) == 1 < min(len(texts), len(targets)):
        logging.warning(
            "%s: every prediction is %r (%d examples), so the model does not distinguish examples. "
            "Train longer (TRAIN_STEPS), or change LEARNING_RATE.",
            task.name, texts[0], len(texts),
        )  # fmt: skip


def _to_json(
    task: evaluation_task.EvaluationTask,
    example: Mapping[str, Any],
    prediction: predictor_lib.Prediction,
) -> str:
    line = {"input": task.text(example, "inputs"), "target": task.text(example, "targets")}
    if task.needs_answers:
        line["prediction"] = prediction.texts[0]
    if task.needs_scores:
        line["score"] = prediction.target_score
    return f"{json.dumps(line)}\n"


def _logs(
    tasks: Sequence[evaluation_task.EvaluationTask],
    folder: epath.PathLike,
    prefix: str,
    after_step: int,
) -> dict[str, reporting.MetricWriter]:
    return {
        task.name: reporting.MetricWriter(
            epath.Path(folder) / f"{task.name}-metrics.jsonl",
            events=epath.Path(folder) / task.name,
            after_step=after_step,
            prefix=prefix,
        )
        for task in tasks
    }


def evaluate(
    *,
    config: predictor_config.PredictorConfig,
    dataset: pipeline.DatasetConfig,
    output_dir: str,
    prompt_paths: Sequence[str] = (),
    num_examples: int | None = None,
    written_examples: int | None = None,
    config_text: str = "",
) -> dict[str, dict[str, float]]:
    """`prompt-tuning eval`: evaluates a model with one or several prompts.

    Of several prompts, those that have been evaluated in `output_dir` are skipped, unless the
    prompt, settings, data or weights have changed.

    Args:
      config: the model, with its prompt if `prompt_paths` has at most one.
      dataset: the split of a task.
      output_dir: EVAL_OUTPUT_DIR; gin/runs/eval.gin lists its files.
      prompt_paths: files that PROMPT_FILE names, in the order of steps.
      num_examples: examples of each task; None for all.
      written_examples: number of predictions to write per task; None for all.
      config_text: the settings, written to config.gin.

    Returns:
      {task: {metric: value}} of the last prompt.
    """
    reporting.check_folder(output_dir, "EVAL_OUTPUT_DIR")
    counts.validate_int("EVALUATOR_NUM_EXAMPLES", num_examples, 1, none="all")
    counts.validate_int("JSON_WRITE_N_RESULTS", written_examples, 0, none="all")
    paths_lib.check_places(prompt_paths)
    tasks, settings = config.open_with_settings(dataset, config_text, FREE, limit=num_examples)
    majority.warn_of_single_label(tasks)
    record = evaluated_prompts.EvaluatedPrompts(
        output_dir, dataset.name or tasks[0].name, prompt_paths, settings, config.model
    )
    if record.pending:
        _evaluate_prompts(config, record, tasks, dataset.batch_size, written_examples, config_text)
    return _print_metrics(tasks, record.folder)


def _evaluate_prompts(
    config: predictor_config.PredictorConfig,
    record: evaluated_prompts.EvaluatedPrompts,
    tasks: Sequence[evaluation_task.EvaluationTask],
    batch_size: int,
    written_examples: int | None,
    config_text: str,
) -> None:
    predictor = config.load()
    loaded = predictor.loaded
    reporting.start_folder(record.folder.parent, config_text, "EVAL_OUTPUT_DIR")
    settings = {"after_step": record.last_step, "written_examples": written_examples}
    with Evaluator(predictor, tasks, batch_size, record.folder, **settings) as evaluator:
        for path, step in record.pending:
            if record.has_several:
                loaded = state.with_adapter(loaded, prompt_files.initializer(path))
            evaluator.evaluate(loaded.params, (loaded.step or 0) if step is None else step)
            record.add(path)
    atomic.wait_for_writer(f"evaluated in {record.folder}")


def _print_metrics(
    tasks: Sequence[evaluation_task.EvaluationTask], folder: epath.Path
) -> dict[str, dict[str, float]]:
    """Prints the metrics of all steps; returns those of the last."""
    results = {}
    for task in tasks:
        text = (folder / f"{task.name}-metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        names = [name for name in numeric_metrics(lines[-1]) if name != "step"]
        rows = [[str(x["step"]), *(f"{x[name]:.2f}" for name in names)] for x in lines]
        print(reporting.table([[f"{task.name}  step", *names], *rows]))
        print(f"  majority class: {majority.share(task):.2f} %")
        results[task.name] = {name: lines[-1][name] for name in names}
    majority.warn_of_majority(tasks, folder, after_step=-1)
    return results
