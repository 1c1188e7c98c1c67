"""Inputs and targets in one row: what is read where, and who sees whom, written out."""

import numpy as np
import pytest

from prompt_tuning.models import sequence

V = 50  # 90, 91 are soft tokens


def join(inputs, targets, *segments):
    ids = [np.array(x, np.int32) for x in (inputs, targets, *segments)]
    return sequence.join(*ids, vocab_size=V)


def table(visible):
    """[N, N] as strings of 1 and 0."""
    return ["".join(str(int(x)) for x in row) for row in np.asarray(visible)]


def test_targets_follow_inputs_of_any_length():
    row = join([[5, 6, 1, 0], [7, 0, 0, 0], [0] * 4], [[8, 1], [9, 4], [0, 0]])
    # The last input foretells the first target, a target the next one.
    assert row.ids[:2].tolist() == [[0, 5, 6, 1, 8, 0], [0, 7, 9, 0, 0, 0]]
    assert row.segment_ids.tolist() == [[1] * 5 + [0], [1] * 3 + [0] * 3, [0] * 6]
    assert row.target_logit_index[:2].tolist() == [[3, 4], [1, 2]]
    # T5X's decoder_causal_attention: as many as inputs, and one more.
    assert row.prefix.astype(int).tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize(
    ("inputs", "ids"),
    [
        ([90, 91, 5, 1], [90, 91, 0, 5, 1, 8]),  # in front of the 0 that begins the text
        ([5, 90, 91, 1], [0, 5, 90, 91, 1, 8]),
        ([90, 5, 91, 1], [90, 0, 5, 91, 1, 8]),
        ([5, 1, 90, 91], [0, 5, 1, 90, 91, 8]),
        ([90, 91, 0, 0], [90, 91, 0, 8, 0, 0]),
        ([0, 0, 0, 0], [0, 8, 0, 0, 0, 0]),
    ],
)
def test_soft_tokens_stand_where_the_input_has_them(inputs, ids):
    row = join([inputs], [[8, 1]])
    real = np.array(row.segment_ids[0] > 0)
    assert np.where(real, row.ids[0], 0).tolist() == ids
    last, position = sequence.last_input(np.array([inputs], np.int32), vocab_size=V)
    first_target = int(row.target_logit_index[0, 0])
    assert (int(last[0]), int(position[0])) == (ids[first_target], first_target)
    assert row.prefix[0].tolist() == [i <= first_target for i in range(6)]


PACKED = (
    [[90, 5, 1, 90, 6, 7, 1, 0]],
    [[8, 1, 9, 1, 0]],
    [[1, 1, 1, 2, 2, 2, 2, 0]],
    [[1, 1, 2, 2, 0]],
)


def test_packed_examples_are_joined_one_by_one():
    row = join(*PACKED)
    assert row.ids[0, :11].tolist() == [90, 0, 5, 1, 8, 90, 0, 6, 7, 1, 9]
    assert row.segment_ids.tolist() == [[1] * 5 + [2] * 6 + [0] * 2]
    assert row.target_logit_index[0, :4].tolist() == [3, 4, 9, 10]
    assert row.prefix[0].astype(int).tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0]


def test_segments_of_one_side():
    inputs, targets, *segments = (np.array(x, np.int32) for x in PACKED)
    for given in ((segments[0], None), (None, segments[1])):
        with pytest.raises(
            ValueError, match=r"only one of input_segment_ids and .*; expected both or neither"
        ):
            sequence.join(inputs, targets, *given, vocab_size=V)


def test_prompt_and_inputs_see_one_another_and_targets_what_is_before_them():
    row = join([[90, 5, 1, 0]], [[8, 9, 1]])
    assert table(row.attention_mask(True)[0, 0]) == [
        "1111000",  # the soft token
        "1111000",  # 0
        "1111000",  # 5
        "1111000",  # the last input, which foretells 8
        "1111100",
        "1111110",
        "0000000",
    ]
    assert table(row.attention_mask(False)[0, 0]) == [
        "1000000",
        "1100000",
        "1110000",
        "1111000",
        "1111100",
        "1111110",
        "0000000",
    ]


def test_packed_examples_do_not_see_one_another():
    bidirectional, causal = (table(join(*PACKED).attention_mask(b)[0, 0]) for b in (True, False))
    first, second = "1111000000000", "0000011111000"
    assert bidirectional == [
        *[first] * 4,
        "1111100000000",
        *[second] * 5,
        "0000011111100",
        *["0" * 13] * 2,
    ]
    assert causal == [
        *(f"{'1' * n}{'0' * (13 - n)}" for n in range(1, 6)),
        *(f"00000{'1' * n}{'0' * (8 - n)}" for n in range(1, 7)),
        *["0" * 13] * 2,
    ]
