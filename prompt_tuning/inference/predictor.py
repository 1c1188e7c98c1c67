"""Predictions of a model with its adapter parameters for the examples of tasks."""

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from prompt_tuning.data import evaluation_task
from prompt_tuning.data.batches import batching
from prompt_tuning.data.text import labels
from prompt_tuning.distributed import partitioning
from prompt_tuning.models import decoding
from prompt_tuning.training import reporting, state


class Prediction(NamedTuple):
    """The prediction for one example.

    Attributes:
      texts: of the decodes, best first: beams, samples, or all labels of a LabelRanking.
      scores: of `texts`, by which the decoder ranks them: log-likelihoods, unless the decoder
        normalizes them.
      is_truncated: for each text, whether it reaches the maximum length without an end token.
      target_score: log-likelihood of the targets; None if not requested.
    """

    texts: Sequence[str] = ("",)
    scores: Sequence[float] = (0.0,)
    is_truncated: Sequence[bool] = (False,)
    target_score: float | None = None


class Predictor:
    """Decodes examples and scores their targets.

    Each process computes the rows of its devices, and receives all predictions.
    """

    def __init__(self, loaded: state.LoadedModel, seed: int = 0):
        """Compiles nothing yet. `seed` is for decoders that sample."""
        self.loaded, self._seed = loaded, seed
        model, everywhere = loaded.model, partitioning.replicated(loaded.mesh)
        self._decode = jax.jit(model.predict, static_argnums=2, out_shardings=everywhere)
        self._rank = jax.jit(model.rank_labels, out_shardings=everywhere)
        self._score = jax.jit(model.score, out_shardings=everywhere)
        self._loss = jax.jit(lambda *inputs: model.loss(*inputs)[1], out_shardings=everywhere)
        self._label_ids = None
        if isinstance(model.decoder, decoding.LabelRanking):
            self._label_ids = labels.label_ids(model.decoder.labels, loaded.vocabulary)

    def with_seed(self, seed: int) -> "Predictor":
        """Returns a predictor with another seed, which shares the compiled programs."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def with_params(self, params: state.Tree) -> "Predictor":
        """Returns a predictor with other parameters, which shares the compiled programs."""
        other = copy.copy(self)
        other.loaded = dataclasses.replace(self.loaded, params=params)
        return other

    def predict(
        self,
        task: evaluation_task.EvaluationTask,
        batch_size: int,
        *,
        num_decodes: int | None = None,
        scores_targets: bool = False,
    ) -> list[Prediction]:
        """Predicts all examples of a task, in their order; see `predict_batches`."""
        predictions = [Prediction()] * len(task.examples)
        settings = {"num_decodes": num_decodes, "scores_targets": scores_targets}
        for indices, _, batch in self.predict_batches(task, batch_size, **settings):
            for index, prediction in zip(indices, batch, strict=True):
                predictions[index] = prediction
        return predictions

    def predict_batches(
        self,
        task: evaluation_task.EvaluationTask,
        batch_size: int,
        *,
        num_decodes: int | None = None,
        scores_targets: bool = False,
        start: int = 0,
    ) -> Iterator[tuple[Int[np.ndarray, " n"], Sequence[Mapping[str, Any]], list[Prediction]]]:
        """Predicts the examples of a task, batch by batch.

        Args:
          task: with the examples to predict.
          batch_size: examples per batch.
          num_decodes: decodes to keep per example; None for all, 0 for no decoding.
          scores_targets: whether to score the targets.
          start: index of the first example, a multiple of WINDOW batches.

        Yields:
          Indices of examples, the examples, and their predictions, in the order of `task.windows`.
        """
        for window in task.windows(batch_size, self.loaded.soft_tokens, start):
            # The seed of a batch depends on its index.
            for index, (which, batch) in enumerate(window.batches, window.start // batch_size):
                examples = [window.examples[i] for i in which]
                predictions = [Prediction()] * len(examples)
                if num_decodes != 0:
                    decodes = self.decode_batch(batch, task.lengths.targets, index)
                    predictions = _detokenize(
                        task, examples, *(x[:, :num_decodes] for x in decodes)
                    )
                if scores_targets:
                    scored = zip(predictions, self.score_batch(batch).tolist(), strict=False)
                    predictions = [p._replace(target_score=score) for p, score in scored]
                yield window.start + which, examples, predictions

    def decode_batch(
        self, batch: batching.Batch, max_length: int, index: int = 0
    ) -> tuple[Int[np.ndarray, "B N L"], Float[np.ndarray, "B N"]]:
        """Returns tokens and scores of N decodes per row, best first.

        Args:
          batch: the rows.
          max_length: L; a LabelRanking returns N labels of any length.
          index: of the batch; changes the seed.
        """
        params, ids = self.loaded.params, batch["encoder_input_tokens"]
        rng = jax.random.fold_in(jax.random.key(self._seed), index)
        with partitioning.use(self.loaded.mesh):
            ids = partitioning.place_batch({"ids": ids}, self.loaded.mesh)["ids"]
            if self._label_ids is None:
                return jax.device_get(self._decode(params, ids, max_length, rng))
            neutral_ids = batch.get(evaluation_task.NEUTRAL)
            return jax.device_get(self._rank(params, ids, self._label_ids, neutral_ids))

    def score_batch(self, batch: batching.Batch) -> Float[np.ndarray, " B"]:
        """Returns the log-likelihood of the targets per row."""
        with partitioning.use(self.loaded.mesh):
            return jax.device_get(self._score(self.loaded.params, self._shard(batch)))

    def compute_losses(
        self, task: evaluation_task.EvaluationTask, batch_size: int, num_batches: int
    ) -> dict[str, float]:
        """Returns T5X's teacher-forced metrics over the first batches of a task."""
        batches = task.batches(batch_size, self.loaded.soft_tokens)
        with partitioning.use(self.loaded.mesh):
            sums = [
                self._loss(self.loaded.params, self._shard(batch))
                for _, batch in itertools.islice(batches, num_batches)
            ]
        return reporting.mean_losses(jax.device_get(sums))

    def _shard(self, batch: batching.Batch) -> dict[str, jax.Array]:
        rows = {name: ids for name, ids in batch.items() if name != evaluation_task.NEUTRAL}
        return partitioning.place_batch(rows, self.loaded.mesh)


def _detokenize(
    task: evaluation_task.EvaluationTask,
    examples: Sequence[Mapping[str, Any]],
    tokens: Int[np.ndarray, "B N L"],
    scores: Float[np.ndarray, "B N"],
) -> list[Prediction]:
    """Returns the predictions of the first rows, one per example."""
    is_truncated = ~np.any(tokens == decoding.EOS_ID, axis=-1)
    return [
        Prediction([task.detokenize(ids, example.get("prompt")) for ids in tokens[row]], *values)
        for row, (example, *values) in enumerate(
            zip(examples, scores.tolist(), is_truncated.tolist(), strict=False)
        )
    ]
