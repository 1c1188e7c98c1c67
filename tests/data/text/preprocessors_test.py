import numpy as np
import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import seqio_tasks, vocabularies
from prompt_tuning.data.text import preprocessors


def documents(*lengths):
    """Documents that together count from 3 to 42, again and again."""
    ends = np.cumsum(lengths)
    tokens = np.arange(sum(lengths), dtype=np.int32) % 40 + 3
    ragged = tf.RaggedTensor.from_row_limits(tokens, ends)
    dataset = tf.data.Dataset.range(len(lengths))
    return dataset.map(lambda i: {"targets": ragged[i]})


def test_chunks_hold_all_tokens_in_order_with_eos_between_documents():
    lengths = [3, 1, 40, 2, 5] * 30  # more documents than one batch of them
    chunks = preprocessors.concatenate_and_chunk(documents(*lengths), 7, eos_id=1)
    got = [chunk["targets"] for chunk in chunks.as_numpy_iterator()]
    expected = [
        token
        for document in documents(*lengths).as_numpy_iterator()
        for token in [*document["targets"], 1]
    ]
    assert {len(chunk) for chunk in got} == {7}
    assert np.concatenate(got).tolist() == expected[: len(expected) // 7 * 7]


LENGTHS = {"inputs": 100, "targets": 100}


def run(objective, vocabulary, lengths=LENGTHS, seed=0, count=3):
    output_features = seqio_tasks.text_features(vocabulary.for_seqio())
    with seqio.utils.map_seed_manager(seed):
        dataset = objective(documents(5000), lengths, output_features)
    return list(dataset.take(count).as_numpy_iterator())


def restore(example, sentinels):
    """Puts spans back in place of their sentinels: (tokens, spans)."""
    spans = []
    for token in example["targets"].tolist():
        if token in sentinels:
            spans.append([])
            assert token == sentinels[len(spans) - 1]
        else:
            spans[-1].append(token)
    left = iter(spans)
    tokens = []
    for token in example["inputs"].tolist():
        tokens += next(left) if token in sentinels else [token]
    assert [t for t in example["inputs"] if t in sentinels] == sentinels[: len(spans)]
    return tokens, spans


@pytest.mark.parametrize("seed", range(10))
def test_span_corruption_loses_nothing(vocabulary, seed):
    sentinels = [vocabulary.size - 1 - i for i in range(100)]
    text = np.arange(3 * 110) % 40 + 3
    for i, example in enumerate(run(preprocessors.span_corruption, vocabulary, seed=seed)):
        tokens, spans = restore(example, sentinels)
        assert tokens == text[110 * i : 110 * (i + 1)].tolist()
        # round(0.15 * 110) tokens in round(16 / 3) spans
        assert len(spans) == 5 and sum(map(len, spans)) == 16 and min(map(len, spans)) >= 1
        assert example["inputs"][0] == tokens[0]


@pytest.mark.parametrize(
    ("room", "sizes"),
    [
        # T5 pre-trains on 568 tokens with 512 inputs: 85 noise tokens in 28 spans.
        ((512, 114), (512 - 1, 114 - 1)),
        ((512, 512), (512 - 1, 114 - 1)),
        ((512, 64), (316 - 47 + 16, 47 + 16)),
        ((3, 3), (2, 2)),
    ],
)
def test_span_corruption_fills_the_room(vocabulary, room, sizes):
    lengths = dict(zip(("inputs", "targets"), room, strict=True))
    [example] = run(preprocessors.span_corruption, vocabulary, lengths, count=1)
    assert (len(example["inputs"]), len(example["targets"])) == sizes


def test_every_place_is_masked_equally_often(vocabulary):
    masked = np.zeros(110)
    first_places = set()
    sentinels = [vocabulary.size - 1 - i for i in range(100)]
    for example in run(preprocessors.span_corruption, vocabulary, count=40):
        tokens, spans = restore(example, sentinels)
        left, place = iter(spans), 0
        first_places.add(example["inputs"].tolist().index(sentinels[0]))
        for token in example["inputs"].tolist():
            length = len(next(left)) if token in sentinels else 1
            masked[place : place + length] += token in sentinels
            place += length
        assert place == len(tokens)
    assert len(first_places) > 10
    halves = masked.reshape(2, 55).mean(axis=1) / 40
    assert np.all(np.abs(halves - 0.15) < 0.05)


@pytest.mark.parametrize("objective", [preprocessors.span_corruption, preprocessors.prefix_lm])
def test_objectives_depend_on_the_seed_only(vocabulary, objective):
    def sizes(seed):
        return [e["inputs"].tolist() for e in run(objective, vocabulary, seed=seed)]

    assert sizes(1) == sizes(1) != sizes(2)


@pytest.mark.parametrize("room", [(2, 3), (3, 2)])
def test_span_corruption_needs_room(vocabulary, room):
    lengths = dict(zip(("inputs", "targets"), room, strict=True))
    with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS"):
        run(preprocessors.span_corruption, vocabulary, lengths)


def test_span_corruption_needs_sentinels(vocabulary):
    plain = vocabularies.SentencePiece(vocabulary.path, extra_ids=4)
    with pytest.raises(ValueError, match=r"<extra_id_4>, .*EXTRA_IDS"):
        run(preprocessors.span_corruption, plain)


def test_span_corruption_of_bytes_takes_the_last_bytes_as_sentinels():
    sentinels = [258 - i for i in range(100)]
    text = np.arange(3 * 110) % 40 + 3
    for i, example in enumerate(run(preprocessors.span_corruption, vocabularies.ByteVocabulary())):
        tokens, spans = restore(example, sentinels)
        assert tokens == text[110 * i : 110 * (i + 1)].tolist() and len(spans) == 5
    with pytest.raises(ValueError, match=r"<extra_id_1\d\d>, .*EXTRA_IDS"):
        lengths = {"inputs": 2100, "targets": 500}
        run(preprocessors.span_corruption, vocabularies.ByteVocabulary(), lengths)


@pytest.mark.parametrize("room", [(32, 32), (32, 12), (12, 32), (3, 2)])
def test_prefix_lm_cuts_text_in_two_that_fit(vocabulary, room):
    lengths = dict(zip(("inputs", "targets"), room, strict=True))
    chunk = max(room) - 1
    text = np.arange(100 * chunk) % 40 + 3
    examples = run(preprocessors.prefix_lm, vocabulary, lengths, count=100)
    joined = np.concatenate([e[name] for e in examples for name in ("inputs", "targets")])
    assert joined.tolist() == text.tolist()
    cuts = {len(e["inputs"]) for e in examples}
    assert min(cuts) >= max(1, chunk - room[1] + 1) and max(cuts) <= min(chunk - 1, room[0] - 1)
    assert len(cuts) == 1 or len(cuts) > (max(cuts) - min(cuts)) / 2


def test_prefix_lm_needs_room(vocabulary):
    with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS"):
        run(preprocessors.prefix_lm, vocabulary, {"inputs": 32, "targets": 1})
