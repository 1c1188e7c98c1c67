"""Pre-training objectives: every token is accounted for, and examples fit."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import seqio_tasks, vocabularies
from prompt_tuning.data.text import preprocessors

LENGTHS = {"inputs": 100, "targets": 100}
SHORT = {"inputs": 64, "targets": 64}


def documents(*lengths):
    """Documents that together repeatedly count from 3 to 42."""
    ends = np.cumsum(lengths)
    tokens = np.arange(sum(lengths), dtype=np.int32) % 40 + 3
    ragged = tf.RaggedTensor.from_row_limits(tokens, ends)
    dataset = tf.data.Dataset.range(len(lengths))
    return dataset.map(lambda i: {"targets": ragged[i]})


def counting_documents(*lengths):
    """Documents that each count from 3."""
    return tf.data.Dataset.from_tensor_slices(
        {"targets": tf.ragged.constant([list(range(3, 3 + n)) for n in lengths], tf.int32)}
    )


def run(objective, dataset, seed=0, **settings):
    with seqio.utils.map_seed_manager(seed):
        return list(objective(dataset, **settings).as_numpy_iterator())


def run_on_stream(objective, vocabulary, lengths=LENGTHS, seed=0, count=3):
    """The first examples of an objective on concatenated documents."""
    return run(
        lambda *args, **settings: objective(*args, **settings).take(count),
        documents(5000),
        seed,
        sequence_length=lengths,
        output_features=seqio_tasks.text_features(vocabulary.for_seqio()),
    )


def deletion(*lengths, seed=0, sequence_length=SHORT):
    return run(
        preprocessors.token_deletion,
        counting_documents(*lengths),
        seed,
        sequence_length=sequence_length,
    )


def infilling(vocabulary, *lengths, seed=0, sequence_length=SHORT):
    return run(
        preprocessors.text_infilling,
        counting_documents(*lengths),
        seed,
        sequence_length=sequence_length,
        output_features=seqio_tasks.text_features(vocabulary.for_seqio()),
    )


def document_prefixes(*lengths, seed=0, sequence_length=SHORT):
    examples = run(
        preprocessors.document_prefix_lm,
        counting_documents(*lengths),
        seed,
        sequence_length=sequence_length,
    )
    return [(e["inputs"].tolist(), e["targets"].tolist()) for e in examples]


def restore(example, sentinels):
    """Inserts the spans at their sentinels; returns (tokens, spans)."""
    spans = []
    for token in example["targets"].tolist():
        if token in sentinels:
            spans.append([])
            assert token == sentinels[len(spans) - 1]
        else:
            spans[-1].append(token)
    remaining = iter(spans)
    tokens = []
    for token in example["inputs"].tolist():
        tokens += next(remaining) if token in sentinels else [token]
    assert [t for t in example["inputs"] if t in sentinels] == sentinels[: len(spans)]
    return tokens, spans


def test_chunks_hold_all_tokens_in_order_with_eos_between_documents():
    lengths = [3, 1, 40, 2, 5] * 30  # more documents than one batch
    chunks = preprocessors.concatenate_and_chunk(documents(*lengths), 7, eos_id=1)
    chunks = [chunk["targets"] for chunk in chunks.as_numpy_iterator()]
    expected = [
        token
        for document in documents(*lengths).as_numpy_iterator()
        for token in [*document["targets"], 1]
    ]
    assert {len(chunk) for chunk in chunks} == {7}
    assert np.concatenate(chunks).tolist() == expected[: len(expected) // 7 * 7]


@pytest.mark.parametrize("seed", range(10))
def test_span_corruption_loses_no_token(vocabulary, seed):
    sentinels = [vocabulary.size - 1 - i for i in range(100)]
    text = np.arange(3 * 110) % 40 + 3
    for i, example in enumerate(
        run_on_stream(preprocessors.span_corruption, vocabulary, seed=seed)
    ):
        tokens, spans = restore(example, sentinels)
        assert tokens == text[110 * i : 110 * (i + 1)].tolist()
        # round(0.15 * 110) tokens in round(16 / 3) spans
        assert len(spans) == 5 and sum(map(len, spans)) == 16 and min(map(len, spans)) >= 1
        assert example["inputs"][0] == tokens[0]


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        # T5 pre-trains on 568 tokens with 512 inputs: 85 noise tokens in 28 spans.
        ((512, 114), (512 - 1, 114 - 1)),
        ((512, 512), (512 - 1, 114 - 1)),
        ((512, 64), (316 - 47 + 16, 47 + 16)),
        ((3, 3), (2, 2)),
    ],
)
def test_span_corruption_uses_the_longest_chunk_that_fits(vocabulary, lengths, sizes):
    sequence_length = dict(zip(("inputs", "targets"), lengths, strict=True))
    [example] = run_on_stream(preprocessors.span_corruption, vocabulary, sequence_length, count=1)
    assert (len(example["inputs"]), len(example["targets"])) == sizes


def test_span_corruption_masks_all_positions_equally_often(vocabulary):
    masked = np.zeros(110)
    first_positions = set()
    sentinels = [vocabulary.size - 1 - i for i in range(100)]
    for example in run_on_stream(preprocessors.span_corruption, vocabulary, count=40):
        tokens, spans = restore(example, sentinels)
        remaining, position = iter(spans), 0
        first_positions.add(example["inputs"].tolist().index(sentinels[0]))
        for token in example["inputs"].tolist():
            length = len(next(remaining)) if token in sentinels else 1
            masked[position : position + length] += token in sentinels
            position += length
        assert position == len(tokens)
    assert len(first_positions) > 10
    halves = masked.reshape(2, 55).mean(axis=1) / 40
    assert np.all(np.abs(halves - 0.15) < 0.05)


@pytest.mark.parametrize("objective", [preprocessors.span_corruption, preprocessors.prefix_lm])
def test_objectives_on_streams_depend_only_on_the_seed(vocabulary, objective):
    def inputs(seed):
        return [e["inputs"].tolist() for e in run_on_stream(objective, vocabulary, seed=seed)]

    assert inputs(1) == inputs(1) != inputs(2)


@pytest.mark.parametrize("lengths", [(2, 3), (3, 2)])
def test_span_corruption_refuses_lengths_without_space_for_a_span(vocabulary, lengths):
    sequence_length = dict(zip(("inputs", "targets"), lengths, strict=True))
    with pytest.raises(
        ValueError, match=r"TASK_FEATURE_LENGTHS .*at least {'inputs': 3, 'targets': 3"
    ):
        run_on_stream(preprocessors.span_corruption, vocabulary, sequence_length)


def test_span_corruption_requires_a_sentinel_for_each_span(vocabulary):
    plain = vocabularies.SentencePiece(vocabulary.path, extra_ids=4)
    with pytest.raises(ValueError, match=r"<extra_id_4>, .*EXTRA_IDS"):
        run_on_stream(preprocessors.span_corruption, plain)


def test_span_corruption_of_bytes_uses_the_last_bytes_as_sentinels():
    sentinels = [258 - i for i in range(100)]
    text = np.arange(3 * 110) % 40 + 3
    vocabulary = vocabularies.ByteVocabulary()
    for i, example in enumerate(run_on_stream(preprocessors.span_corruption, vocabulary)):
        tokens, spans = restore(example, sentinels)
        assert tokens == text[110 * i : 110 * (i + 1)].tolist() and len(spans) == 5
    with pytest.raises(ValueError, match=r"<extra_id_1\d\d>, .*EXTRA_IDS"):
        lengths = {"inputs": 2100, "targets": 500}
        run_on_stream(preprocessors.span_corruption, vocabulary, lengths)


@pytest.mark.parametrize("lengths", [(32, 32), (32, 12), (12, 32), (3, 2)])
def test_prefix_lm_splits_text_into_two_parts_that_fit(vocabulary, lengths):
    sequence_length = dict(zip(("inputs", "targets"), lengths, strict=True))
    chunk = max(lengths) - 1
    text = np.arange(100 * chunk) % 40 + 3
    examples = run_on_stream(preprocessors.prefix_lm, vocabulary, sequence_length, count=100)
    joined = np.concatenate([e[name] for e in examples for name in ("inputs", "targets")])
    assert joined.tolist() == text.tolist()
    sizes = {len(e["inputs"]) for e in examples}
    first, last = max(1, chunk - lengths[1] + 1), min(chunk - 1, lengths[0] - 1)
    assert min(sizes) >= first and max(sizes) <= last
    assert len(sizes) == 1 or len(sizes) > (max(sizes) - min(sizes)) / 2


def test_prefix_lm_refuses_lengths_without_space_for_two_parts(vocabulary):
    with pytest.raises(
        ValueError, match=r"TASK_FEATURE_LENGTHS .*at least {'inputs': 3, 'targets': 2"
    ):
        run_on_stream(preprocessors.prefix_lm, vocabulary, {"inputs": 32, "targets": 1})


@pytest.mark.parametrize(
    ("sequence_length", "expected"),
    [
        (SHORT, [63, 37, 63, 10]),
        ({"inputs": 32, "targets": 64}, [31, 31, 31, 7, 31, 31, 1, 10]),
        ({"inputs": 64, "targets": 32}, [31, 31, 31, 7, 31, 31, 1, 10]),
    ],
)
def test_documents_are_split_into_segments_that_fit_and_never_concatenated(
    sequence_length, expected
):
    targets = [e["targets"] for e in deletion(100, 63, 10, sequence_length=sequence_length)]
    assert [len(t) for t in targets] == expected
    assert np.concatenate(targets).tolist() == [*range(3, 103), *range(3, 66), *range(3, 13)]


def test_one_part_of_a_very_long_document_is_drawn(monkeypatch):
    monkeypatch.setattr(preprocessors, "LONGEST_DOCUMENT", 20)
    parts = set()
    for seed in range(20):
        (example,) = deletion(50, seed=seed)
        parts.add(tuple(example["targets"].tolist()))
    assert parts == {tuple(range(3, 23)), tuple(range(23, 43)), tuple(range(43, 53))}


def test_token_deletion_deletes_the_noise_density_and_keeps_the_order():
    examples = deletion(*[63] * 100)
    kept = 0
    for example in examples:
        remaining = iter(example["targets"].tolist())
        assert all(token in remaining for token in example["inputs"].tolist())
        kept += len(example["inputs"])
    assert abs(kept / 6300 - 0.85) < 0.02
    assert len({len(e["inputs"]) for e in examples}) > 5


def test_text_infilling_replaces_each_span_by_a_sentinel(vocabulary):
    last = vocabulary.size - 1
    starts = set()
    for example in infilling(vocabulary, *[60] * 30):
        inputs, targets = example["inputs"].tolist(), example["targets"].tolist()
        sentinels = [token for token in inputs if token > 100]
        # round(0.15 * 60) tokens in round(9 / 3) spans.
        assert sentinels == [last, last - 1, last - 2]
        kept = [token for token in inputs if token not in sentinels]
        assert len(kept) == 60 - 9 and targets == list(range(3, 63))
        missing = sorted(set(targets) - set(kept))
        runs = 1 + sum(b > a + 1 for a, b in itertools.pairwise(missing))
        assert runs == 3 and inputs[0] == 3
        starts.add(missing[0])
    assert len(starts) > 5


@pytest.mark.parametrize(("length", "sentinels"), [(2, 1), (3, 1), (20, 1), (40, 2)])
def test_text_infilling_of_short_documents_drops_single_tokens(vocabulary, length, sentinels):
    (example,) = infilling(vocabulary, 1, length)
    assert sum(token > 100 for token in example["inputs"].tolist()) == sentinels
    assert len(example["inputs"]) == length - max(1, round(0.15 * length)) + sentinels


def test_objectives_on_documents_depend_only_on_the_seed(vocabulary):
    def tokens(examples):
        return [e["inputs"].tolist() for e in examples]

    assert tokens(deletion(50, seed=1)) == tokens(deletion(50, seed=1))
    assert tokens(deletion(50, seed=1)) != tokens(deletion(50, seed=2))
    assert tokens(infilling(vocabulary, 50, seed=1)) == tokens(infilling(vocabulary, 50, seed=1))
    assert tokens(infilling(vocabulary, 50, seed=1)) != tokens(infilling(vocabulary, 50, seed=2))


@pytest.mark.parametrize("objective", [deletion, document_prefixes])
def test_objectives_on_documents_refuse_lengths_without_space_for_a_text(objective):
    with pytest.raises(ValueError, match=r"TASK_FEATURE_LENGTHS .*'inputs': 3"):
        objective(50, sequence_length={"inputs": 2, "targets": 64})


def test_text_infilling_requires_a_sentinel_for_each_span_of_the_longest_segment(vocabulary):
    # Of 50 tokens 8 are noise, in 3 spans; 50 * 0.15 / 3 is 2.5.
    lengths = {"inputs": 51, "targets": 51}
    too_few = vocabularies.SentencePiece(vocabulary.path, extra_ids=2)
    with pytest.raises(ValueError, match=r"<extra_id_2>, .*EXTRA_IDS"):
        infilling(too_few, 50, sequence_length=lengths)
    enough = vocabularies.SentencePiece(vocabulary.path, extra_ids=3)
    (example,) = infilling(enough, 50, sequence_length=lengths)
    last = enough.size - 1
    assert [last - 2, last - 1, last] == sorted(example["inputs"])[-3:]


def test_document_prefix_lm_splits_segments_of_one_document():
    segments = [range(3, 66), range(66, 103), range(3, 13)]
    for seed in range(5):
        joined = [inputs + targets for inputs, targets in document_prefixes(100, 1, 10, seed=seed)]
        assert joined == [list(segment) for segment in segments], "a single token is dropped"


def test_document_prefix_lm_splits_at_every_position_equally_often():
    lengths = {"inputs": 64, "targets": 4}  # longer targets are truncated when EOS is appended
    sizes = [len(inputs) for inputs, _ in document_prefixes(*[6] * 200, sequence_length=lengths)]
    assert set(sizes) == {1, 2, 3, 4, 5} and all(20 < sizes.count(n) < 60 for n in set(sizes))
    assert document_prefixes(50, seed=1) == document_prefixes(50, seed=1)
    assert document_prefixes(50, seed=1) != document_prefixes(50, seed=2)


def test_random_targets_are_drawn_uniformly_and_inputs_stay(vocabulary):
    dataset = counting_documents(*[5] * 200).map(lambda e: {"inputs": e["targets"], **e})
    examples = run(
        preprocessors.random_targets,
        dataset,
        output_features=seqio_tasks.text_features(vocabulary.for_seqio()),
        targets=("good", "not bad"),
    )
    texts = [vocabulary.encode("good"), vocabulary.encode("not bad")]
    targets = [e["targets"].tolist() for e in examples]
    assert all(tokens in texts for tokens in targets)
    assert 70 < targets.count(texts[0]) < 130
    assert all(e["inputs"].tolist() == [3, 4, 5, 6, 7] for e in examples)
