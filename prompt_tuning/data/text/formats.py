"""T5's text formats (Raffel et al., 2020, appendix D): data set examples -> "inputs", "targets".

Each function maps a tf.data.Dataset. Features that metrics need keep their names; nested names are
joined by "/".
"""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from prompt_tuning.data.text import postprocessors, preprocessors, questions


def _map(dataset: tf.data.Dataset, convert) -> tf.data.Dataset:
    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _map_inputs(dataset: tf.data.Dataset, convert) -> tf.data.Dataset:
    return _map(dataset, lambda example: {**example, "inputs": convert(example["inputs"])})


def _join(*parts) -> tf.Tensor:
    return tf.strings.join(parts, separator=" ")


def _index(example) -> dict[str, tf.Tensor]:
    """Returns the index of the example in its data set, if any, flattened if it is nested."""
    index = example.get("idx")
    if isinstance(index, Mapping):
        return {f"idx/{name}": value for name, value in index.items()}
    return {} if index is None else {"idx": index}


def _label_name(label: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
    """Returns the name of a label; UNKNOWN for -1."""
    return tf.gather(tf.constant([postprocessors.UNKNOWN, *names]), label + 1)


def glue(
    dataset: tf.data.Dataset,
    benchmark_name: str,
    label_names: Sequence[str],
    keys: Sequence[str] = (),
) -> tf.data.Dataset:
    """Formats GLUE-like examples as "BENCHMARK KEY: VALUE KEY: VALUE" -> the label's name.

    Args:
      dataset: {"label", texts, optional "idx"}.
      benchmark_name: first word of the inputs.
      label_names: names by label; -1, in test splits without answers, becomes "<unk>".
      keys: features to include, in order; by default all except idx and label, sorted.
    """

    def convert(example):
        parts = [benchmark_name]
        for key in keys or sorted(example.keys() - {"idx", "label"}):
            parts += [f"{key}:", example[key]]
        target = _label_name(example["label"], label_names)
        return {"inputs": _join(*parts), "targets": target, **_index(example)}

    return _map(dataset, convert)


def labelled_text(
    dataset: tf.data.Dataset, text_key: str, label_names: Sequence[str]
) -> tf.data.Dataset:
    """Formats labelled text as the unchanged text -> the label's name."""

    def convert(example):
        target = _label_name(example["label"], label_names)
        return {"inputs": example[text_key], "targets": target}

    return _map(dataset, convert)


def one_line(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Replaces each run of white space in the inputs by one space."""
    return _map_inputs(dataset, questions.collapse_spaces)


def summary(
    dataset: tf.data.Dataset, source_key: str, target_key: str, prefix: str = "summarize:"
) -> tf.data.Dataset:
    """Formats summarization as "PREFIX TEXT" -> the summary; line breaks are kept.

    Args:
      dataset: {`source_key`: text, `target_key`: its summary}.
      source_key: feature with the text.
      target_key: feature with the summary.
      prefix: text before the source.
    """

    def convert(example):
        return {"inputs": _join(prefix, example[source_key]), "targets": example[target_key]}

    return _map(dataset, convert)


def stsb(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Formats STS-B; the target is the similarity, 0 to 5, rounded to 0.2, e.g. "3.4"."""

    def convert(example):
        return {
            "inputs": _join(
                "stsb sentence1:", example["sentence1"], "sentence2:", example["sentence2"]
            ),
            "targets": tf.strings.as_string(tf.round(example["label"] * 5) / 5, precision=1),
            **_index(example),
        }

    return _map(dataset, convert)


def remove_markup(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Removes the HTML tags <br> and <b> of MultiRC from the inputs."""

    def convert(inputs):
        return tf.strings.regex_replace(tf.strings.regex_replace(inputs, "<br>", " "), "</?b>", "")

    return _map_inputs(dataset, convert)


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Formats ReCoRD with one example per answer, or one with target "<unk>" if there is none.

    "answers" keeps all answers. Highlights of the passage become sentences.
    """

    def convert(example):
        answers = example["answers"]
        unknown = tf.constant([postprocessors.UNKNOWN])
        targets = tf.cond(tf.size(answers) > 0, lambda: answers, lambda: unknown)
        common = {"inputs": _record_query(example), "answers": answers, **_index(example)}
        dataset = tf.data.Dataset.from_tensor_slices({"targets": targets})
        return dataset.map(lambda target: {**common, **target})

    return dataset.flat_map(convert)


def record_with_entities(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Formats ReCoRD with one example per query, for ranking its "entities"."""

    def convert(example):
        candidates = {name: example[name] for name in ("entities", "answers")}
        return {"inputs": _record_query(example), **candidates, **_index(example)}

    return _map(dataset, convert)


def _record_query(example) -> tf.Tensor:
    passage = tf.strings.regex_replace(example["passage"], r"""([.?!"'])\n@highlight\n""", r"\1 ")
    passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
    entities = tf.strings.reduce_join(example["entities"], separator=", ")
    return _join("record query:", example["query"], "entities:", entities, "passage:", passage)


def wsc(dataset: tf.data.Dataset, correct_only: bool = False) -> tf.data.Dataset:
    """Formats SuperGLUE's WSC as "wsc: text with a *pronoun*" -> a candidate referent.

    Args:
      dataset: TFDS's wsc.fixed.
      correct_only: keeps only examples whose candidate is the referent, for training.
    """

    def convert(example):
        words = tf.strings.split(example["text"], sep=" ")
        pronoun, position = example["span2_text"], example["span2_index"]

        def has_pronoun(word):
            return tf.strings.substr(word, 0, tf.strings.length(pronoun)) == pronoun

        # In one text the position is off by one; in another, punctuation follows without a space.
        position += tf.cast(~has_pronoun(words[position]), position.dtype)
        message = tf.strings.join(["no ", pronoun, " at span2_index of: ", example["text"]])
        tf.debugging.Assert(has_pronoun(words[position]), [message])
        rest = tf.strings.substr(words[position], tf.strings.length(pronoun), -1)
        rest = tf.cond(rest == "", lambda: "", lambda: tf.strings.join([" ", rest]))
        marked = tf.strings.join(["*", pronoun, "*", rest])
        text = tf.concat([words[:position], [marked], words[position + 1 :]], axis=0)
        return {
            "inputs": _join("wsc:", tf.strings.reduce_join(text, separator=" ")),
            "targets": example["span1_text"],
            "label": example["label"],
            **_index(example),
        }

    if correct_only:
        dataset = dataset.filter(lambda example: example["label"] == 1)
    return _map(dataset, convert)


def definite_pronoun(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Formats definite pronoun resolution as `wsc`, with the first matching pronoun marked."""

    def convert(example):
        pattern = tf.strings.join([" (", example["pronoun"], ")([ .,])"])
        text = tf.strings.regex_replace(
            example["sentence"], pattern, r" *\1*\2", replace_global=False
        )
        return {"inputs": _join("wsc:", text), "targets": example["candidates"][example["label"]]}

    return _map(dataset, convert)


def remove_first_text_token(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Removes the first word of the inputs, the name of the task."""
    return _map_inputs(dataset, lambda inputs: tf.strings.regex_replace(inputs, r"^\S+\s", ""))


def add_sentinel_to_beginning(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature], index: int
) -> tf.data.Dataset:
    """Prepends the sentinel <extra_id_INDEX> to the inputs.

    Args:
      dataset: {"inputs": int32[N]}.
      output_features: features with the model's vocabulary.
      index: index of the task.
    """
    sentinel = preprocessors.sentinels_end(output_features["inputs"].vocabulary) - 1 - index
    return _map_inputs(
        dataset, lambda inputs: tf.concat([tf.constant([sentinel], inputs.dtype), inputs], 0)
    )
