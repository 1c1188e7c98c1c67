"""Answers the examples of tasks and computes the tasks' metrics."""

import copy
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from prompt_tuning.checkpoints import atomic, prompt_files
from prompt_tuning.checkpoints import prompt_paths as paths_lib
from prompt_tuning.data import evaluation_task, pipeline, vocabularies
from prompt_tuning.data.files import fingerprints
from prompt_tuning.data.text import labels as labels_lib
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import evaluated_prompts, majority, truncation
from prompt_tuning.models import decoding
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import counts, reporting, state
from prompt_tuning.training import settings as settings_lib

# Settings that change no metric. Each prompt of PROMPT_FILE has its own identity.
FREE = ("EVAL_OUTPUT_DIR", "NUM_PARTITIONS", "PROMPT_FILE", "RESTORE_MODE")


class Answerer:
    """Compiled `predict` and `score` of a model, for batches of numpy arrays."""

    def __init__(self, loaded: state.LoadedModel, seed: int = 0):
        """`seed` matters where the decoder samples."""
        self._loaded, self._seed = loaded, seed
        model = loaded.model
        # Every process reads all answers.
        everywhere = {"out_shardings": partitioning.replicated(loaded.mesh)}
        self._predict = jax.jit(model.predict, static_argnums=2, **everywhere)
        self._rank = jax.jit(model.rank_labels, **everywhere)
        self._score = jax.jit(model.score, **everywhere)
        self._loss = jax.jit(lambda params, batch: model.loss(params, batch)[1], **everywhere)
        self._labels = None
        if isinstance(model.decoder, decoding.LabelRanking):
            self._labels = labels_lib.label_ids(model.decoder.labels, loaded.vocabulary)

    def with_seed(self, seed: int) -> "Answerer":
        """The same with other randomness; nothing is compiled again."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def predict(self, params, batch, max_length: int, index: int = 0) -> tuple[np.ndarray, ...]:
        """Tokens [B, N, L] and scores [B, N] of a batch; `index` varies the randomness.

        With a LabelRanking, N labels of L tokens, whatever `max_length` is.
        """
        rng = jax.random.fold_in(jax.random.key(self._seed), index)
        with partitioning.use(self._loaded.mesh):
            ids = self._place(batch)["encoder_input_tokens"]
            if self._labels is not None:
                neutral_ids = batch.get(evaluation_task.NEUTRAL)
                return jax.device_get(self._rank(params, ids, self._labels, neutral_ids))
            return jax.device_get(self._predict(params, ids, max_length, rng))

    def _place(self, batch) -> dict[str, jax.Array]:
        rows = {name: ids for name, ids in batch.items() if name != evaluation_task.NEUTRAL}
        return partitioning.place_batch(rows, self._loaded.mesh)

    def score(self, params, batch) -> np.ndarray:
        """Log-likelihood [B] of the targets."""
        with partitioning.use(self._loaded.mesh):
            return jax.device_get(self._score(params, self._place(batch)))

    def losses(
        self, params, task: evaluation_task.EvaluationTask, batch_size: int, count: int
    ) -> dict[str, float]:
        """T5X's metrics of the targets as the next tokens, over `count` batches at most."""
        sums = []
        with partitioning.use(self._loaded.mesh):
            batches = task.batches(batch_size, self._loaded.soft_tokens)
            for _, batch in itertools.islice(batches, count):
                sums.append(self._loss(params, self._place(batch)))
        return reporting.mean_losses(jax.device_get(sums))

    def answers(
        self, params, task: evaluation_task.EvaluationTask, batch_size: int
    ) -> tuple[list[str], list[float] | None, dict[str, list[float]]]:
        """Of each example the best decode as text, target scores where a metric wants them, and more.

        Texts are "" where nothing wants answers. The last is what seqio's metrics call
        aux_values: {"scores": log-likelihood of the decode}.
        """
        texts = [""] * len(task.examples)
        scores = [0.0] * len(task.examples)
        own_scores = [0.0] * len(task.examples)
        counter = truncation.TruncationCounter()
        for i, (which, batch) in enumerate(task.batches(batch_size, self._loaded.soft_tokens)):
            if task.needs_answers:
                tokens, of_tokens = self.predict(params, batch, task.lengths.targets, i)
                counter.add(tokens[: len(which), 0])
                for example, row, score in zip(which, tokens, of_tokens, strict=False):
                    texts[example] = task.detokenize(row[0])
                    own_scores[example] = float(score[0])
            if task.needs_scores:
                for example, score in zip(which, self.score(params, batch), strict=False):
                    scores[example] = float(score)
        longest = max(len(example["targets"]) for example in task.examples)
        counter.report(task.name, task.lengths.targets, longest_target=longest)
        return texts, scores if task.needs_scores else None, {"scores": own_scores}


def ranking_settings(model: model_lib.EncoderDecoderModel) -> dict[str, Any]:
    """What `pipeline.evaluation_tasks` is to know of a decoder that ranks labels; else nothing."""
    decoder = model.decoder
    if not isinstance(decoder, decoding.LabelRanking):
        return {}
    calibrated = decoder.normalization == "calibration"
    return {"ranked_labels": decoder.labels, "calibrated": calibrated}


def evaluate_tasks(
    answerer: Answerer,
    params,
    tasks: Sequence[evaluation_task.EvaluationTask],
    batch_size: int,
    *,
    output_dir: epath.PathLike | None = None,
    step: int = 0,
    written_examples: int | None = None,
) -> dict[str, dict[str, float | str]]:
    """Metrics of each task, samples of answers too where it has such (see `numbers`).

    With `output_dir` also the answers, one JSON line an example: {"input", "target",
    "prediction"}, with "score" where a metric wants scores; `written_examples` is how many
    there are, None for all.
    """
    results = {}
    for task in tasks:
        texts, scores, aux_values = answerer.answers(params, task, batch_size)
        results[task.name] = task.metrics(texts, scores, aux_values)
        targets = {task.text(e, "targets") for e in task.examples}
        same = task.needs_answers and len(set(texts)) == 1
        if same and len(texts) > 1 and len(targets) > 1:
            logging.warning(
                "%s: every prediction is %r (%d examples), so the model does not distinguish examples. "
                "Train longer (TRAIN_STEPS), or change LEARNING_RATE.",
                task.name, texts[0], len(texts),
            )  # fmt: skip
        if output_dir is not None:
            lines = _answer_lines(task, texts, scores)[:written_examples]
            name = f"{task.name}-{step:06d}.jsonl"
            text = "".join(f"{json.dumps(line)}\n" for line in lines)
            reporting.write_text(epath.Path(output_dir) / name, text)
    return results


def numbers(metrics: Mapping[str, float | str]) -> dict[str, float]:
    """The metrics without samples of answers."""
    return {name: value for name, value in metrics.items() if not isinstance(value, str)}


def _answer_lines(
    task: evaluation_task.EvaluationTask, texts: Sequence[str], scores: Sequence[float] | None
) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {"input": task.text(example, "inputs"), "target": task.text(example, "targets")}
        for example in task.examples
    ]
    for line, text in zip(lines, texts if task.needs_answers else (), strict=False):
        line["prediction"] = text
    for line, score in zip(lines, scores or (), strict=False):
        line["score"] = score
    return lines


class Validation:
    """Evaluates a run as it goes on. Use as a context manager.

    Attributes:
      loss: of the targets in the last evaluation, the mean over the tasks; None where it has none.
    """

    def __init__(
        self,
        answerer: Answerer,
        tasks: Sequence[evaluation_task.EvaluationTask],
        batch_size: int,
        folder: epath.PathLike,
        *,
        after_step: int,
        written_examples: int | None = None,
        losses: tuple[epath.PathLike, int] | None = None,
    ):
        """`folder` gets answers and metrics; what a run left there of later steps is dropped.

        Args:
          answerer: of the model.
          tasks: to be evaluated.
          batch_size: examples answered at once.
          folder: for {task}-metrics.jsonl, {task}-{step}.jsonl and TensorBoard's {task}/.
          after_step: the last step that is evaluated already.
          written_examples: answers of a task to write; None for all.
          losses: another folder, for the loss of the targets over a number of batches of each
            task; None, or none of them, for no such.
        """
        self._answerer, self._tasks, self._batch_size = answerer, tasks, batch_size
        self._folder, self._written = epath.Path(folder), written_examples
        self._logs = _logs(tasks, self._folder, "eval/", after_step)
        folder, self._loss_batches = losses or ("", 0)
        self._loss_logs = _logs(tasks if self._loss_batches else (), folder, "", after_step)
        self.loss: float | None = None

    def evaluate(self, params, step: int) -> dict[str, dict[str, float]]:
        """Metrics of each task, which are also written down."""
        results = evaluate_tasks(
            self._answerer,
            params,
            self._tasks,
            self._batch_size,
            output_dir=self._folder,
            step=step,
            written_examples=self._written,
        )
        losses = []
        for task in self._tasks if self._loss_batches else ():
            means = self._answerer.losses(params, task, self._batch_size, self._loss_batches)
            self._loss_logs[task.name].write(step, means)
            losses.append(means[reporting.LOSS])
        self.loss = sum(losses) / len(losses) if losses else None
        for name, metrics in results.items():
            self._logs[name].write(step, metrics)
            shown = ", ".join(f"{key} {value:.2f}" for key, value in numbers(metrics).items())
            logging.info("step %d  %s: %s", step, name, shown)
        return {name: numbers(metrics) for name, metrics in results.items()}

    def __enter__(self) -> "Validation":
        return self

    def __exit__(self, *_) -> None:
        for log in (*self._logs.values(), *self._loss_logs.values()):
            log.close()


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
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str,
    prompt_initializer: state.PromptInitializer | None,
    dataset: pipeline.DatasetConfig,
    output_dir: str,
    prompt_paths: Sequence[str] = (),
    labels: Mapping[str | None, Sequence[str]] | None = None,
    num_examples: int | None = None,
    written_examples: int | None = None,
    num_partitions: int = 1,
    config_text: str = "",
) -> dict[str, dict[str, float]]:
    """`prompt-tuning eval`: a base checkpoint + one prompt or several, on a split of a task.

    Writes to `output_dir`: config.gin, eval.<task>.ckpt with the prompts that are done,
    inference_eval/<task>-metrics.jsonl, inference_eval/<task>-<step>.jsonl with the answers
    and TensorBoard's inference_eval/<task>/. The same command again evaluates the prompts that are
    not done, or that have changed; all of them where settings, data or weights have changed.

    Args:
      model: network with its prompt and decoder.
      vocabulary: of the model.
      checkpoint: INITIAL_CHECKPOINT_PATH, read once.
      prompt_initializer: makes the prompt, where `prompt_paths` has not several.
      dataset: what to answer.
      output_dir: EVAL_OUTPUT_DIR.
      prompt_paths: what PROMPT_FILE names, by step; of one place in an input.
      labels: of the prompt's card; see `prompt_files.labels`.
      num_examples: examples of each task; None for all.
      written_examples: answers of each task to write; None for all.
      num_partitions: devices that share one copy of the weights.
      config_text: the settings, written to config.gin.

    Returns:
      {task: {metric: value}}, of the last prompt.
    """
    reporting.check_folder(output_dir, "EVAL_OUTPUT_DIR")
    counts.check("EVALUATOR_NUM_EXAMPLES", num_examples, 1, none="all")
    counts.check("JSON_WRITE_N_RESULTS", written_examples, 0, none="all")
    partitioning.check_batch_size(dataset.batch_size, partitioning.make_mesh(num_partitions))
    paths_lib.check_places(prompt_paths)
    files = settings_lib.data_files(dataset)
    with fingerprints.unchanged(files):
        settings = settings_lib.read(config_text, FREE, files, vocabulary, None, model).with_labels(
            labels
        )
        tasks = pipeline.evaluation_tasks(
            dataset, vocabulary, num_examples, known_labels=labels, **ranking_settings(model)
        )
    majority.warn_of_single_label(tasks)
    if dataset.name is not None:
        settings = settings.with_tasks({}, tasks)
    settings = settings.with_checkpoint(checkpoint, state.base_digest(model, checkpoint))
    record = evaluated_prompts.EvaluatedPrompts(
        output_dir, dataset.name or tasks[0].name, prompt_paths, settings, model
    )
    if not record.waiting:
        logging.info("All prompts of PROMPT_FILE are already evaluated in %s.", output_dir)
        return _tell(tasks, record.folder)
    loaded = state.load_model(
        model,
        vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=prompt_initializer,
        num_partitions=num_partitions,
    )
    reporting.start_folder(output_dir, config_text, "EVAL_OUTPUT_DIR")
    validation = Validation(
        Answerer(loaded),
        tasks,
        dataset.batch_size,
        record.folder,
        after_step=record.last_done,
        written_examples=written_examples,
    )
    with validation:
        for path, step in record.waiting:
            if len(prompt_paths) > 1:
                loaded = state.with_added(loaded, prompt_files.initializer(path))
            validation.evaluate(loaded.params, (loaded.step or 0) if step is None else step)
            record.add(path)
    atomic.wait_for_writer(f"evaluated in {output_dir}")
    return _tell(tasks, record.folder)


def _tell(
    tasks: Sequence[evaluation_task.EvaluationTask], folder: epath.Path
) -> dict[str, dict[str, float]]:
    """Prints the metrics of all steps; returns those of the last."""
    results = {}
    for task in tasks:
        text = (folder / f"{task.name}-metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        names = [name for name in numbers(lines[-1]) if name != "step"]
        rows = [[str(x["step"]), *(f"{x[name]:.2f}" for name in names)] for x in lines]
        print(reporting.table([[f"{task.name}  step", *names], *rows]))
        print(f"  majority class: {majority.share(task):.2f} %")
        results[task.name] = {name: lines[-1][name] for name in names}
    majority.warn_of_majority(tasks, folder, after_step=-1)
    return results
