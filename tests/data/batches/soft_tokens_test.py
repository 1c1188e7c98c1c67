"""Where soft tokens stand in an input, written out."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.data import vocabularies
from prompt_tuning.data.batches import batching, soft_tokens
from prompt_tuning.methods import prompt as prompt_method

P = (90, 91, 92)


def soft(place, ids=P, **settings):
    return soft_tokens.SoftTokens(np.array(ids, np.int32), place, **settings)


def put(which, inputs):
    example = {"inputs": np.array(inputs, np.int32), "targets": np.array([1]), "row": 7}
    found = which.insert(example)
    assert found.keys() == example.keys() and found["row"] == 7
    assert found["inputs"].dtype == np.int32
    assert example["inputs"].tolist() == inputs
    return found["inputs"].tolist()


@pytest.mark.parametrize(
    ("place", "inputs", "expected"),
    [
        ("prefix", [5, 6, 1], [90, 91, 92, 5, 6, 1]),
        ("prefix", [], [90, 91, 92]),
        ("after_first", [5, 6, 1], [5, 90, 91, 92, 6, 1]),
        ("after_first", [5], [5, 90, 91, 92]),
        ("after_first", [], [90, 91, 92]),
        ("suffix", [5, 6, 1], [5, 6, 90, 91, 92, 1]),
        ("suffix", [5, 6], [5, 6, 90, 91, 92]),  # nothing ends this text
        ("suffix", [1], [90, 91, 92, 1]),
        ("suffix_after_eos", [5, 6, 1], [5, 6, 1, 90, 91, 92]),
        ((0, 2, 2), [5, 6, 7, 1], [90, 5, 6, 91, 92, 7, 1]),
        ([2, 0, 1], [5, 6, 7, 1], [91, 5, 92, 6, 90, 7, 1]),
        ((0, 1, 8), [5, 6, 1], [90, 5, 91, 6, 92, 1]),  # beyond the text: a suffix
        ((0, 1, 8), [], [90, 91, 92]),
    ],
)
def test_places(place, inputs, expected):
    assert put(soft(place), inputs) == expected


@pytest.mark.parametrize("place", soft_tokens.POSITIONS)
def test_without_a_prompt_nothing_is_added(place):
    assert put(soft(place, ids=()), [5, 6, 1]) == [5, 6, 1]


@pytest.mark.parametrize("place", ["in front", "", (), (0, -1, 2), (0, 1, 2.5), 3, None])
def test_places_that_are_none(place):
    with pytest.raises(ValueError, match=r"PROMPT_PLACE is .*; expected one of .*'after_first'"):
        soft(place)


def test_a_place_for_each_soft_token():
    part = "PROMPT_PLACE has 2 indices; .* the 3 soft tokens. Set PROMPT_LENGTH to 2"
    with pytest.raises(ValueError, match=part):
        soft((0, 1))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("prefix", [93, 94, 95, 5, 1]),
        ("after_first", [5, 93, 94, 95, 1]),
        ("suffix", [5, 93, 94, 95, 1]),
        ((0, 1, 1), [93, 5, 94, 95, 1]),
    ],
)
def test_a_sentinel_tells_the_task_and_is_taken_away(place, expected):
    of_tasks = soft(place, num_tasks=2, sentinels_end=80)
    assert put(of_tasks, [78, 5, 1]) == expected
    assert put(of_tasks, [79, 5, 1]) == [i - 3 if i > 80 else i for i in expected]


@pytest.mark.parametrize("inputs", [[5, 1], [77, 5, 1], [80, 5, 1], []])
def test_an_input_that_tells_no_task(inputs):
    part = "begins with token .* NUM_TASKS = 2 expected one of the sentinels 78 to 79"
    with pytest.raises(ValueError, match=part):
        put(soft("prefix", num_tasks=2, sentinels_end=80), inputs)


def test_what_is_advised_for_sentinels_is_true_of_each_vocabulary(vocabulary):
    """seqio's bytes have no sentinels in text: ours are the same, and the message says so."""
    text = "<extra_id_0> a"
    assert vocabulary.encode(text)[0] == vocabulary.size - 1
    some_bytes = vocabularies.ByteVocabulary(extra_ids=2)
    assert some_bytes.encode(text) == some_bytes.for_seqio().encode(text)
    which = soft("prefix", num_tasks=2, sentinels_end=some_bytes.size)
    with pytest.raises(
        ValueError, match=r"INPUT_TEMPLATE.*not possible with a vocabulary of bytes"
    ):
        put(which, some_bytes.encode(text))


@pytest.mark.parametrize("place", [*soft_tokens.POSITIONS, (0, 2, 2, 5)])
def test_packed_examples_are_as_alone(tiny, rng, place):
    """What an example's loss is does not depend on its row, wherever its soft tokens stand."""
    model = dataclasses.replace(tiny.model, method=prompt_method.Prompt(4, place=place))
    prompt = rng.normal(size=(4, 16)).astype(np.float32)
    weights = params.merge(tiny.base, params.unflatten({prompt_method.PATH: prompt}))
    which = soft(place, ids=range(256, 260))
    room = batching.MaxLengths(6, 3)
    examples = [
        which.insert(room.trim({"inputs": ids(rng, length), "targets": ids(rng, 2)}))
        for length in (2, 5, 9, 3)
    ]
    alone = batching.pad(examples, 4, 10, 3)
    packed = batching.Packing(2, ((24, 6),)).pack(examples)
    sums = [jax.jit(model.loss)(weights, batch)[1] for batch in (alone, packed)]
    assert sums[0]["tokens"] == 8
    np.testing.assert_allclose(sums[0]["loss"], sums[1]["loss"], rtol=1e-5)


def ids(rng, count):
    return np.append(rng.integers(3, 200, count - 1), 1).astype(np.int32)
