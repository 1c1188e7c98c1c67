"""Greedy, beam and sampling decoders over one step function with a cache.

A decoder is called with (cache, step, encoder_ids [B, S], max_length L, rng):
`step(tokens [R], index, cache, encoder_ids [R, S]) -> (logits [R, V], cache)` for
any number R of rows. A cache is a list of {"self": …, "cross": …} whose arrays
have rows in front. Decoding starts from id 0; id 1 ends a sequence; what follows
is 0. Each stops as soon as every row has ended.
Letters: B batch, N decodes of a row, L length, V vocabulary.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_tuning import annotations, texts

PAD_ID, EOS_ID = 0, 1
NEVER = -1e7
NORMALIZATIONS = ("none", "length", "calibration")

Cache = list[dict]
Step = Callable[[Array, Array, Cache, Array], tuple[Array, Cache]]
Decodes = tuple[Int[Array, "B N L"], Float[Array, "B N"]]


@runtime_checkable
class Decoder(Protocol):
    """Decodes rows; best decode first."""

    def __call__(
        self, cache: Cache, step: Step, encoder_ids: Array, max_length: int, rng: Array | None
    ) -> Decodes: ...


class _SampleState(NamedTuple):
    index: Array
    tokens: Int[Array, "R L"]
    last: Int[Array, " R"]
    ended: Array
    scores: Float[Array, " R"]
    cache: Cache
    rng: Array


def _decode_rows(cache, step, encoder_ids, max_length, rng, choose) -> tuple[Array, Array]:
    """Extends each row by `choose(logits [R, V], rng) -> ids [R]` until all have ended."""
    rows = encoder_ids.shape[0]

    def unfinished(state: _SampleState):
        return (state.index < max_length) & ~jnp.all(state.ended)

    def extend(state: _SampleState) -> _SampleState:
        logits, cache = step(state.last, state.index, state.cache, encoder_ids)
        rng, key = jax.random.split(state.rng)
        ids = jnp.where(state.ended, PAD_ID, choose(logits, key)).astype(jnp.int32)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, None], axis=-1)[:, 0]
        return _SampleState(
            state.index + 1,
            state.tokens.at[:, state.index].set(ids),
            ids,
            state.ended | (ids == EOS_ID),
            state.scores + jnp.where(state.ended, 0.0, log_probs),
            cache,
            rng,
        )

    start = _SampleState(
        jnp.int32(0),
        jnp.full((rows, max_length), PAD_ID, jnp.int32),
        jnp.full(rows, PAD_ID, jnp.int32),
        jnp.zeros(rows, bool),
        jnp.zeros(rows, jnp.float32),
        cache,
        jax.random.key(0) if rng is None else rng,
    )
    end = jax.lax.while_loop(unfinished, extend, start)
    return end.tokens, end.scores


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The most probable token at each step. Scores are log probabilities."""

    def __call__(self, cache, step, encoder_ids, max_length, rng=None) -> Decodes:
        """See the module's docstring."""
        tokens, scores = _decode_rows(
            cache, step, encoder_ids, max_length, rng, lambda logits, _: jnp.argmax(logits, -1)
        )
        return tokens[:, None], scores[:, None]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draws tokens.

    Attributes:
      num_decodes: N, draws for each row; sorted by log probability.
      temperature: logits are divided by it.
      topk: draws among the k most probable; 0 for all.
      topp: draws among the fewest that hold this probability (nucleus); 0 for all.
    """

    num_decodes: annotations.PositiveInt = 1
    temperature: annotations.PositiveFloat = 1.0
    topk: annotations.NonNegativeInt = 0
    topp: annotations.Probability = 0.0

    def __post_init__(self):
        annotations.check_fields(self)
        if self.topk and self.topp:
            raise ValueError(
                f"topk={self.topk} and topp={self.topp} are both set; expected only one of them. "
                "Set the other to 0."
            )

    def __call__(self, cache, step, encoder_ids, max_length, rng=None) -> Decodes:
        """See the module's docstring."""
        if rng is None:
            raise ValueError(
                "sampling needs an rng, but rng is None; expected a key. Set RANDOM_SEED."
            )
        n = self.num_decodes
        tokens, scores = _decode_rows(
            _repeat(cache, n), step, _repeat(encoder_ids, n), max_length, rng, self._draw
        )
        tokens = tokens.reshape(-1, n, max_length)
        scores = scores.reshape(-1, n)
        order = jnp.argsort(-scores, axis=1)
        best_first = jnp.take_along_axis(tokens, order[..., None], axis=1)
        return best_first, jnp.take_along_axis(scores, order, axis=1)

    def _draw(self, logits: Float[Array, "R V"], rng: Array) -> Int[Array, " R"]:
        logits = logits / self.temperature
        if self.topk > logits.shape[-1]:
            raise ValueError(
                f"TOPK is {self.topk}; expected at most NUM_EMBEDDINGS={logits.shape[-1]}, or 0 "
                "for all tokens. Set TOPK to such a number."
            )
        if self.topk:
            kth = jax.lax.top_k(logits, self.topk)[0][:, -1:]
            logits = jnp.where(logits < kth, NEVER, logits)
        if self.topp:
            ordered = -jnp.sort(-logits, axis=-1)
            before = jnp.cumsum(jax.nn.softmax(ordered), axis=-1) - jax.nn.softmax(ordered)
            last = jnp.sum(before < self.topp, axis=-1, keepdims=True) - 1
            logits = jnp.where(logits < jnp.take_along_axis(ordered, last, -1), NEVER, logits)
        return jax.random.categorical(rng, logits)


class _Beams(NamedTuple):
    index: Array
    live: Int[Array, "B N L"]
    live_scores: Float[Array, "B N"]
    done: Int[Array, "B N L"]
    done_scores: Float[Array, "B N"]
    cache: Cache


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Keeps the N best beginnings.

    A finished sequence of length n (its end token counted) scores
    log p / ((5 + n) / 6)^alpha (Wu et al., 2016, equation 14), one without end
    token log p, as in T5X. It stops when no beginning can beat the worst of N
    finished ones. Where fewer than N finish within L, the best unfinished
    sequences fill the rest; T5X does so only where none finishes.

    Attributes:
      num_decodes: N.
      alpha: strength of the length penalty; 0 for none.
    """

    num_decodes: annotations.PositiveInt = 4
    # The search stops by the penalty of the longest sequence, which must be the largest.
    alpha: annotations.NonNegativeFloat = 0.6

    def __post_init__(self):
        annotations.check_fields(self)

    def __call__(self, cache, step, encoder_ids, max_length, rng=None) -> Decodes:
        """See the module's docstring."""
        n, batch = self.num_decodes, encoder_ids.shape[0]
        rows_encoder_ids = _repeat(encoder_ids, n)
        first_scores = jnp.where(jnp.arange(n) == 0, 0.0, NEVER)[None]
        start = _Beams(
            jnp.int32(0),
            jnp.zeros((batch, n, max_length), jnp.int32),
            jnp.broadcast_to(first_scores, (batch, n)).astype(jnp.float32),
            jnp.zeros((batch, n, max_length), jnp.int32),
            jnp.full((batch, n), NEVER, jnp.float32),
            _repeat(cache, n),
        )
        end = jax.lax.while_loop(
            lambda beams: self._can_improve(beams, max_length),
            lambda beams: self._extend(beams, step, rows_encoder_ids),
            start,
        )
        # Unfinished ones come after every finished one, empty places last of all.
        done_rank = jnp.where(end.done_scores > NEVER / 2, end.done_scores, 3 * NEVER)
        _, order = jax.lax.top_k(jnp.concatenate([done_rank, end.live_scores + NEVER], 1), n)
        scores = jnp.concatenate([end.done_scores, end.live_scores], 1)
        tokens = _pick(jnp.concatenate([end.done, end.live], 1), order)
        return tokens, jnp.take_along_axis(scores, order, axis=1)

    def _penalty(self, length: Array | int) -> Array:
        return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** self.alpha

    def _can_improve(self, beams: _Beams, max_length: int) -> Array:
        # A log probability only falls, and the penalty divides it by at most that of L.
        bound = beams.live_scores[:, 0] / self._penalty(max_length)
        return (beams.index < max_length) & jnp.any(bound > beams.done_scores[:, -1])

    def _extend(self, beams: _Beams, step: Step, encoder_ids: Array) -> _Beams:
        batch, n, _ = beams.live.shape
        previous = jnp.maximum(beams.index - 1, 0)
        last = jnp.where(beams.index == 0, PAD_ID, beams.live[:, :, previous])
        logits, cache = step(last.reshape(-1), beams.index, beams.cache, encoder_ids)
        log_probs = jax.nn.log_softmax(logits).reshape(batch, n, -1)
        vocab_size = log_probs.shape[-1]
        # 2N candidates hold N that do not end, however many end here.
        totals = (beams.live_scores[:, :, None] + log_probs).reshape(batch, -1)
        scores, flat = jax.lax.top_k(totals, 2 * n)
        parents, ids = flat // vocab_size, (flat % vocab_size).astype(jnp.int32)
        candidates = _pick(beams.live, parents).at[:, :, beams.index].set(ids)
        ends = ids == EOS_ID

        live_scores, order = jax.lax.top_k(jnp.where(ends, NEVER, scores), n)
        finished = jnp.where(ends, scores / self._penalty(beams.index + 1), NEVER)
        done_scores, done_order = jax.lax.top_k(
            jnp.concatenate([beams.done_scores, finished], axis=1), n
        )
        return _Beams(
            beams.index + 1,
            _pick(candidates, order),
            live_scores,
            _pick(jnp.concatenate([beams.done, candidates], axis=1), done_order),
            done_scores,
            _follow(cache, jnp.take_along_axis(parents, order, axis=1)),
        )


@dataclasses.dataclass(frozen=True)
class LabelRanking:
    """In place of a search: the label that is most probable, of a few that are given.

    For classification: `EncoderDecoderModel.rank_labels` scores all of them in one pass,
    and no answer is anything but a label.

    A label's score is log p(label | input), the sum over its tokens and its end token, changed
    by `normalization`:

    * "none": no change, as T5 ranks classes. A longer label has more factors below 1, so a
      short label wins where the model is not trained to write labels.
    * "length": divided by the number of tokens, the end token among them: the mean
      log-likelihood per token.
    * "calibration": minus log p(label | input without content), with the same prompt: the
      pointwise mutual information of label and input. It also removes a preference for frequent
      words. The input without content is INPUT_TEMPLATE with empty fields where files are read,
      else the empty text. (Holtzman et al., 2021, "Surface Form Competition", domain-conditional
      PMI; Zhao et al., 2021, "Calibrate Before Use", divide by the same probability.)

    Attributes:
      labels: texts to choose from.
      normalization: one of NORMALIZATIONS.
    """

    labels: tuple[str, ...]
    normalization: str = "none"

    def __post_init__(self):
        labels = texts.to_strings("labels", self.labels)
        if len(set(labels)) != len(labels) or len(labels) < 2:
            raise ValueError(
                f"labels={labels!r}; expected two or more different texts. Add labels, or remove "
                "duplicates."
            )
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(
                f"LABEL_NORMALIZATION (normalization of LabelRanking) is {self.normalization!r}; "
                f"expected one of {', '.join(NORMALIZATIONS)}. Set it to one of them."
            )
        object.__setattr__(self, "labels", tuple(labels))


def _repeat(tree, times: int):
    return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), tree)


def _pick(x: Array, order: Int[Array, "B N"]) -> Array:
    return jnp.take_along_axis(x, order[..., None], axis=1)


def _follow(cache: Cache, parents: Int[Array, "B N"]) -> Cache:
    """Rows of the parents; the encoder's part is the same for all beams of a row."""
    batch, n = parents.shape
    rows = (jnp.arange(batch)[:, None] * n + parents).reshape(-1)
    return [{**layer, "self": jax.tree.map(lambda x: x[rows], layer["self"])} for layer in cache]
