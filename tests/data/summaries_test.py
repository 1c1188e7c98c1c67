"""T5's format of summaries."""

import tensorflow as tf

from prompt_tuning.data import summaries


def test_the_text_follows_the_prefix():
    dataset = tf.data.Dataset.from_tensors({"document": "one\n\ntwo", "short": "1\n2", "id": 3})
    [got] = summaries.summarize(dataset, "document", "short").as_numpy_iterator()
    assert got == {"inputs": b"summarize: one two", "targets": b"1\n2"}
    [got] = summaries.summarize(dataset, "document", "short", "news:").as_numpy_iterator()
    assert got["inputs"] == b"news: one two"
