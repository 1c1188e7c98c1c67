"""What is done to the model's text before it is compared with the target.

Each is called twice for an example: with the target's text (is_target=True) and with the
answer's, and gets the example.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

INVALID = -1  # of an answer that is no label
UNKNOWN = "<unk>"  # the target where a split has no answers


def strip(text: str, **_example) -> str:
    """The text without white space around it."""
    return text.strip()


def as_written(text: str, vocabulary: Any, **_example) -> str:
    """The text as a vocabulary writes it, without white space around it.

    So a prediction equals a target that the vocabulary cannot write exactly, such as capitals of
    an uncased one. `vocabulary` encodes and decodes, as seqio's.
    """
    # Twice: an unknown token decodes to " ⁇ ", which is encoded otherwise than the unknown text.
    for _ in range(2):
        text = vocabulary.decode(vocabulary.encode(text))
    return text.strip()


def class_id(text: str, names: Sequence[str], **_example) -> int:
    """The number of a label; INVALID for a text that is none."""
    text = text.strip()
    return list(names).index(text) if text in names else INVALID


def number(text: str, **_example) -> float:
    """The number that the text is; -1.0, which no scale here has, where it is none."""
    # Not float() alone: it takes "nan" and "infinity" too, which would make a metric so.
    return float(text) if re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", text) else -1.0


def multirc(text: str, *, example: Mapping[str, Any], **_is_target) -> dict[str, Any]:
    """{"value": 0 or 1 or INVALID, "group": the question} of MultiRC."""
    group = int(example["idx/paragraph"]), int(example["idx/question"])
    return {"value": class_id(text, ("False", "True")), "group": group}


def record(text: str, *, example: Mapping[str, Any], is_target: bool = False) -> dict[str, Any]:
    """{"value": the answer, or all that are right, "group": the query} of ReCoRD."""
    group = int(example["idx/passage"]), int(example["idx/query"])
    right = [_text(answer) for answer in example["answers"]]
    return {"value": right if is_target else text.strip(), "group": group}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


_DETERMINERS = re.compile(
    "a|an|the|this|that|these|those|my|your|his|her|our|their|which|whose|each|every|few|many|much"
    "|some"
)


def wsc(text: str, *, example: Mapping[str, Any], is_target: bool = False) -> int:
    """Of the target: the label. Of an answer: 1 where it names the referent that was asked for.

    The words of one must be among those of the other ("fuzzy bunny" is "bunny"); case and
    determiners do not matter. With an apostrophe in one only they differ: Bob's hat is not Bob.
    INVALID where nothing is left: 0 would be right wherever the label is.
    """
    if is_target:
        return int(example["label"])
    answer, referent = (_content(t) for t in (text, _text(example["targets_pretokenized"])))
    if not answer:
        return INVALID
    if ("'" in answer) != ("'" in referent):
        return 0
    words, expected = set(answer.split(" ")), set(referent.split(" "))
    return int(words <= expected or expected <= words)


def _content(text: str) -> str:
    return " ".join(w for w in text.strip().lower().split(" ") if not _DETERMINERS.fullmatch(w))


def renamed(text: str, old: str, new: str, postprocess: Callable[..., Any], **given) -> Any:
    """The label names of one task made those of another, for an answer of zero-shot transfer."""
    return postprocess(text.replace(old, new), **given)


def with_text(text: str, postprocess: Callable[..., Any], **given) -> Any:
    """Of an answer {"prediction", and the texts of it, of the inputs and of the targets}.

    So that metrics can show samples; see `metrics.of_prediction` and `metrics.samples`. Of a
    target only what `postprocess` makes of it.
    """
    value = postprocess(text, **given)
    if given.get("is_target"):
        return value
    kept = {name: given["example"].get(name) for name in _TEXTS}
    return {"prediction": value, "prediction_pretokenized": text, **kept}


_TEXTS = ("inputs_pretokenized", "targets_pretokenized")
