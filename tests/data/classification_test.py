"""Texts with a label."""

import pytest
import tensorflow as tf

from prompt_tuning.data import classification


@pytest.mark.parametrize(
    ("keys", "task_name", "inputs"),
    [
        ({"b": "b:", "a": "of:"}, "nli", b"nli b: y of: x z"),
        ({"a": ""}, None, b"x z"),
    ],
)
def test_keys_are_in_the_given_order(keys, task_name, inputs):
    dataset = tf.data.Dataset.from_tensors({"a": "x\n z", "b": "y", "label": 1})
    texts = classification.text_to_label(dataset, keys, ("no", "yes"), task_name)
    assert list(texts.as_numpy_iterator()) == [{"inputs": inputs, "targets": b"yes"}]


def test_no_label_is_unknown():
    dataset = tf.data.Dataset.from_tensors({"a": "x", "label": -1})
    [got] = classification.text_to_label(dataset, {"a": ""}, ("no", "yes")).as_numpy_iterator()
    assert got["targets"] == b"<unk>"
