"""tf.data transformations: pre-training objectives on running text."""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf


def concatenate_and_chunk(dataset: tf.data.Dataset, length: int, eos_id: int) -> tf.data.Dataset:
    """Joins all documents, EOS after each, and cuts them to chunks of `length` tokens.

    Args:
      dataset: of {"targets": int32[N]} documents.
      length: of a chunk; what is left at the very end is dropped.
      eos_id: the token between documents.
    """

    def cut(rest, documents):
        ended = tf.concat([documents, tf.fill([documents.nrows(), 1], eos_id)], axis=1)
        tokens = tf.concat([rest, ended.flat_values], axis=0)
        end = tf.size(tokens) // length * length
        return tokens[end:], {"targets": tf.reshape(tokens[:end], [-1, length])}

    # Several documents at once, for speed: they may be single sentences.
    documents = dataset.map(lambda example: example["targets"]).ragged_batch(64)
    return documents.scan(tf.zeros([0], tf.int32), cut).unbatch()


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    output_features: Mapping[str, seqio.Feature],
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
) -> tf.data.Dataset:
    """T5's objective (Raffel et al., 2020, section 3.1.4) on running text.

    Each noise span becomes one sentinel in the inputs; the targets are each sentinel
    followed by its span. (The paper's figure ends them with one more sentinel, T5's
    own data do not: 568 tokens give 512 and 114.) Sentinel i is the i-th id from the
    vocabulary's end. Chunks are as long as `sequence_length` lets them be; EOS is to be
    appended later.

    Args:
      dataset: of {"targets": int32[N]} documents.
      sequence_length: of inputs and targets, with sentinels and EOS.
      output_features: their vocabulary has the sentinels, or is ByT5's.
      noise_density: share of tokens to be predicted.
      mean_span_length: of noise spans, in tokens.
    """
    count = functools.partial(noise_counts, noise_density, mean_span_length)
    length = _longest_chunk(count, sequence_length)
    noise, spans = count(length)
    vocabulary = output_features["targets"].vocabulary
    check_sentinels(vocabulary, spans, length)
    chunks = concatenate_and_chunk(dataset, length, vocabulary.eos_id)
    return _corrupt(chunks, noise, spans, sentinels_end(vocabulary))


def sentinels_end(vocabulary: seqio.Vocabulary) -> int:
    """The id behind that of <extra_id_0>: the vocabulary's end, unless added tokens follow."""
    return getattr(vocabulary, "sentinels_end", vocabulary.vocab_size)


def check_sentinels(vocabulary: seqio.Vocabulary, spans: int, length: int) -> None:
    """Raises ValueError where a vocabulary has no sentinels for the spans of so many tokens."""
    if not _has_sentinels(vocabulary, spans):
        raise ValueError(
            f"the vocabulary does not end with the sentinels <extra_id_0> to <extra_id_{spans - 1}>, which "
            f"span corruption of {length} tokens requires. Set EXTRA_IDS = {spans} or more, or reduce "
            "TASK_FEATURE_LENGTHS."
        )


def _has_sentinels(vocabulary: seqio.Vocabulary, spans: int) -> bool:
    if isinstance(vocabulary, seqio.ByteVocabulary) or getattr(vocabulary, "is_of_bytes", False):
        # ByT5 takes its last 100 bytes (Xue et al., 2022, section 3.1).
        return spans <= max(100, vocabulary.extra_ids)
    last = vocabulary.decode([sentinels_end(vocabulary) - spans]).strip()
    return last == f"<extra_id_{spans - 1}>"


def noise_counts(density: float, mean_span_length: float, length: int) -> tuple[int, int]:
    """(noise tokens, noise spans) of 2 or more tokens; spans of either kind have at least one."""
    noise = min(max(round(length * density), 1), length - 1)
    return noise, min(max(round(noise / mean_span_length), 1), length - noise)


def _longest_chunk(count, sequence_length: Mapping[str, int]) -> int:
    """The longest chunk that fits after corruption."""

    def fits(length):
        noise, spans = count(length)
        inputs, targets = length - noise + spans + 1, noise + spans + 1
        return inputs <= sequence_length["inputs"] and targets <= sequence_length["targets"]

    if not fits(2):
        raise ValueError(
            f"TASK_FEATURE_LENGTHS is {dict(sequence_length)}, too short for a corrupted span; expected at "
            "least {'inputs': 3, 'targets': 3}. Set larger lengths."
        )
    length = 2
    while fits(length + 1):
        length += 1
    return length


@seqio.map_over_dataset(num_seeds=2)
def _corrupt(example, noise: int, spans: int, sentinels_end: int, seeds=None):
    inputs, targets = mask_spans(example["targets"], noise, spans, sentinels_end, seeds)
    return {"inputs": inputs, "targets": targets}


def mask_spans(
    tokens: tf.Tensor, noise: int, spans: int, sentinels_end: int, seeds
) -> tuple[tf.Tensor, tf.Tensor]:
    """Tokens with sentinels in place of random spans; and each sentinel followed by its span.

    Args:
      tokens: int32[N].
      noise: tokens that are in spans.
      spans: their number, at most that of the tokens outside.
      sentinels_end: the id behind that of the first sentinel.
      seeds: two for tf.random.stateless_….
    """
    kept_lengths = _random_partition(tf.size(tokens) - noise, spans, seeds[0])
    noise_lengths = _random_partition(noise, spans, seeds[1])
    lengths = tf.reshape(tf.stack([kept_lengths, noise_lengths], axis=1), [-1])
    is_noise = tf.repeat(tf.tile([False, True], [spans]), lengths)
    starts = tf.concat([[False], is_noise[1:] & ~is_noise[:-1]], axis=0)
    sentinels = sentinels_end - 1 - tf.range(spans, dtype=tf.int32)
    spans_of_noise = tf.RaggedTensor.from_row_lengths(tokens[is_noise], noise_lengths)
    answers = tf.concat([sentinels[:, tf.newaxis], spans_of_noise], axis=1).flat_values
    marked = tf.tensor_scatter_nd_update(tokens, tf.where(starts), sentinels)
    return marked[~is_noise | starts], answers


def _random_partition(total: int, parts: int, seed: tf.Tensor) -> tf.Tensor:
    """int32[parts] positive lengths that sum to `total`, each way equally likely."""
    gaps = tf.random.experimental.stateless_shuffle(tf.range(1, total), seed)
    edges = tf.concat([[0], tf.sort(gaps[: parts - 1]), [total]], axis=0)
    return edges[1:] - edges[:-1]


def prefix_lm(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
    """Running text cut in two at random: go on from the inputs with the targets.

    A chunk is as long as the longer of inputs and targets, less their EOS, which is to be
    appended later. The cut is uniform over the places where both sides fit.

    Args:
      dataset: of {"targets": int32[N]} documents.
      sequence_length: of inputs and targets, with EOS.
      output_features: their vocabulary says which id is EOS.
    """
    inputs, targets = (sequence_length[name] - 1 for name in ("inputs", "targets"))
    length = max(inputs, targets)
    if min(inputs, targets) < 1 or length < 2:
        raise ValueError(
            f"TASK_FEATURE_LENGTHS is {dict(sequence_length)}, too short for a prefix and a target; "
            "expected at least {'inputs': 3, 'targets': 2}. Set larger lengths."
        )
    eos_id = output_features["targets"].vocabulary.eos_id
    chunks = concatenate_and_chunk(dataset, length, eos_id)
    return _split(chunks, max(1, length - targets), min(length - 1, inputs))


@seqio.map_over_dataset(num_seeds=1)
def _split(example, first: int, last: int, seed=None):
    place = tf.random.stateless_uniform([], seed, first, last + 1, tf.int32)
    return {"inputs": example["targets"][:place], "targets": example["targets"][place:]}
