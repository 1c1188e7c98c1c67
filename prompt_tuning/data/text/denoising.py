"""Objectives on documents, each a text of its own: nothing is joined.

To restore the whole text, as BART does (Lewis et al., 2019), and to go on with it, as t5 adapts
models. EOS is to be appended later.
"""

import functools
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from prompt_tuning.data.text import preprocessors

# Of a longer document one part of so many tokens is taken.
LONGEST_DOCUMENT = 65_536


def token_deletion(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    noise_density: float = 0.15,
) -> tf.data.Dataset:
    """Inputs lack tokens at random; the targets are all tokens.

    Args:
      dataset: of {"targets": int32[N]} documents.
      sequence_length: of inputs and targets, with EOS.
      noise_density: the likelihood that a token is left out.
    """
    return _delete(_pieces(dataset, _max_length(sequence_length)), noise_density)


@seqio.map_over_dataset(num_seeds=1)
def _delete(example, density: float, seed=None):
    tokens = example["targets"]
    kept = tf.random.stateless_uniform(tf.shape(tokens), seed) >= density
    return {"inputs": tokens[kept], "targets": tokens}


def text_infilling(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int],
    output_features: Mapping[str, seqio.Feature],
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
) -> tf.data.Dataset:
    """Inputs have a sentinel in place of each span of noise; the targets are all tokens.

    BART has one mask for all spans; here each has a sentinel of its own, as in T5, so that
    inputs are those of `preprocessors.span_corruption`.

    Args:
      dataset: of {"targets": int32[N]} documents.
      sequence_length: of inputs and targets, with EOS.
      output_features: their vocabulary has the sentinels at its end.
      noise_density: share of the tokens that is noise.
      mean_span_length: of spans of noise, in tokens.
    """
    vocabulary, max_length = output_features["targets"].vocabulary, _max_length(sequence_length)
    count = functools.partial(preprocessors.noise_counts, noise_density, mean_span_length)
    counts = [(0, 0), (0, 0), *map(count, range(2, max_length + 1))]
    preprocessors.check_sentinels(vocabulary, max(spans for _, spans in counts), max_length)
    # A single token can have no noise beside it.
    pieces = _pieces(dataset, max_length).filter(lambda e: tf.size(e["targets"]) > 1)
    end = preprocessors.sentinels_end(vocabulary)
    return _infill(pieces, tf.constant(counts, tf.int32), end)


@seqio.map_over_dataset(num_seeds=2)
def _infill(example, counts: tf.Tensor, sentinels_end: int, seeds=None):
    """`counts` has noise tokens and spans by length."""
    tokens = example["targets"]
    noise, spans = tf.unstack(counts[tf.size(tokens)])
    inputs, _ = preprocessors.mask_spans(tokens, noise, spans, sentinels_end, seeds)
    return {"inputs": inputs, "targets": tokens}


def prefix_lm(dataset: tf.data.Dataset, sequence_length: Mapping[str, int]) -> tf.data.Dataset:
    """Each piece of a document is cut in two at random: go on from the inputs with the targets.

    Pieces are as long as inputs may be, and each place in one is equally likely. So targets
    may be longer than TASK_FEATURE_LENGTHS; they are trimmed with EOS, as in t5.

    Args:
      dataset: of {"targets": int32[N]} documents.
      sequence_length: of inputs and targets, with EOS.
    """
    max_length = _max_length({**sequence_length, "targets": sequence_length["inputs"]})
    # A single token cannot be cut.
    return _cut(_pieces(dataset, max_length).filter(lambda e: tf.size(e["targets"]) > 1))


@seqio.map_over_dataset(num_seeds=1)
def _cut(example, seed=None):
    tokens = example["targets"]
    place = tf.random.stateless_uniform([], seed, 1, tf.size(tokens), tf.int32)
    return {"inputs": tokens[:place], "targets": tokens[place:]}


def _max_length(sequence_length: Mapping[str, int]) -> int:
    """Tokens of a text that fits inputs and targets, less EOS."""
    max_length = min(sequence_length["inputs"], sequence_length["targets"]) - 1
    if max_length < 2:
        raise ValueError(
            f"TASK_FEATURE_LENGTHS is {dict(sequence_length)}, too short for a text; expected at least "
            "{'inputs': 3, 'targets': 3}. Set larger lengths."
        )
    return max_length


def _pieces(dataset: tf.data.Dataset, max_length: int) -> tf.data.Dataset:
    """Documents in pieces of `max_length` tokens; the last of one may be shorter."""

    def cut(tokens):
        starts = tf.range(0, tf.size(tokens), max_length)
        lengths = tf.minimum(max_length, tf.size(tokens) - starts)
        pieces = tf.RaggedTensor.from_row_lengths(tokens, lengths)
        return tf.data.Dataset.from_tensor_slices({"targets": pieces})

    return _parts(dataset).flat_map(lambda example: cut(example["targets"]))


@seqio.map_over_dataset(num_seeds=1)
def _parts(example, seed=None):
    tokens = example["targets"]
    count = -(-tf.size(tokens) // LONGEST_DOCUMENT)
    which = tf.random.stateless_uniform([], seed, 0, tf.maximum(count, 1), tf.int32)
    return {"targets": tokens[which * LONGEST_DOCUMENT :][:LONGEST_DOCUMENT]}


def random_targets(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    targets: Sequence[str],
) -> tf.data.Dataset:
    """Puts one of some texts, each equally likely, in place of the targets.

    What a model learns of it is to answer with these texts whatever the input is.

    Args:
      dataset: of {"inputs", "targets"} tokens.
      output_features: their vocabulary makes tokens of the texts.
      targets: the texts.
    """
    vocabulary = output_features["targets"].vocabulary
    texts = tf.ragged.constant([vocabulary.encode(text) for text in targets], tf.int32)
    return _choose(dataset, texts)


@seqio.map_over_dataset(num_seeds=1)
def _choose(example, texts: tf.RaggedTensor, seed=None):
    which = tf.random.stateless_uniform([], seed, 0, texts.nrows(tf.int32), tf.int32)
    return {**example, "targets": texts[which]}
