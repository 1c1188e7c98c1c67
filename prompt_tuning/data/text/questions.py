"""T5's text format of SQuAD and MRQA, and their postprocessor."""

import tensorflow as tf


def squad(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Formats SQuAD as "question: … context: …" -> the first answer.

    Punctuation is surrounded by spaces. "answers" keeps all answers for the metric.

    Args:
      dataset: TFDS's squad: "id", "question", "context" and "answers" {"text": string[A]}.
    """
    return _format(dataset, "id", lambda example: example["answers"]["text"])


def mrqa(dataset: tf.data.Dataset, task_name: str | None = None) -> tf.data.Dataset:
    """Formats MRQA 2019 as `squad`; answers need not occur in the context.

    Args:
      dataset: TFDS's mrqa: "qid", "question", "context" and "answers" string[A].
      task_name: first word of the inputs, if any.
    """
    prefix = [task_name] if task_name else []
    return _format(dataset, "qid", lambda example: example["answers"], prefix)


def _format(dataset: tf.data.Dataset, id_key: str, answers_of, prefix=()) -> tf.data.Dataset:
    def convert(example):
        question, context, answers = map(
            pad_punctuation, (example["question"], example["context"], answers_of(example))
        )
        parts = [*prefix, "question:", question, "context:", context]
        return {
            "inputs": collapse_spaces(tf.strings.join(parts, separator=" ")),
            "targets": answers[0],
            "answers": answers,
            "id": example[id_key],
        }

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def pad_punctuation(text: tf.Tensor) -> tf.Tensor:
    """Surrounds each character except ASCII letters, digits and underscores with spaces.

    As in T5, this includes letters outside ASCII: "naïve" becomes "na ï ve".
    """
    return collapse_spaces(tf.strings.regex_replace(text, r"(\W)", r" \1 "))


def collapse_spaces(text: tf.Tensor) -> tf.Tensor:
    """Replaces each run of white space by one space, also at the ends."""
    return tf.strings.regex_replace(text, r"\s+", " ")


def all_answers(text: str, example, is_target: bool) -> str | list[str]:
    """Returns all answers of an example as the target; returns a prediction unchanged."""
    if is_target:
        return [answer.decode() for answer in example["answers"]]
    return text
