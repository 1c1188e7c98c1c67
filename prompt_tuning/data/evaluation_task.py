"""The examples of a task that are answered: as batches, as text, as metrics."""

import collections
import dataclasses
import functools
import logging
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from prompt_tuning.data import vocabularies
from prompt_tuning.data.batches import batching, soft_tokens
from prompt_tuning.data.files import records
from prompt_tuning.data.text import labels, postprocessors

# Batches whose examples are sorted by length; answers are in order again after each window.
WINDOW = 32
# Of more examples, lengths and labels are those of a sample.
SAMPLED = 20_000
# The key of inputs without content in a batch; see EvaluationTask.
NEUTRAL = "neutral_input_tokens"


class Window(NamedTuple):
    """Consecutive examples of a task.

    Attributes:
      start: the first one's number.
      examples: as the task has them.
      batches: of them, the shortest first: which of `examples`, and their batch.
    """

    start: int
    examples: Sequence[Mapping[str, Any]]
    batches: Iterator[tuple[Int[np.ndarray, " n"], batching.Batch]]


class FileMetrics(NamedTuple):
    """What of a seqio task makes metrics, for the examples of a file.

    Attributes:
      postprocess_fn: of the text of a target or prediction; see seqio.
      predict_metric_fns: of targets and predictions.
      predict_with_aux_metric_fns: of these and more values.
      score_metric_fns: of targets and their log-likelihood.
    """

    postprocess_fn: Callable[..., Any]
    predict_metric_fns: Sequence[Callable[..., Any]]
    predict_with_aux_metric_fns: Sequence[Callable[..., Any]] = ()
    score_metric_fns: Sequence[Callable[..., Any]] = ()


@dataclasses.dataclass
class EvaluationTask:
    """The examples of one task, and what turns answers into metrics.

    Attributes:
      name: of the task.
      examples: in order: {"inputs", "targets"} ids, and the task's other features.
      lengths: tokens kept of an example.
      task: the seqio task, or FileMetrics; None where nothing wants metrics.
      vocabulary: the model's.
      labels: {prompt: labels} that are known from elsewhere than the targets, such as from the
        card of a prompt; None names any other prompt.
      neutral_text: the input without content, by which label scores are calibrated: its tokens
        are in each batch, as NEUTRAL. None for no such.
    """

    name: str
    examples: Sequence[Mapping[str, Any]]
    lengths: batching.MaxLengths
    task: Any
    vocabulary: vocabularies.Vocabulary
    labels: Mapping[str | None, Sequence[str]] = dataclasses.field(default_factory=dict)
    neutral_text: str | None = None

    def batches(
        self, batch_size: int, soft: soft_tokens.SoftTokens
    ) -> Iterator[tuple[Int[np.ndarray, " n"], batching.Batch]]:
        """All examples once, those of like length together: (which, their batch of few shapes).

        Row i of a batch is the example `which[i]`; rows beyond are empty. Each WINDOW of
        batches in turn has the next examples of the task, the shortest first.
        """
        for window in self.windows(batch_size, soft):
            for which, batch in window.batches:
                yield window.start + which, batch

    def windows(
        self, batch_size: int, soft: soft_tokens.SoftTokens, start: int = 0
    ) -> Iterator["Window"]:
        """The same, window by window from example `start`; one window is in memory at a time.

        What is in a batch, and its shape, do not depend on `start`.
        """
        max_lengths = self.lengths.inputs + len(soft), self.lengths.targets
        rows = WINDOW * batch_size
        some = records.sample(self.examples, SAMPLED)
        sizes = np.array([len(self._prepare(e, soft)["inputs"]) for e in some])
        windows = (sizes[i : i + rows] for i in range(0, len(sizes), rows))
        longest = [w[which].max() for w in windows for which in _groups(w, batch_size)]
        buckets = batching.Bucketing.choose(np.array(longest), max_lengths)
        for first in range(start, len(self.examples), rows):
            examples = list(self.examples[first : first + rows])
            yield Window(first, examples, self._window_batches(examples, batch_size, soft, buckets))

    def _window_batches(
        self,
        examples: Sequence[Mapping[str, Any]],
        batch_size: int,
        soft: soft_tokens.SoftTokens,
        buckets: batching.Bucketing,
    ) -> Iterator[tuple[Int[np.ndarray, " n"], batching.Batch]]:
        prepared = [self._prepare(example, soft) for example in examples]
        for which in _groups(np.array([len(e["inputs"]) for e in prepared]), batch_size):
            batch = buckets.pad([prepared[i] for i in which], batch_size)
            if self.neutral_text is not None:
                batch[NEUTRAL] = self._neutral_inputs(
                    [examples[i] for i in which], batch_size, soft
                )
            yield which, batch

    def _prepare(
        self, example: Mapping[str, Any], soft: soft_tokens.SoftTokens
    ) -> batching.Example:
        return soft.insert(self.lengths.trim(example))

    def _neutral_inputs(
        self, examples: Sequence[Mapping[str, Any]], rows: int, soft: soft_tokens.SoftTokens
    ) -> Int[np.ndarray, "#B S"]:
        """`neutral_text` with the soft tokens of each example; one row where they are all equal."""
        ids = np.stack([self._neutral_input(example, soft) for example in examples])
        if (ids == ids[0]).all():
            return ids[:1]
        return np.pad(ids, ((0, rows - len(ids)), (0, 0)))

    def _neutral_input(
        self, example: Mapping[str, Any], soft: soft_tokens.SoftTokens
    ) -> Int[np.ndarray, " S"]:
        ids = np.array([*self.vocabulary.encode(self.neutral_text or ""), vocabularies.EOS_ID])
        if soft.num_tasks and ids[0] != example["inputs"][0]:
            ids = np.insert(ids, 0, example["inputs"][0])  # the sentinel of its task
        return self._prepare({**example, "inputs": ids}, soft)["inputs"]

    @property
    def needs_scores(self) -> bool:
        """Whether a metric wants the log-likelihood of the targets."""
        return bool(self.task.score_metric_fns)

    @property
    def needs_answers(self) -> bool:
        """Whether anything wants answers: a metric does, or none wants scores alone."""
        task = self.task
        wants = task.predict_metric_fns or task.predict_with_aux_metric_fns
        return bool(wants) or not task.score_metric_fns

    def text(self, example: Mapping[str, Any], feature: str) -> str:
        """A feature's text before tokenization, or of its ids where that is not kept."""
        value = example.get(f"{feature}_pretokenized")
        if value is None:
            return self.vocabulary.decode(example[feature])
        return value.decode() if isinstance(value, bytes) else str(value)

    def detokenize(self, ids: Int[np.ndarray, " L"], prompt: str | bytes | None = None) -> str:
        """The text of a decode; what the vocabulary writes for a label is that label.

        Args:
          ids: of the decode.
          prompt: the name of the example's prompt, where there are several.
        """
        text = self.vocabulary.decode(ids)
        names = self._labels_of_prompts
        prompt = prompt.decode() if isinstance(prompt, bytes) else prompt
        return names.get(prompt, names[None]).get(text, text)

    @functools.cached_property
    def target_labels(self) -> dict[str, int]:
        """{label: examples} of the targets, of a sample of many; {} where they are free text."""
        return labels.find_labels(self._sampled_targets)

    @functools.cached_property
    def _sampled_targets(self) -> list[str]:
        return [self.text(e, "targets") for e in records.sample(self.examples, SAMPLED)]

    def warn_of_unlisted_labels(
        self, listed: Iterable[str], setting: str, consequence: str
    ) -> None:
        """Logs the targets that are not among `listed`, the labels of a setting.

        Labels that the vocabulary writes alike are equal. Nothing where `listed` is empty. Few examples
        of many labels may look like free text, so all targets are compared.
        """
        names = labels.written_labels(listed, self.vocabulary)
        unlisted = [
            f"{label!r} ({count} examples)"
            for label, count in labels.count_targets(self._sampled_targets).items()
            if labels.write(label, self.vocabulary) not in names
        ]
        if names and unlisted:
            logging.warning(
                "%s has labels that are not in %s, so %s: %s. Add them to %s, or correct the targets.",
                self.name, setting, consequence, labels.join_labels(unlisted, show=str), setting,
            )  # fmt: skip

    @functools.cached_property
    def _labels_of_prompts(self) -> dict[str | None, dict[str, str]]:
        """{prompt: {text that the vocabulary writes: label}}; None for any other prompt."""
        written = {label: labels.write(label, self.vocabulary) for label in self.target_labels}
        counts = collections.Counter(written.values())
        # What several labels are written as is none of them.
        distinct = [label for label, text in written.items() if counts[text] == 1]
        names = {
            prompt: labels.written_labels([*distinct, *some], self.vocabulary)
            for prompt, some in {None: (), **self.labels}.items()
        }
        changed = {pair for each in names.values() for pair in each.items() if pair[0] != pair[1]}
        if different := sorted(f"{label!r} as {text!r}" for text, label in changed):
            logging.info(
                "%s: the vocabulary cannot represent some labels exactly; predictions are mapped back to "
                "the labels: %s", self.name, labels.join_labels(different, show=str),
            )  # fmt: skip
        return names

    def metrics(
        self,
        texts: Sequence[str],
        scores: Sequence[float] | None,
        aux_values: Mapping[str, Sequence[Any]] | None = None,
    ) -> dict[str, float | str]:
        """The task's metrics of the answers to its examples; a sample of answers is text.

        Nothing where no example has a known answer, as in GLUE's test splits.

        Args:
          texts: the answers.
          scores: log-likelihood of the targets, where a metric wants it.
          aux_values: what else is known of each answer, e.g. {"scores": their log-likelihood}.
        """
        postprocess = self.task.postprocess_fn
        wanted = [self.text(example, "targets") for example in self.examples]
        targets = [
            postprocess(text, example=e, is_target=True)
            for text, e in zip(wanted, self.examples, strict=True)
        ]
        if all(map(_is_unknown, wanted, targets)):
            logging.warning(
                "%s: no metrics, because the targets of this split are unknown. Set SPLIT to a split with "
                "targets, such as 'validation'.", self.name,
            )  # fmt: skip
            return {}
        predictions = [
            postprocess(text, example=e, is_target=False)
            for text, e in zip(texts, self.examples, strict=True)
        ]
        values: dict[str, Any] = {}
        for metric in self.task.predict_metric_fns:
            values |= metric(targets, predictions)
        for metric in self.task.predict_with_aux_metric_fns:
            values |= metric(targets, predictions, aux_values or {})
        for metric in self.task.score_metric_fns:
            values |= metric(targets, scores)
        plain = {name: _plain(value) for name, value in values.items()}
        if others := [name for name, value in plain.items() if value is None]:
            logging.warning(
                "%s: metrics that are neither numbers nor text are not reported: %s",
                self.name, ", ".join(others),
            )  # fmt: skip
        return {name: value for name, value in plain.items() if value is not None}


def _groups(sizes: Int[np.ndarray, " n"], batch_size: int) -> list[Int[np.ndarray, " B"]]:
    """Which examples of a window make its batches."""
    order = np.argsort(sizes, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _is_unknown(text: str, value: Any) -> bool:
    """Whether a target is none: by its text or, of numbers and referents, by what it is made."""
    is_number = isinstance(value, numbers.Number)
    return text == postprocessors.UNKNOWN or (is_number and value == postprocessors.INVALID)


def _plain(value: Any) -> float | str | None:
    """The number or text that a metric's value is or holds; None for an image or its like."""
    value = getattr(value, "textdata", getattr(value, "value", value))
    if isinstance(value, str):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
