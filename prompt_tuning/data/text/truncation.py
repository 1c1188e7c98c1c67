"""Inputs that are too long: shortens one field of them (TRUNCATE_FIELD), or says what is cut off."""

import bisect
import logging
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

SPANS = "truncate_spans"  # the feature of an example that says where the field is
_SEARCHED = 32  # characters in which the ends of tokens are looked for one by one

Encode = Callable[[str], Sequence[int]]


def truncate(text: str, spans: Int[np.ndarray, "k 2"], encode: Encode, length: int) -> str:
    """Cuts the end off a field until the text has at most `length` tokens.

    As much of the field is kept as fits: complete words, and complete tokens of the next word. The
    text around the field stays; where that alone is too long, the field is empty.

    Args:
      text: with the field.
      spans: first character, and character behind the last, of each occurrence of the field.
      encode: makes tokens of a text.
      length: tokens to keep, without an end token.
    """

    def fits(size: int) -> bool:
        return len(encode(_cut(text, spans, size))) <= length

    if len(encode(text)) <= length:
        return text
    field = text[slice(*spans[0].tolist())]
    ends = [0, *(word.end() for word in re.finditer(r"\S+", field))]
    words = bisect.bisect_left(ends, True, key=lambda end: not fits(end)) - 1
    if words < 0:
        return _cut(text, spans, 0)
    end = ends[words]
    if words + 1 < len(ends):
        next_word = field[end : ends[words + 1]]
        end += _size_of_tokens(next_word, encode, lambda size: fits(end + size))
    return _cut(text, spans, end)


def _size_of_tokens(word: str, encode: Encode, fits: Callable[[int], bool]) -> int:
    """Characters of the first tokens of a word, as many as fit."""
    low, high = 0, len(word)
    while high - low > _SEARCHED:  # a script without spaces
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    tokens = list(encode(word))
    for size in range(high - 1, low, -1):
        ids = list(encode(word[:size]))
        if ids == tokens[: len(ids)] and fits(size):
            return size
    return low


def _cut(text: str, spans: Int[np.ndarray, "k 2"], size: int) -> str:
    """The text with the first `size` characters of the field in each of its places."""
    kept, behind = [], 0
    for start, end in spans.tolist():
        kept += [text[behind:start], text[start : min(end, start + size)].rstrip()]
        behind = end
    return "".join([*kept, text[behind:]])


def warn_of_cuts(name: str, key: str, sizes: Sequence[int], limit: int, source: Any) -> None:
    """Logs how many inputs or targets are longer than the limit, what they lose, and the fix.

    Args:
      name: of the examples.
      key: "inputs" or "targets".
      sizes: tokens of each example.
      limit: TASK_FEATURE_LENGTHS of this key.
      source: where the examples come from; None for examples in memory.
    """
    cut = sum(size > limit for size in sizes)
    if not cut:
        return
    setting = "task_feature_lengths" if source is None else "TASK_FEATURE_LENGTHS"
    is_file = key == "inputs" and getattr(source, "files", None)
    lost, fix = _template_advice(source) if is_file else ("", "")
    logging.warning(
        "%s: the %s of %d of %d examples (%.0f %%) have more than %s[%r] = %d tokens, the longest %d; "
        "the end of each is cut off%s. Set %s[%r] to %d%s.",
        name, key, cut, len(sizes), 100 * cut / len(sizes), setting, key, limit, max(sizes),
        lost, setting, key, max(sizes), fix,
    )  # fmt: skip


def _template_advice(source: Any) -> tuple[str, str]:
    """What of INPUT_TEMPLATE is lost where its end is cut off, and the setting to avoid it."""
    pieces = [
        (literal, name) for literal, name, _, _ in string.Formatter().parse(source.input_template)
    ]
    names = [name for _, name in pieces if name]
    end = f"{{{names[-1]}}}" + "".join(literal for literal, name in pieces if not name)
    lost = f", which is {end!r} of INPUT_TEMPLATE"
    if source.truncate_field is not None:
        return (
            f"{lost}, because they are too long even with an empty {source.truncate_field!r} (TRUNCATE_FIELD)",
            "",
        )
    if end == source.input_template:
        return lost, ""
    return lost, f", or set TRUNCATE_FIELD to the field to shorten instead, one of {names}"
