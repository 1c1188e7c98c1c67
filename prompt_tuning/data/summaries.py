"""T5's text format of summaries."""

import tensorflow as tf

from prompt_tuning.data import questions


def summarize(
    dataset: tf.data.Dataset, source_key: str, target_key: str, prefix: str = "summarize:"
) -> tf.data.Dataset:
    """ "summarize: TEXT" -> the summary.

    Args:
      dataset: of {`source_key`: text, `target_key`: its summary}.
      source_key: what is summarised.
      target_key: the summary.
      prefix: what stands in front of the text.
    """

    def convert(example):
        joined = tf.strings.join([prefix, example[source_key]], separator=" ")
        return {"inputs": questions.collapse_spaces(joined), "targets": example[target_key]}

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
