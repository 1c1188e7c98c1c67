"""The objectives that restore a whole text."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import seqio_tasks, vocabularies
from prompt_tuning.data.text import denoising

LENGTHS = {"inputs": 64, "targets": 64}


def documents(*lengths):
    """Each counts from 3 on."""
    return tf.data.Dataset.from_tensor_slices(
        {"targets": tf.ragged.constant([list(range(3, 3 + n)) for n in lengths], tf.int32)}
    )


def run(objective, dataset, seed=0, **settings):
    with seqio.utils.map_seed_manager(seed):
        return list(objective(dataset, **settings).as_numpy_iterator())


def deletion(*lengths, seed=0, room=LENGTHS):
    return run(denoising.token_deletion, documents(*lengths), seed, sequence_length=room)


def infilling(vocabulary, *lengths, seed=0, room=LENGTHS):
    return run(
        denoising.text_infilling,
        documents(*lengths),
        seed,
        sequence_length=room,
        output_features=seqio_tasks.text_features(vocabulary.for_seqio()),
    )


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (LENGTHS, [63, 37, 63, 10]),
        ({"inputs": 32, "targets": 64}, [31, 31, 31, 7, 31, 31, 1, 10]),
        ({"inputs": 64, "targets": 32}, [31, 31, 31, 7, 31, 31, 1, 10]),
    ],
)
def test_documents_are_cut_to_pieces_that_fit_and_never_joined(room, expected):
    targets = [e["targets"] for e in deletion(100, 63, 10, room=room)]
    assert [len(t) for t in targets] == expected
    assert np.concatenate(targets).tolist() == [*range(3, 103), *range(3, 66), *range(3, 13)]


def test_of_a_very_long_document_one_part_is_taken(monkeypatch):
    monkeypatch.setattr(denoising, "LONGEST_DOCUMENT", 20)
    seen = set()
    for seed in range(20):
        (example,) = deletion(50, seed=seed)
        seen.add(tuple(example["targets"].tolist()))
    assert seen == {tuple(range(3, 23)), tuple(range(23, 43)), tuple(range(43, 53))}


def test_deletion_leaves_out_the_share_of_tokens_in_order():
    examples = deletion(*[63] * 100)
    kept = 0
    for example in examples:
        left = iter(example["targets"].tolist())
        assert all(token in left for token in example["inputs"].tolist())
        kept += len(example["inputs"])
    assert abs(kept / 6300 - 0.85) < 0.02
    assert len({len(e["inputs"]) for e in examples}) > 5


def test_infilling_puts_a_sentinel_for_each_span(vocabulary):
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
def test_infilling_of_short_documents(vocabulary, length, sentinels):
    one, *others = infilling(vocabulary, 1, length)
    assert not others, "one token is left out"
    assert sum(token > 100 for token in one["inputs"].tolist()) == sentinels
    assert len(one["inputs"]) == length - max(1, round(0.15 * length)) + sentinels


def test_objectives_depend_on_the_seed_only(vocabulary):
    def tokens(examples):
        return [e["inputs"].tolist() for e in examples]

    assert tokens(deletion(50, seed=1)) == tokens(deletion(50, seed=1))
    assert tokens(deletion(50, seed=1)) != tokens(deletion(50, seed=2))
    assert tokens(infilling(vocabulary, 50, seed=1)) == tokens(infilling(vocabulary, 50, seed=1))
    assert tokens(infilling(vocabulary, 50, seed=1)) != tokens(infilling(vocabulary, 50, seed=2))


def test_too_little_room(vocabulary):
    with pytest.raises(ValueError, match=r"TASK_FEATURE_LENGTHS .*'inputs': 3"):
        deletion(50, room={"inputs": 2, "targets": 64})
    plain = vocabularies.SentencePiece(vocabulary.path, extra_ids=2)
    with pytest.raises(ValueError, match=r"<extra_id_2>, .*EXTRA_IDS"):
        infilling(plain, 50)


def test_there_are_sentinels_for_all_spans_of_the_longest_piece(vocabulary):
    # Of 50 tokens 8 are noise, in 3 spans; 50 * 0.15 / 3 is 2.5.
    room = {"inputs": 51, "targets": 51}
    few = vocabularies.SentencePiece(vocabulary.path, extra_ids=2)
    with pytest.raises(ValueError, match=r"<extra_id_2>, .*EXTRA_IDS"):
        infilling(few, 50, room=room)
    enough = vocabularies.SentencePiece(vocabulary.path, extra_ids=3)
    (example,) = infilling(enough, 50, room=room)
    last = enough.size - 1
    assert [last - 2, last - 1, last] == sorted(example["inputs"])[-3:]


def prefixes(*lengths, seed=0, room=LENGTHS):
    examples = run(denoising.prefix_lm, documents(*lengths), seed, sequence_length=room)
    return [(e["inputs"].tolist(), e["targets"].tolist()) for e in examples]


def test_a_prefix_is_of_one_document():
    pieces = [range(3, 66), range(66, 103), range(3, 13)]
    for seed in range(5):
        whole = [inputs + targets for inputs, targets in prefixes(100, 1, 10, seed=seed)]
        assert whole == [list(piece) for piece in pieces], "one token is left out"


def test_each_place_may_be_the_end_of_the_prefix():
    room = {"inputs": 64, "targets": 4}  # What is left is trimmed with EOS.
    places = [len(inputs) for inputs, _ in prefixes(*[6] * 200, room=room)]
    assert set(places) == {1, 2, 3, 4, 5} and all(20 < places.count(p) < 60 for p in set(places))
    assert prefixes(50, seed=1) == prefixes(50, seed=1) != prefixes(50, seed=2)
    with pytest.raises(ValueError, match=r"TASK_FEATURE_LENGTHS .*'inputs': 3"):
        prefixes(50, room={"inputs": 2, "targets": 64})


def test_random_targets(vocabulary):
    dataset = documents(*[5] * 200).map(lambda e: {"inputs": e["targets"], **e})
    examples = run(
        denoising.random_targets,
        dataset,
        output_features=seqio_tasks.text_features(vocabulary.for_seqio()),
        targets=("good", "not bad"),
    )
    wanted = [vocabulary.encode("good"), vocabulary.encode("not bad")]
    got = [e["targets"].tolist() for e in examples]
    assert all(targets in wanted for targets in got)
    assert 70 < got.count(wanted[0]) < 130
    assert all(e["inputs"].tolist() == [3, 4, 5, 6, 7] for e in examples)
