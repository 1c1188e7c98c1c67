"""T5's text formats: an example of a data set -> the text "inputs" and "targets".

The formats are those that T5 was trained on (Raffel et al., 2020, appendix D). Each function
maps a tf.data.Dataset; what metrics need of an example is kept under its name, nested names
joined by "/".
"""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from prompt_tuning.data.text import postprocessors, preprocessors, questions


def _map(dataset: tf.data.Dataset, convert) -> tf.data.Dataset:
    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _words(*parts) -> tf.Tensor:
    return tf.strings.join(parts, separator=" ")


def _index(example) -> dict[str, tf.Tensor]:
    """The example's number in its data set, or numbers, where it has such."""
    index = example.get("idx")
    if isinstance(index, Mapping):
        return {f"idx/{name}": number for name, number in index.items()}
    return {} if index is None else {"idx": index}


def _label_name(label: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
    """UNKNOWN for -1."""
    return tf.gather(tf.constant([postprocessors.UNKNOWN, *names]), label + 1)


def glue(
    dataset: tf.data.Dataset,
    benchmark_name: str,
    label_names: Sequence[str],
    keys: Sequence[str] = (),
) -> tf.data.Dataset:
    """GLUE, SuperGLUE and their like: "BENCHMARK KEY: VALUE KEY: VALUE" -> the label's name.

    Args:
      dataset: of {"label", texts, and perhaps "idx"}.
      benchmark_name: the first word.
      label_names: by label; -1, of a test split without answers, becomes "<unk>".
      keys: what is told, in order; without, all but idx and label, in order of the alphabet.
    """

    def convert(example):
        parts = [benchmark_name]
        for key in keys or sorted(example.keys() - {"idx", "label"}):
            parts += [f"{key}:", example[key]]
        target = _label_name(example["label"], label_names)
        return {"inputs": _words(*parts), "targets": target, **_index(example)}

    return _map(dataset, convert)


def labelled_text(
    dataset: tf.data.Dataset, text_key: str, label_names: Sequence[str]
) -> tf.data.Dataset:
    """A text as it is -> the name of its label."""

    def convert(example):
        target = _label_name(example["label"], label_names)
        return {"inputs": example[text_key], "targets": target}

    return _map(dataset, convert)


def one_line(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Makes each run of white space in the inputs one space."""

    def convert(example):
        return {**example, "inputs": questions.collapse_spaces(example["inputs"])}

    return _map(dataset, convert)


def summary(
    dataset: tf.data.Dataset, source_key: str, target_key: str, prefix: str = "summarize:"
) -> tf.data.Dataset:
    """ "PREFIX TEXT" -> the summary, both as they are, line breaks too.

    Args:
      dataset: of {`source_key`: text, `target_key`: its summary}.
      source_key: what is summarised.
      target_key: the summary.
      prefix: what stands in front of the text.
    """

    def convert(example):
        return {"inputs": _words(prefix, example[source_key]), "targets": example[target_key]}

    return _map(dataset, convert)


def stsb(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """STS-B: the target is the similarity, 0 to 5, to the nearest 0.2, e.g. "3.4"."""

    def convert(example):
        return {
            "inputs": _words(
                "stsb sentence1:", example["sentence1"], "sentence2:", example["sentence2"]
            ),
            "targets": tf.strings.as_string(tf.round(example["label"] * 5) / 5, precision=1),
            **_index(example),
        }

    return _map(dataset, convert)


def remove_markup(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Takes MultiRC's line breaks and bold type, written as HTML, out of the inputs."""

    def convert(example):
        inputs = tf.strings.regex_replace(example["inputs"], "<br>", " ")
        return {**example, "inputs": tf.strings.regex_replace(inputs, "</?b>", "")}

    return _map(dataset, convert)


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """ReCoRD: one example for each answer; without answers one, of target "<unk>".

    All answers are kept as "answers". A highlight of the passage becomes a sentence of it.
    """

    def convert(example):
        answers = example["answers"]
        unknown = tf.constant([postprocessors.UNKNOWN])
        targets = tf.cond(tf.size(answers) > 0, lambda: answers, lambda: unknown)
        common = {"inputs": _record_query(example), "answers": answers, **_index(example)}
        several = tf.data.Dataset.from_tensor_slices({"targets": targets})
        return several.map(lambda one: {**common, **one})

    return dataset.flat_map(convert)


def record_with_entities(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """ReCoRD for ranking its "entities", of which "answers" are right: one example for each query."""

    def convert(example):
        kept = {name: example[name] for name in ("entities", "answers")}
        return {"inputs": _record_query(example), **kept, **_index(example)}

    return _map(dataset, convert)


def _record_query(example) -> tf.Tensor:
    passage = tf.strings.regex_replace(example["passage"], r"""([.?!"'])\n@highlight\n""", r"\1 ")
    passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
    entities = tf.strings.reduce_join(example["entities"], separator=", ")
    return _words("record query:", example["query"], "entities:", entities, "passage:", passage)


def wsc(dataset: tf.data.Dataset, correct_only: bool = False) -> tf.data.Dataset:
    """SuperGLUE's Winograd schemas: "wsc: text with a *pronoun*" -> what it may stand for.

    Args:
      dataset: of wsc.fixed.
      correct_only: for training: leaves out where the pronoun stands for something else.
    """

    def convert(example):
        words = tf.strings.split(example["text"], sep=" ")
        pronoun, position = example["span2_text"], example["span2_index"]

        def starts_with_it(word):
            return tf.strings.substr(word, 0, tf.strings.length(pronoun)) == pronoun

        # Of one text the position is off by one; in another a mark is joined to the pronoun.
        position += tf.cast(~starts_with_it(words[position]), position.dtype)
        message = tf.strings.join(["no ", pronoun, " at span2_index of: ", example["text"]])
        tf.debugging.Assert(starts_with_it(words[position]), [message])
        mark = tf.strings.substr(words[position], tf.strings.length(pronoun), -1)
        mark = tf.cond(mark == "", lambda: "", lambda: tf.strings.join([" ", mark]))
        marked = tf.strings.join(["*", pronoun, "*", mark])
        text = tf.concat([words[:position], [marked], words[position + 1 :]], axis=0)
        return {
            "inputs": _words("wsc:", tf.strings.reduce_join(text, separator=" ")),
            "targets": example["span1_text"],
            "label": example["label"],
            **_index(example),
        }

    if correct_only:
        dataset = dataset.filter(lambda example: example["label"] == 1)
    return _map(dataset, convert)


def definite_pronoun(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Definite pronoun resolution in the format of `wsc`: the first such pronoun is marked."""

    def convert(example):
        pattern = tf.strings.join([" (", example["pronoun"], ")([ .,])"])
        text = tf.strings.regex_replace(
            example["sentence"], pattern, r" *\1*\2", replace_global=False
        )
        return {"inputs": _words("wsc:", text), "targets": example["candidates"][example["label"]]}

    return _map(dataset, convert)


def remove_first_text_token(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Takes the first word, which names the task, off the inputs."""

    def convert(example):
        return {**example, "inputs": tf.strings.regex_replace(example["inputs"], r"^\S+\s", "")}

    return _map(dataset, convert)


def add_sentinel_to_beginning(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature], index: int
) -> tf.data.Dataset:
    """Puts the sentinel <extra_id_INDEX>, the id that far from the last sentinel's, first.

    Args:
      dataset: of {"inputs": int32[N]}.
      output_features: their vocabulary is the model's.
      index: of the task.
    """
    sentinel = preprocessors.sentinels_end(output_features["inputs"].vocabulary) - 1 - index

    def convert(example):
        inputs = example["inputs"]
        return {**example, "inputs": tf.concat([tf.constant([sentinel], inputs.dtype), inputs], 0)}

    return _map(dataset, convert)
