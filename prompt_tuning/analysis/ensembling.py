"""Several prompts of one task as one classifier (paper section 6)."""

import collections
import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from etils import epath

from prompt_tuning.data import evaluation_task, pipeline, vocabularies
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import evaluator, truncation
from prompt_tuning.models import decoding
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import reporting, state


class Answer(NamedTuple):
    """What one prompt says of one example: texts with their scores, the best first.

    A score is the log-likelihood, of a LabelRanking as its normalization changes it.
    """

    likelihoods: Mapping[str, float]
    target_score: float | None

    @property
    def text(self) -> str:
        """The answer."""
        return next(iter(self.likelihoods))


Answers = Sequence[Sequence[Answer]]  # [examples][prompts]


def answers(
    answerer: evaluator.Answerer,
    loaded: state.LoadedModel,
    task: evaluation_task.EvaluationTask,
    batch_size: int,
) -> list[list[Answer]]:
    """Each example's answer with each prompt of the model's table: [examples][prompts].

    A batch has `batch_size` examples, each with all of the prompts: one forward pass for all.
    """
    names = loaded.model.method.soft_tokens.names
    spread = dataclasses.replace(
        task, examples=[{**example, "prompt": name} for example in task.examples for name in names]
    )
    found: list[list[Answer]] = [[None] * len(names) for _ in task.examples]
    rows, length = batch_size * len(names), task.lengths.targets
    counter = truncation.TruncationCounter()
    for number, (which, batch) in enumerate(spread.batches(rows, loaded.soft_tokens)):
        decodes, scores = answerer.predict(loaded.params, batch, length, number)
        counter.add(decodes[: len(which), 0])
        of_targets = answerer.score(loaded.params, batch) if task.needs_scores else None
        for i, row in enumerate(which.tolist()):
            texts = [task.detokenize(decode) for decode in decodes[i]]
            likelihoods: dict[str, float] = {}
            for text, score in zip(texts, scores[i].tolist(), strict=True):
                likelihoods.setdefault(text, score)
            target_score = None if of_targets is None else float(of_targets[i])
            found[row // len(names)][row % len(names)] = Answer(likelihoods, target_score)
    counter.report(task.name, length)
    return found


def majority(of_prompts: Sequence[Answer]) -> str:
    """The text that most prompts answer; of several such the likeliest on average."""
    votes = collections.Counter(answer.text for answer in of_prompts)
    most = max(votes.values())

    def likelihood(text: str) -> float:
        return statistics.mean(a.likelihoods[text] for a in of_prompts if a.text == text)

    return max((text for text, count in votes.items() if count == most), key=likelihood)


def likeliest(of_prompts: Sequence[Answer]) -> str:
    """The text with the highest mean log-likelihood; all prompts must tell that of the same texts."""
    return max(
        of_prompts[0].likelihoods,
        key=lambda text: statistics.mean(a.likelihoods[text] for a in of_prompts),
    )


def ensemble(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str,
    prompt_initializer: state.PromptInitializer,
    dataset: pipeline.DatasetConfig,
    output_dir: str,
    labels: Mapping[str | None, Sequence[str]] | None = None,
    num_examples: int | None = None,
    num_partitions: int = 1,
    config_text: str = "",
) -> dict[str, dict[str, dict[str, float]]]:
    """`prompt-tuning ensemble`: each prompt alone, and all as one classifier.

    Writes to `output_dir`: config.gin, and of each task <task>-ensemble.json with what is
    returned and <task>-ensemble.jsonl with all answers.

    Args:
      model: network whose prompt has several names, and decoder. With a LabelRanking, prompts are
        also combined by their mean log-likelihoods.
      vocabulary: of the model.
      checkpoint: INITIAL_CHECKPOINT_PATH.
      prompt_initializer: reads the prompts into one table.
      dataset: what to answer; `batch_size` examples at once, each with all prompts.
      output_dir: EVAL_OUTPUT_DIR.
      labels: of the prompts' cards; see `prompt_files.labels`.
      num_examples: examples of each task; None for all.
      num_partitions: devices that share one copy of the weights.
      config_text: the settings, written to config.gin.

    Returns:
      {task: {which: {metric: value}}}; which: "prompt 0", …, "average", "deviation", "best",
      "majority vote", and "mean log-likelihood" of label rankings.
    """
    names = model.method.soft_tokens.names
    if len(names) < 2:
        raise ValueError(
            f"PROMPT_FILE matches {len(names)} prompt; expected at least two for an ensemble. Set "
            "PROMPT_FILE to a list of files, or to a pattern such as 'runs/*/prompts/best.npy'."
        )
    mesh = partitioning.make_mesh(num_partitions)
    partitioning.check_batch_size(dataset.batch_size * len(names), mesh)
    tasks = pipeline.evaluation_tasks(
        dataset,
        vocabulary,
        num_examples,
        known_labels={None: [label for some in (labels or {}).values() for label in some]},
        **evaluator.ranking_settings(model),
    )
    loaded = state.load_model(
        model,
        vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=prompt_initializer,
        num_partitions=num_partitions,
    )
    reporting.start_folder(output_dir, config_text, "EVAL_OUTPUT_DIR")
    answerer, results = evaluator.Answerer(loaded), {}
    for task in tasks:
        found = answers(answerer, loaded, task, dataset.batch_size)
        ranked = isinstance(model.decoder, decoding.LabelRanking)
        results[task.name] = scores(task, found, ranked=ranked)
        folder = epath.Path(output_dir)
        text = json.dumps(results[task.name], indent=2) + "\n"
        reporting.write_text(folder / f"{task.name}-ensemble.json", text)
        lines = "".join(f"{json.dumps(line)}\n" for line in _lines(task, found))
        reporting.write_text(folder / f"{task.name}-ensemble.jsonl", lines)
        _tell(task.name, results[task.name])
    return results


def scores(
    task: evaluation_task.EvaluationTask, found: Answers, *, ranked: bool
) -> dict[str, dict[str, float]]:
    """Metrics of each prompt, their mean, deviation and best (by the first metric), and of all.

    Raises ValueError where the task has no metrics of this split.
    """

    def metrics(texts, of_targets) -> dict[str, float]:
        return evaluator.numbers(task.metrics(texts, of_targets if task.needs_scores else None))

    singles = [
        metrics([answer.text for answer in own], [answer.target_score for answer in own])
        for own in zip(*found, strict=True)
    ]
    of_targets = None
    if task.needs_scores:
        of_targets = [statistics.mean(a.target_score for a in own) for own in found]
    if not singles[0]:
        raise ValueError(
            f"{task.name} has no metrics, by which prompts are compared; expected a task with "
            "metrics and a SPLIT with targets. Set MIXTURE_OR_TASK_NAME or SPLIT to such."
        )
    first = next(iter(singles[0]))
    results = {f"prompt {number}": single for number, single in enumerate(singles)}
    results["average"] = {key: statistics.mean(s[key] for s in singles) for key in singles[0]}
    results["deviation"] = {key: statistics.stdev(s[key] for s in singles) for key in singles[0]}
    results["best"] = max(singles, key=lambda single: single[first])
    results["majority vote"] = metrics([majority(own) for own in found], of_targets)
    if ranked:
        results["mean log-likelihood"] = metrics([likeliest(own) for own in found], of_targets)
    return results


def _lines(task: evaluation_task.EvaluationTask, found: Answers) -> list[dict[str, object]]:
    return [
        {
            "input": task.text(example, "inputs"),
            "target": task.text(example, "targets"),
            "predictions": [answer.text for answer in own],
            "prediction": majority(own),
        }
        for example, own in zip(task.examples, found, strict=True)
    ]


def _tell(name: str, results: Mapping[str, Mapping[str, float]]) -> None:
    keys = list(results["average"])
    rows = [[which, *(f"{values[key]:.2f}" for key in keys)] for which, values in results.items()]
    print(reporting.table([[name, *keys], *rows]))
