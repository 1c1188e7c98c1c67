"""Questions about a text: T5's format of SQuAD and of MRQA, and what is compared with an answer."""

import tensorflow as tf


def squad(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """T5's format of SQuAD: "question: … context: …" -> the first answer.

    Punctuation has spaces around it. "answers" keeps all answers, for the metric.

    Args:
      dataset: with the features of TFDS's squad: "id", "question", "context" and
        "answers" {"text": string[A]}.
    """

    def convert(example):
        texts = _example([], example["question"], example["context"], example["answers"]["text"])
        return {**texts, "id": example["id"]}

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def mrqa(dataset: tf.data.Dataset, task_name: str | None = None) -> tf.data.Dataset:
    """`squad` for a set of MRQA 2019, whose answers are not all of them in the context.

    Args:
      dataset: with the features of TFDS's mrqa: "qid", "question", "context", "answers"
        string[A].
      task_name: a word to put in front of the inputs, if any.
    """
    words = [task_name] if task_name else []

    def convert(example):
        texts = _example(words, example["question"], example["context"], example["answers"])
        return {**texts, "id": example["qid"]}

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _example(words, question, context, answers):
    question, context, answers = map(pad_punctuation, (question, context, answers))
    joined = tf.strings.join([*words, "question:", question, "context:", context], separator=" ")
    return {"inputs": collapse_spaces(joined), "targets": answers[0], "answers": answers}


def pad_punctuation(text: tf.Tensor) -> tf.Tensor:
    """Spaces around each character that is no ASCII letter, digit or underscore, as T5 puts them.

    Letters outside ASCII are among them: "naïve" becomes "na ï ve".
    """
    return collapse_spaces(tf.strings.regex_replace(text, r"(\W)", r" \1 "))


def collapse_spaces(text: tf.Tensor) -> tf.Tensor:
    """One space for each run of white space, at the ends too."""
    return tf.strings.regex_replace(text, r"\s+", " ")


def all_answers(text: str, example, is_target: bool) -> str | list[str]:
    """A seqio postprocessor: a target is all of the example's answers, a prediction is as it is."""
    if is_target:
        return [answer.decode() for answer in example["answers"]]
    return text
