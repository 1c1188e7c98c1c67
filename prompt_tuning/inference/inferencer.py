"""Answers inputs, or scores targets, and writes them as JSON lines, in the input's order."""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from prompt_tuning.data import evaluation_task, pipeline, vocabularies
from prompt_tuning.data.files import fingerprints
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import evaluator, truncation
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import counts, reporting, state
from prompt_tuning.training import settings as settings_lib

# What changes no answer of a file.
FREE = ("INFER_OUTPUT_DIR", "NUM_PARTITIONS", "NUM_SHARDS", "SHARD_ID")
MODES = ("predict", "predict_with_aux", "score")


def infer(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str,
    prompt_initializer: state.PromptInitializer | None,
    dataset: pipeline.DatasetConfig,
    output_dir: str,
    labels: Mapping[str | None, Sequence[str]] | None = None,
    mode: str = "predict",
    num_shards: int = 1,
    shard_id: int = 0,
    seed: int = 0,
    num_partitions: int = 1,
    config_text: str = "",
) -> list[str]:
    """`prompt-tuning infer`: writes a file of T5X's format for each task with the split.

    `<task>-<mode>.jsonl-<shard>-of-<shards>` has a line for each example, in order:
    {"inputs": {"inputs_pretokenized", …}, "prediction"}; with mode "predict_with_aux" also
    "aux": {"scores"}, and of several decodes "predictions" and "prediction_scores" in it, best
    first; with mode "score" {"inputs", "score"}, the log-likelihood of the targets. A file
    that was begun is continued; one that is complete, which a file `….COMPLETED` beside it
    says too, is left alone; one of other settings, data, weights or prompts, by the record
    `….settings.json` beside it, is an error.

    Args:
      model: network with its prompt and decoder.
      vocabulary: of the model.
      checkpoint: INITIAL_CHECKPOINT_PATH.
      prompt_initializer: reads the prompt; None of a model without.
      dataset: what to answer.
      output_dir: INFER_OUTPUT_DIR.
      labels: of the prompts' cards; see `prompt_files.labels`.
      mode: MODE, one of MODES.
      num_shards: NUM_SHARDS, commands that answer a part each.
      shard_id: SHARD_ID, which part this one answers: every NUM_SHARDS-th example from it.
      seed: RANDOM_SEED, of decoders that sample.
      num_partitions: devices that share one copy of the weights.
      config_text: the settings, written to config.gin.

    Returns:
      The paths of the files.
    """
    reporting.check_folder(output_dir, "INFER_OUTPUT_DIR")
    counts.check("RANDOM_SEED", seed, 0, counts.MAX_SEED)
    _check_mode(mode, num_shards, shard_id)
    if jax.process_count() > 1:
        raise ValueError(
            f"infer runs in {jax.process_count()} processes; expected one. Start NUM_SHARDS "
            "separate commands, each with its own SHARD_ID."
        )
    _ = dataset.max_lengths  # raises without lengths: how long are answers?
    partitioning.check_batch_size(dataset.batch_size, partitioning.make_mesh(num_partitions))
    files = settings_lib.data_files(dataset)
    with fingerprints.unchanged(files):
        settings = settings_lib.read(
            config_text, FREE, files, vocabulary, prompt_initializer, model
        ).with_labels(labels)
        settings = settings.with_checkpoint(checkpoint, state.base_digest(model, checkpoint))
        tasks = [
            task
            if num_shards == 1
            else dataclasses.replace(task, examples=task.examples[shard_id::num_shards])
            for task in pipeline.evaluation_tasks(
                dataset,
                vocabulary,
                in_memory=False,
                known_labels=labels,
                **evaluator.ranking_settings(model),
            )
        ]
    if mode == "score":
        _check_targets(tasks, dataset)
    if dataset.name is not None:
        settings = settings.with_tasks({}, tasks)
    folder, shard = epath.Path(output_dir), f"{shard_id:05d}-of-{num_shards:05d}"
    paths = [folder / f"{task.name}-{mode}.jsonl-{shard}" for task in tasks]
    for path in paths:
        _check_settings(path, settings)
    loaded = state.load_model(
        model,
        vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=prompt_initializer,
        num_partitions=num_partitions,
    )
    reporting.start_folder(output_dir, config_text, "INFER_OUTPUT_DIR")
    answerer = evaluator.Answerer(loaded, seed)
    for task, path in zip(tasks, paths, strict=True):
        if path.exists():
            logging.info(
                "%s is complete and has the same inputs: its predictions are kept. Delete it to "
                "predict again.",
                path,
            )
        else:
            settings_lib.write(_record(path), settings)
            _answer(answerer, loaded, task, dataset.batch_size, path, mode)
        reporting.write_text(path.with_name(f"{path.name}.COMPLETED"), "")
    return [str(path) for path in paths]


def _check_mode(mode: str, num_shards: int, shard_id: int) -> None:
    if mode not in MODES:
        raise ValueError(
            f"MODE is {mode!r}; expected one of {', '.join(MODES)}. Set MODE to one of them."
        )
    counts.check("NUM_SHARDS", num_shards, 1)
    counts.check("SHARD_ID", shard_id, 0)
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


def _check_settings(path: epath.Path, settings: settings_lib.Settings) -> None:
    """Raises ValueError where answers in a file are of other inputs: two kinds must not be in one."""
    if not (path.exists() or _partial(path).exists()):
        return
    advice = "Delete it, or set another INFER_OUTPUT_DIR."
    kept = settings_lib.read_file(_record(path)).get("settings")
    if kept is None:
        raise ValueError(
            f"{path} has no record {_record(path).name} of its inputs, for example because an "
            f"earlier version wrote it; expected a record, to compare the inputs. {advice}"
        )
    if lines := settings_lib.differences(kept, settings):
        raise ValueError(
            f"{path} has predictions of other inputs (old -> new):\n  "
            + "\n  ".join(lines)
            + f"\nExpected the same inputs. {advice}"
        )


def _record(path: epath.Path) -> epath.Path:
    return path.with_name(f"{path.name}.settings.json")


def _partial(path: epath.Path) -> epath.Path:
    return path.with_name(f"{path.name}.partial")


def _answer(
    answerer: evaluator.Answerer,
    loaded: state.LoadedModel,
    task: evaluation_task.EvaluationTask,
    batch_size: int,
    path: epath.Path,
    mode: str,
) -> None:
    """Appends to a partial file what is answered, window by window; renames it when it is whole."""
    partial, total = _partial(path), len(task.examples)
    # Whole windows only: a batch's randomness belongs to its number.
    written = _keep_whole(partial, evaluation_task.WINDOW * batch_size)
    counter = truncation.TruncationCounter()
    with partial.open("ab") as out, reporting.progress(total, written, "rows") as bar:
        for window in task.windows(batch_size, loaded.soft_tokens, written):
            answers: list[str] = [""] * len(window.examples)
            for i, (which, batch) in enumerate(window.batches, start=window.start // batch_size):
                if mode == "score":
                    found = [{"score": float(x)} for x in answerer.score(loaded.params, batch)]
                else:
                    some = [window.examples[example] for example in which]
                    decoded = answerer.predict(loaded.params, batch, task.lengths.targets, i)
                    counter.add(decoded[0][: len(which), 0])
                    found = [
                        _prediction(task, *each, mode) for each in zip(some, *decoded, strict=False)
                    ]
                for example, answer in zip(which.tolist(), found, strict=False):
                    inputs = _inputs(task, window.examples[example])
                    answers[example] = json.dumps({"inputs": inputs, **answer}) + "\n"
                bar.advance(0, len(which))
            out.write("".join(answers).encode())
            out.flush()
        if os.path.isfile(partial):  # What has the final name is on the disk before.
            os.fsync(out.fileno())
    partial.replace(path)
    counter.report(task.name, task.lengths.targets)
    logging.info("Wrote %d predictions to %s.", total, path)


def _keep_whole(partial: epath.Path, window: int) -> int:
    """How many answers a partial file has, in whole windows of so many; what is behind is cut off."""
    count = size = kept = kept_size = 0
    if not partial.exists():
        return 0
    with partial.open("rb") as file:
        for line in file:
            count, size = count + line.endswith(b"\n"), size + len(line)
            if count == kept + window:
                kept, kept_size = count, size
    if kept_size < size and os.path.isfile(partial):
        os.truncate(partial, kept_size)
    elif kept_size < size:  # what is in a bucket is written anew
        partial.write_bytes(partial.read_bytes()[:kept_size])
    return kept


def _inputs(task: evaluation_task.EvaluationTask, example: Mapping[str, Any]) -> dict[str, str]:
    """The example's texts, as T5X names them; the targets where it has such."""
    texts = {f"{name}_pretokenized": task.text(example, name) for name in ("inputs", "targets")}
    return {name: text for name, text in texts.items() if text or name.startswith("inputs")}


def _prediction(
    task: evaluation_task.EvaluationTask,
    example: Mapping[str, Any],
    ids: np.ndarray,
    scores: np.ndarray,
    mode: str,
) -> dict[str, Any]:
    texts = [task.detokenize(decode, example.get("prompt")) for decode in ids]
    if mode == "predict":
        return {"prediction": texts[0]}
    rounded = [round(float(score), 4) for score in scores]
    aux: dict[str, Any] = {"scores": rounded[0]}
    if len(texts) > 1:
        aux |= {"predictions": texts, "prediction_scores": rounded}
    return {"prediction": texts[0], "aux": aux}
