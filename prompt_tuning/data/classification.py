"""Texts with a label as text to text: keys and texts, then the label's name."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from prompt_tuning.data import questions


def text_to_label(
    dataset: tf.data.Dataset,
    keys: Mapping[str, str],
    label_names: Sequence[str],
    task_name: str | None = None,
) -> tf.data.Dataset:
    """ "TASK WORDS TEXT WORDS TEXT" -> the name of the label; "<unk>" for label -1.

    Args:
      dataset: of {"label": int, and texts}.
      keys: of the texts, in order, with the words in front of each; "" for none.
      label_names: of labels 0, 1, …
      task_name: a word in front of all, if any.
    """
    names = tf.constant(["<unk>", *label_names])

    def convert(example):
        parts = [task_name] if task_name else []
        for key, words in keys.items():
            parts += [words, example[key]] if words else [example[key]]
        joined = questions.collapse_spaces(tf.strings.join(parts, separator=" "))
        return {"inputs": joined, "targets": tf.gather(names, example["label"] + 1)}

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
