"""Answers the examples of tasks and computes the tasks' metrics."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from prompt_tuning import partitioning
from prompt_tuning.data import evaluation_task, pipeline, vocabularies
from prompt_tuning.models import decoding
from prompt_tuning.models import model as model_lib
from prompt_tuning.prompts import initializers
from prompt_tuning.runtime import reporting, state


class Answerer:
    """Compiled `predict` and `score` of a model, for batches of numpy arrays."""

    def __init__(self, loaded: state.LoadedModel, seed: int = 0):
        """`seed` matters where the decoder samples."""
        self._loaded, self._seed = loaded, seed
        model = loaded.model
        self._predict = jax.jit(model.predict, static_argnums=2)
        self._rank = jax.jit(model.rank_labels)
        self._score = jax.jit(model.score)
        self._labels = None
        if isinstance(model.decoder, decoding.LabelRanking):
            self._labels = _label_ids(model.decoder.labels, loaded.vocabulary)

    def predict(self, params, batch, max_length: int, index: int = 0) -> tuple[np.ndarray, ...]:
        """Tokens [B, N, L] and scores [B, N] of a batch; `index` varies the randomness.

        With a LabelRanking, N labels of L tokens, whatever `max_length` is.
        """
        rng = jax.random.fold_in(jax.random.key(self._seed), index)
        with partitioning.use(self._loaded.mesh):
            ids = partitioning.place_batch(batch, self._loaded.mesh)["encoder_input_tokens"]
            if self._labels is not None:
                return jax.device_get(self._rank(params, ids, self._labels))
            return jax.device_get(self._predict(params, ids, max_length, rng))

    def score(self, params, batch) -> np.ndarray:
        """Log-likelihood [B] of the targets."""
        with partitioning.use(self._loaded.mesh):
            placed = partitioning.place_batch(batch, self._loaded.mesh)
            return jax.device_get(self._score(params, placed))

    def answers(
        self, params, task: evaluation_task.EvaluationTask, batch_size: int
    ) -> tuple[list[str], list[float] | None, dict[str, list[float]]]:
        """Of each example the best decode as text, target scores where a metric wants them, and more.

        The last is what seqio's metrics call aux_values: {"scores": log-likelihood of the decode}.
        """
        texts = [""] * len(task.examples)
        scores = [0.0] * len(task.examples)
        own_scores = [0.0] * len(task.examples)
        for i, (which, batch) in enumerate(task.batches(batch_size, self._loaded.soft_ids)):
            tokens, of_tokens = self.predict(params, batch, task.lengths.targets, i)
            for example, row, score in zip(which, tokens, of_tokens, strict=False):
                texts[example] = self._loaded.vocabulary.decode(row[0])
                own_scores[example] = float(score[0])
            if task.needs_scores:
                for example, score in zip(which, self.score(params, batch), strict=False):
                    scores[example] = float(score)
        return texts, scores if task.needs_scores else None, {"scores": own_scores}


def _label_ids(labels: Sequence[str], vocabulary: vocabularies.SentencePiece) -> np.ndarray:
    """Ids [N, L] of labels and their end tokens, filled up with 0."""
    rows = [[*vocabulary.encode(label), decoding.EOS_ID] for label in labels]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids


def evaluate_tasks(
    answerer: Answerer,
    params,
    tasks: Sequence[evaluation_task.EvaluationTask],
    batch_size: int,
    *,
    output_dir: epath.PathLike | None = None,
    step: int = 0,
) -> dict[str, dict[str, float | str]]:
    """Metrics of each task, samples of answers too where it has such (see `numbers`).

    With `output_dir` also the answers, one JSON line an example.
    """
    results = {}
    for task in tasks:
        texts, scores, aux_values = answerer.answers(params, task, batch_size)
        results[task.name] = task.metrics(texts, scores, aux_values)
        targets = {task.text(e, "targets") for e in task.examples}
        if len(texts) > 1 and len(targets) > 1 and len(set(texts)) == 1:
            logging.warning(
                "%s: every answer is %r (%d examples); the prompt has not learned to tell them apart",
                task.name, texts[0], len(texts),
            )  # fmt: skip
        if output_dir is not None:
            lines = [
                json.dumps(
                    {
                        "input": task.text(example, "inputs"),
                        "target": task.text(example, "targets"),
                        "prediction": text,
                    }
                )
                for example, text in zip(task.examples, texts, strict=True)
            ]
            name = f"{task.name}-{step:06d}.jsonl"
            reporting.write_text(epath.Path(output_dir) / name, "\n".join(lines) + "\n")
    return results


def numbers(metrics: Mapping[str, float | str]) -> dict[str, float]:
    """The metrics without samples of answers."""
    return {name: value for name, value in metrics.items() if not isinstance(value, str)}


class Validation:
    """Evaluates a run as it goes on. Use as a context manager."""

    def __init__(
        self,
        answerer: Answerer,
        tasks: Sequence[evaluation_task.EvaluationTask],
        batch_size: int,
        folder: epath.PathLike,
        *,
        after_step: int,
    ):
        """`folder` gets answers and metrics; what a run left there of later steps is dropped."""
        self._answerer, self._tasks, self._batch_size = answerer, tasks, batch_size
        self._folder = epath.Path(folder)
        self._logs = {
            task.name: reporting.MetricWriter(
                self._folder / f"{task.name}-metrics.jsonl",
                events=self._folder / task.name,
                after_step=after_step,
                prefix="eval/",
            )
            for task in tasks
        }

    def evaluate(self, params, step: int) -> dict[str, dict[str, float]]:
        """Metrics of each task, which are also written down."""
        results = evaluate_tasks(
            self._answerer,
            params,
            self._tasks,
            self._batch_size,
            output_dir=self._folder,
            step=step,
        )
        for name, metrics in results.items():
            self._logs[name].write(step, metrics)
            shown = ", ".join(f"{key} {value:.2f}" for key, value in numbers(metrics).items())
            logging.info("step %d  %s: %s", step, name, shown)
        return {name: numbers(metrics) for name, metrics in results.items()}

    def __enter__(self) -> "Validation":
        return self

    def __exit__(self, *_) -> None:
        for log in self._logs.values():
            log.close()


def majority_share(task: evaluation_task.EvaluationTask) -> float:
    """Percent of the most common target: what always answering it would score."""
    counts = Counter(task.text(e, "targets") for e in task.examples)
    return 100 * max(counts.values()) / max(len(task.examples), 1)


def evaluate(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.SentencePiece,
    checkpoint: str,
    prompt_initializer: initializers.Initializer,
    dataset: pipeline.DatasetConfig,
    output_dir: str,
    num_examples: int | None = None,
    num_partitions: int = 1,
    config_text: str = "",
) -> dict[str, dict[str, float]]:
    """`prompt-tuning eval`: a base checkpoint + a prompt, on a split of a task.

    Writes to `output_dir`: config.gin, inference_eval/<task>-metrics.jsonl and
    inference_eval/<task>-<step>.jsonl with the answers.

    Returns:
      {task: {metric: value}}.
    """
    partitioning.check_batch_size(dataset.batch_size, partitioning.make_mesh(num_partitions))
    tasks = pipeline.evaluation_tasks(dataset, vocabulary, num_examples)
    loaded = state.load_model(
        model,
        vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=prompt_initializer,
        num_partitions=num_partitions,
    )
    reporting.start_folder(output_dir, config_text, "EVAL_OUTPUT_DIR")
    folder, step = epath.Path(output_dir) / "inference_eval", loaded.step or 0
    found = evaluate_tasks(
        Answerer(loaded), loaded.params, tasks, dataset.batch_size, output_dir=folder, step=step
    )
    results = {name: numbers(metrics) for name, metrics in found.items()}
    rows: list[tuple[str, str]] = []
    for task in tasks:
        metrics: dict[str, Any] = {**results[task.name], "majority": majority_share(task)}
        line = json.dumps({"step": step, **metrics})
        reporting.write_text(folder / f"{task.name}-metrics.jsonl", line + "\n")
        rows += [(f"{task.name} {name}", f"{value:.2f}") for name, value in metrics.items()]
    print(reporting.table(rows))
    return results
