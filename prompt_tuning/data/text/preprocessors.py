"""Pre-training objectives as tf.data transformations of tokenized documents.

`span_corruption` and `prefix_lm` concatenate documents, with EOS after each. The other objectives
keep documents apart. EOS is appended later. All take these arguments:

* dataset: {"targets": int32[N]} documents.
* sequence_length: maximum lengths of inputs and targets, including EOS.
* output_features: features whose vocabulary has EOS and sentinels, or is ByT5's.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

# Longer documents are cut into segments of this many tokens; one of them is drawn.
LONGEST_DOCUMENT = 65_536


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    output_features: Mapping[str, seqio.Feature],
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
) -> tf.data.Dataset:
    """Masks spans of concatenated documents (Raffel et al., 2020, section 3.1.4).

    Each noise span becomes one sentinel in the inputs; the targets are each sentinel followed by
    its span. As in T5's data, but not in the paper's figure, no sentinel ends the targets: 568
    tokens give 512 and 114. Chunks are as long as `sequence_length` allows.

    Args:
      noise_density: fraction of tokens to mask.
      mean_span_length: mean length of noise spans, in tokens.
    """
    count = functools.partial(_noise_counts, noise_density, mean_span_length)
    length = _longest_chunk(count, sequence_length)
    vocabulary = output_features["targets"].vocabulary
    chunks = concatenate_and_chunk(dataset, length, vocabulary.eos_id)
    return _mask(chunks, _noise_table(count, length, vocabulary), sentinels_end(vocabulary), False)


def text_infilling(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    output_features: Mapping[str, seqio.Feature],
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
) -> tf.data.Dataset:
    """Masks spans of each document; the targets are the complete text (BART, Lewis et al., 2019).

    The inputs have one sentinel per span, as in `span_corruption`; BART has a single mask token.

    Args:
      noise_density: fraction of tokens to mask.
      mean_span_length: mean length of noise spans, in tokens.
    """
    count = functools.partial(_noise_counts, noise_density, mean_span_length)
    vocabulary, length = output_features["targets"].vocabulary, _max_length(sequence_length)
    table = _noise_table(count, length, vocabulary)
    segments = _without_single_tokens(_split_documents(dataset, length))
    return _mask(segments, table, sentinels_end(vocabulary), True)


def token_deletion(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    noise_density: float = 0.15,
) -> tf.data.Dataset:
    """Deletes random tokens of each document; the targets are the complete text (BART).

    Args:
      noise_density: probability that a token is deleted.
    """
    return _delete(_split_documents(dataset, _max_length(sequence_length)), noise_density)


def prefix_lm(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
    """Splits concatenated documents at a random position into inputs and targets.

    A chunk is as long as the longer of inputs and targets, without EOS. The position is uniform
    over those where both parts fit.
    """
    inputs, targets = (sequence_length[name] - 1 for name in ("inputs", "targets"))
    length = max(inputs, targets)
    if min(inputs, targets) < 1 or length < 2:
        raise _too_short(sequence_length, "a prefix and a target", {"inputs": 3, "targets": 2})
    eos_id = output_features["targets"].vocabulary.eos_id
    chunks = concatenate_and_chunk(dataset, length, eos_id)
    return _split(chunks, max(1, length - targets), inputs)


def document_prefix_lm(
    dataset: tf.data.Dataset, sequence_length: Mapping[str, int]
) -> tf.data.Dataset:
    """Splits each segment of a document at a uniform position into inputs and targets.

    Segments are as long as the inputs may be, so targets can exceed TASK_FEATURE_LENGTHS; they are
    truncated when EOS is appended, as in t5.
    """
    length = _max_length({**sequence_length, "targets": sequence_length["inputs"]})
    return _split(_without_single_tokens(_split_documents(dataset, length)), 1, length)


def random_targets(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    targets: Sequence[str],
) -> tf.data.Dataset:
    """Replaces the targets by a text drawn uniformly from `targets`, whatever the inputs are."""
    vocabulary = output_features["targets"].vocabulary
    texts = tf.ragged.constant([vocabulary.encode(text) for text in targets], tf.int32)
    return _choose(dataset, texts)


def concatenate_and_chunk(dataset: tf.data.Dataset, length: int, eos_id: int) -> tf.data.Dataset:
    """Concatenates documents, with EOS after each, and cuts them into chunks.

    Args:
      dataset: {"targets": int32[N]} documents.
      length: tokens of a chunk; an incomplete chunk at the end is dropped.
      eos_id: token after each document.
    """

    def cut(rest, documents):
        ended = tf.concat([documents, tf.fill([documents.nrows(), 1], eos_id)], axis=1)
        tokens = tf.concat([rest, ended.flat_values], axis=0)
        end = tf.size(tokens) // length * length
        return tokens[end:], {"targets": tf.reshape(tokens[:end], [-1, length])}

    # Several documents at once, for speed: a document may be a single sentence.
    documents = dataset.map(lambda example: example["targets"]).ragged_batch(64)
    return documents.scan(tf.zeros([0], tf.int32), cut).unbatch()


def _split_documents(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
    """Splits each document into segments of `length` tokens; its last one may be shorter."""

    def split(example):
        tokens = example["targets"]
        starts = tf.range(0, tf.size(tokens), length)
        lengths = tf.minimum(length, tf.size(tokens) - starts)
        segments = tf.RaggedTensor.from_row_lengths(tokens, lengths)
        return tf.data.Dataset.from_tensor_slices({"targets": segments})

    return _draw_part(dataset).flat_map(split)


@seqio.map_over_dataset(num_seeds=1)
def _draw_part(example, seed=None):
    tokens = example["targets"]
    count = -(-tf.size(tokens) // LONGEST_DOCUMENT)
    part = tf.random.stateless_uniform([], seed, 0, tf.maximum(count, 1), tf.int32)
    return {"targets": tokens[part * LONGEST_DOCUMENT :][:LONGEST_DOCUMENT]}


def _without_single_tokens(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Drops segments that can be neither masked nor split."""
    return dataset.filter(lambda example: tf.size(example["targets"]) > 1)


def _max_length(sequence_length: Mapping[str, int]) -> int:
    """Returns the number of tokens, without EOS, that fit both inputs and targets."""
    max_length = min(sequence_length["inputs"], sequence_length["targets"]) - 1
    if max_length < 2:
        raise _too_short(sequence_length, "a text", {"inputs": 3, "targets": 3})
    return max_length


def _longest_chunk(count: Callable, sequence_length: Mapping[str, int]) -> int:
    """Returns the length of the longest chunk that fits after span corruption."""

    def fits(length):
        noise, spans = count(length)
        inputs, targets = length - noise + spans + 1, noise + spans + 1
        return inputs <= sequence_length["inputs"] and targets <= sequence_length["targets"]

    length = 2
    if not fits(length):
        raise _too_short(sequence_length, "a corrupted span", {"inputs": 3, "targets": 3})
    while fits(length + 1):
        length += 1
    return length


def _too_short(sequence_length: Mapping[str, int], text: str, minimum: Mapping) -> ValueError:
    return ValueError(
        f"TASK_FEATURE_LENGTHS is {dict(sequence_length)}, too short for {text}; expected at least "
        f"{minimum}. Set larger lengths."
    )


def _noise_counts(density: float, mean_span_length: float, length: int) -> tuple[int, int]:
    """Returns (noise tokens, noise spans) of `length` >= 2 tokens; both parts are non-empty."""
    noise = min(max(round(length * density), 1), length - 1)
    return noise, min(max(round(noise / mean_span_length), 1), length - noise)


def _noise_table(count: Callable, max_length: int, vocabulary: seqio.Vocabulary) -> tf.Tensor:
    """Returns int32[max_length + 1, 2]: noise tokens and spans by length.

    Raises ValueError if the vocabulary has fewer sentinels than spans.
    """
    counts = [(0, 0), (0, 0), *map(count, range(2, max_length + 1))]
    check_sentinels(vocabulary, max(spans for _, spans in counts), max_length)
    return tf.constant(counts, tf.int32)


def sentinels_end(vocabulary: seqio.Vocabulary) -> int:
    """Returns the id after <extra_id_0>: the vocabulary size, unless added tokens follow."""
    return getattr(vocabulary, "sentinels_end", vocabulary.vocab_size)


def check_sentinels(vocabulary: seqio.Vocabulary, spans: int, length: int) -> None:
    """Raises ValueError if the vocabulary has fewer sentinels than `length` tokens have spans."""
    if isinstance(vocabulary, seqio.ByteVocabulary) or getattr(vocabulary, "is_of_bytes", False):
        # ByT5 uses its last 100 bytes (Xue et al., 2022, section 3.1).
        has_sentinels = spans <= max(100, vocabulary.extra_ids)
    else:
        last = vocabulary.decode([sentinels_end(vocabulary) - spans]).strip()
        has_sentinels = last == f"<extra_id_{spans - 1}>"
    if not has_sentinels:
        raise ValueError(
            f"the vocabulary does not end with the sentinels <extra_id_0> to <extra_id_{spans - 1}>, "
            f"which span corruption of {length} tokens requires. Set EXTRA_IDS = {spans} or more, or "
            "reduce TASK_FEATURE_LENGTHS."
        )


@seqio.map_over_dataset(num_seeds=2)
def _mask(example, noise_table: tf.Tensor, sentinels_end: int, keeps_targets: bool, seeds=None):
    """Replaces random spans by sentinels; the targets are the spans or, if kept, all tokens."""
    tokens = example["targets"]
    noise, spans = tf.unstack(noise_table[tf.size(tokens)])
    kept_lengths = _random_partition(tf.size(tokens) - noise, spans, seeds[0])
    noise_lengths = _random_partition(noise, spans, seeds[1])
    lengths = tf.reshape(tf.stack([kept_lengths, noise_lengths], axis=1), [-1])
    is_noise = tf.repeat(tf.tile([False, True], [spans]), lengths)
    starts = tf.concat([[False], is_noise[1:] & ~is_noise[:-1]], axis=0)
    sentinels = sentinels_end - 1 - tf.range(spans, dtype=tf.int32)
    noise_spans = tf.RaggedTensor.from_row_lengths(tokens[is_noise], noise_lengths)
    targets = tf.concat([sentinels[:, tf.newaxis], noise_spans], axis=1).flat_values
    marked = tf.tensor_scatter_nd_update(tokens, tf.where(starts), sentinels)
    return {"inputs": marked[~is_noise | starts], "targets": tokens if keeps_targets else targets}


def _random_partition(total: int, parts: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns int32[parts] positive lengths with the sum `total`, uniform over all partitions."""
    gaps = tf.random.experimental.stateless_shuffle(tf.range(1, total), seed)
    edges = tf.concat([[0], tf.sort(gaps[: parts - 1]), [total]], axis=0)
    return edges[1:] - edges[:-1]


@seqio.map_over_dataset(num_seeds=1)
def _delete(example, density: float, seed=None):
    tokens = example["targets"]
    is_kept = tf.random.stateless_uniform(tf.shape(tokens), seed) >= density
    return {"inputs": tokens[is_kept], "targets": tokens}


@seqio.map_over_dataset(num_seeds=1)
def _split(example, first: int, last: int, seed=None):
    """Splits at a position from `first` to `last` that leaves at least one target token."""
    tokens = example["targets"]
    end = tf.minimum(last + 1, tf.size(tokens))
    position = tf.random.stateless_uniform([], seed, first, end, tf.int32)
    return {"inputs": tokens[:position], "targets": tokens[position:]}


@seqio.map_over_dataset(num_seeds=1)
def _choose(example, texts: tf.RaggedTensor, seed=None):
    index = tf.random.stateless_uniform([], seed, 0, texts.nrows(tf.int32), tf.int32)
    return {**example, "targets": texts[index]}
