"""seqio postprocessors: from the model's text to the value that metrics compare.

Each is called twice per example: with the target's text (is_target=True) and with the predicted
text. Both calls get the example.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

INVALID = -1  # a prediction that is not a label
UNKNOWN = "<unk>"  # the target in splits without answers


def strip(text: str, **_example) -> str:
    """Removes white space at both ends."""
    return text.strip()


def as_written(text: str, vocabulary: Any, **_example) -> str:
    """Encodes and decodes a text, and removes white space at both ends.

    A prediction then equals a target that the vocabulary cannot represent exactly, such as capital
    letters in an uncased vocabulary.

    Args:
      text: target or prediction.
      vocabulary: encodes and decodes, like seqio's.
    """
    # Twice: an unknown token decodes to " ⁇ ", whose tokens differ from those of the unknown text.
    for _ in range(2):
        text = vocabulary.decode(vocabulary.encode(text))
    return text.strip()


def class_id(text: str, names: Sequence[str], **_example) -> int:
    """Returns the index of a label, or INVALID if the text is not a label."""
    text = text.strip()
    return list(names).index(text) if text in names else INVALID


def number(text: str, **_example) -> float:
    """Parses a decimal number; returns -1.0, which is outside all scales used, for other text."""
    # float() alone accepts "nan" and "infinity", which would make the metric NaN.
    return float(text) if re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", text) else -1.0


def multirc(text: str, *, example: Mapping[str, Any], **_is_target) -> dict[str, Any]:
    """Returns {"value": 0, 1 or INVALID, "group": question} of MultiRC."""
    group = int(example["idx/paragraph"]), int(example["idx/question"])
    return {"value": class_id(text, ("False", "True")), "group": group}


def record(text: str, *, example: Mapping[str, Any], is_target: bool = False) -> dict[str, Any]:
    """Returns {"value": prediction or all correct answers, "group": query} of ReCoRD."""
    group = int(example["idx/passage"]), int(example["idx/query"])
    answers = [_decode(answer) for answer in example["answers"]]
    return {"value": answers if is_target else text.strip(), "group": group}


def _decode(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


_DETERMINERS = re.compile(
    "a|an|the|this|that|these|those|my|your|his|her|our|their|which|whose|each|every|few|many|much"
    "|some"
)


def wsc(text: str, *, example: Mapping[str, Any], is_target: bool = False) -> int:
    """Returns the label of a target; of a prediction, 1 if it names the referent, else 0.

    The words of one must be a subset of those of the other ("fuzzy bunny" matches "bunny").
    Case and determiners are ignored. An apostrophe in only one of them is a difference: "Bob's
    hat" is not "Bob". INVALID for a prediction without content: 0 would be a correct prediction
    of label 0.
    """
    if is_target:
        return int(example["label"])
    prediction, referent = map(_content, (text, _decode(example["targets_pretokenized"])))
    if not prediction:
        return INVALID
    if ("'" in prediction) != ("'" in referent):
        return 0
    predicted_words, words = set(prediction.split(" ")), set(referent.split(" "))
    return int(predicted_words <= words or words <= predicted_words)


def _content(text: str) -> str:
    return " ".join(w for w in text.strip().lower().split(" ") if not _DETERMINERS.fullmatch(w))


def renamed(text: str, old: str, new: str, postprocess: Callable[..., Any], **arguments) -> Any:
    """Replaces the label name of the source task by that of the target, for zero-shot transfer."""
    return postprocess(text.replace(old, new), **arguments)


def with_text(text: str, postprocess: Callable[..., Any], **arguments) -> Any:
    """Adds to a prediction its text, and those of inputs and targets, for `metrics.samples`.

    Returns {"prediction", "prediction_pretokenized", "inputs_pretokenized",
    "targets_pretokenized"}, and of a target only the postprocessed value.
    """
    value = postprocess(text, **arguments)
    if arguments.get("is_target"):
        return value
    texts = {
        name: arguments["example"].get(name)
        for name in ("inputs_pretokenized", "targets_pretokenized")
    }
    return {"prediction": value, "prediction_pretokenized": text, **texts}
