"""Predictions, or scores of targets, written as JSON lines in the order of the inputs."""

import collections
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.checkpoints import atomic
from prompt_tuning.data import evaluation_task, pipeline
from prompt_tuning.inference import prediction_file, predictor_config, truncation
from prompt_tuning.inference import predictor as predictor_lib
from prompt_tuning.training import counts, reporting

# Settings that do not change the predictions of a file.
FREE = ("INFER_OUTPUT_DIR", "NUM_PARTITIONS", "NUM_SHARDS", "SHARD_ID")
# Number of decodes per example that each mode keeps; None for all.
MODES = {"predict": 1, "predict_with_aux": None, "score": 0}


def infer(
    *,
    config: predictor_config.PredictorConfig,
    dataset: pipeline.DatasetConfig,
    output_dir: str,
    mode: str = "predict",
    num_shards: int = 1,
    shard_id: int = 0,
    seed: int = 0,
    config_text: str = "",
) -> list[str]:
    """`prompt-tuning infer`: writes <task>-<mode>.jsonl-<shard>-of-<shards> for each task.

    Partial files are resumed, and complete files are kept; see `PredictionFile`.

    Args:
      config: the model with its prompt.
      dataset: the inputs.
      output_dir: INFER_OUTPUT_DIR.
      mode: MODE, one of MODES.
      num_shards: NUM_SHARDS, the number of commands that share the examples.
      shard_id: SHARD_ID of this command: every NUM_SHARDS-th example from SHARD_ID.
      seed: RANDOM_SEED, for decoders that sample.
      config_text: the settings, written to config.gin.

    Returns:
      The paths of the files.
    """
    reporting.check_folder(output_dir, "INFER_OUTPUT_DIR")
    _check_settings(mode, num_shards, shard_id, seed, dataset)
    tasks, settings = config.open_with_settings(
        dataset, config_text, FREE, in_memory=False, shard=slice(shard_id, None, num_shards)
    )
    if mode == "score":
        _check_targets(tasks, dataset)
    suffix = f"{mode}.jsonl-{shard_id:05d}-of-{num_shards:05d}"
    window = evaluation_task.WINDOW * dataset.batch_size
    files = [
        prediction_file.PredictionFile(f"{output_dir}/{task.name}-{suffix}", settings, window)
        for task in tasks
    ]
    predictor = config.load(seed)
    reporting.start_folder(output_dir, config_text, "INFER_OUTPUT_DIR")
    for task, file in zip(tasks, files, strict=True):
        if not file.is_complete:
            _predict(predictor, task, dataset.batch_size, file, mode)
        file.mark_completed()
    atomic.wait_for_writer(f"predicted in {output_dir}")
    return [str(file.path) for file in files]


def _check_settings(
    mode: str, num_shards: int, shard_id: int, seed: int, dataset: pipeline.DatasetConfig
) -> None:
    _ = dataset.max_lengths  # Raises without TASK_FEATURE_LENGTHS, which limits predictions.
    counts.validate_int("RANDOM_SEED", seed, 0, counts.MAX_SEED)
    if mode not in MODES:
        raise ValueError(
            f"MODE is {mode!r}; expected one of {', '.join(MODES)}. Set MODE to one of them."
        )
    counts.validate_int("NUM_SHARDS", num_shards, 1)
    counts.validate_int("SHARD_ID", shard_id, 0)
    if not 0 <= shard_id < num_shards:
        raise ValueError(
            f"SHARD_ID is {shard_id} and NUM_SHARDS is {num_shards}; expected 0 <= SHARD_ID < "
            f"NUM_SHARDS. Set SHARD_ID to a number from 0 to {num_shards - 1}."
        )


def _check_targets(
    tasks: Sequence[evaluation_task.EvaluationTask], dataset: pipeline.DatasetConfig
) -> None:
    for task in tasks:
        if not all(task.text(example, "targets") for example in task.examples):
            raise ValueError(
                f"MODE='score' scores targets, but split {dataset.split!r} of {task.name} has "
                "none; expected a split with targets. Set SPLIT to one, such as 'validation', "
                "which is read from EVAL_FILE."
            )


def _predict(
    predictor: predictor_lib.Predictor,
    task: evaluation_task.EvaluationTask,
    batch_size: int,
    file: prediction_file.PredictionFile,
    mode: str,
) -> None:
    """Appends the missing predictions of a file, one complete window at a time."""
    start, total, window = file.num_kept, len(task.examples), evaluation_task.WINDOW * batch_size
    is_truncated, lines = collections.Counter[bool](), dict[int, str]()
    batches = predictor.predict_batches(
        task, batch_size, num_decodes=MODES[mode], scores_targets=mode == "score", start=start
    )
    with file.append() as write, reporting.progress(total, start, "rows") as bar:
        for numbers, examples, predictions in batches:
            is_truncated.update(prediction.is_truncated[0] for prediction in predictions)
            for number, example, prediction in zip(numbers, examples, predictions, strict=True):
                lines[number] = json.dumps(_to_line(task, example, prediction, mode)) + "\n"
            bar.advance(0, len(numbers))
            if len(lines) == min(window, total - start):
                write("".join(lines[number] for number in sorted(lines)))
                start, lines = start + len(lines), {}
    truncation.report(task.name, is_truncated, task.lengths.targets)
    logging.info("Wrote %d predictions to %s.", total, file.path)


def _to_line(
    task: evaluation_task.EvaluationTask,
    example: Mapping[str, Any],
    prediction: predictor_lib.Prediction,
    mode: str,
) -> dict[str, Any]:
    """Returns a line with T5X's names: "inputs", and "score" or "prediction" and "aux".

    "inputs" has the texts of the example, with its targets if there are any.
    """
    texts = {f"{name}_pretokenized": task.text(example, name) for name in ("inputs", "targets")}
    inputs = {name: text for name, text in texts.items() if text or name.startswith("inputs")}
    line: dict[str, Any] = {"inputs": inputs}
    if mode == "score":
        return line | {"score": prediction.target_score}
    line["prediction"] = prediction.texts[0]
    if mode == "predict_with_aux":
        scores = [round(score, 4) for score in prediction.scores]
        line["aux"] = {"scores": scores[0]}
        if len(scores) > 1:
            line["aux"] |= {"predictions": prediction.texts, "prediction_scores": scores}
    return line
