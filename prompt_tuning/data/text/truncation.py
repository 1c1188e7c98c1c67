"""Truncation of a single field of the inputs (TRUNCATE_FIELD), and warnings about truncation."""

import bisect
import logging
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

SPANS = "truncate_spans"  # feature with the positions of the field
_LINEAR_SEARCH = 32  # characters; longer words are bisected first

Encode = Callable[[str], Sequence[int]]


def truncate(text: str, spans: Int[np.ndarray, "k 2"], encode: Encode, length: int) -> str:
    """Truncates a field so that the text has at most `length` tokens.

    The field keeps the complete words that fit, and the complete tokens of the next word. If the
    text around the field is already too long, the field is empty.

    Args:
      text: text with the field.
      spans: start and end character of each occurrence of the field.
      encode: tokenizes a text.
      length: maximum number of tokens, without EOS.
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
    """Returns the number of characters of the leading tokens of a word that fit."""
    low, high = 0, len(word)
    while high - low > _LINEAR_SEARCH:  # a script without spaces
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    tokens = list(encode(word))
    for size in range(high - 1, low, -1):
        ids = list(encode(word[:size]))
        if ids == tokens[: len(ids)] and fits(size):
            return size
    return low


def _cut(text: str, spans: Int[np.ndarray, "k 2"], size: int) -> str:
    """Truncates each occurrence of the field to `size` characters."""
    parts, previous_end = [], 0
    for start, end in spans.tolist():
        parts += [text[previous_end:start], text[start : min(end, start + size)].rstrip()]
        previous_end = end
    return "".join([*parts, text[previous_end:]])


def warn_of_cuts(name: str, key: str, sizes: Sequence[int], limit: int, source: Any) -> None:
    """Logs how many inputs or targets exceed the limit, what is truncated, and the fix.

    Args:
      name: name of the examples.
      key: "inputs" or "targets".
      sizes: number of tokens per example.
      limit: TASK_FEATURE_LENGTHS of this key.
      source: source of the examples; None for examples in memory.
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
    """Returns the part of INPUT_TEMPLATE that is truncated, and the setting that avoids it."""
    parts = [
        (literal, name) for literal, name, _, _ in string.Formatter().parse(source.input_template)
    ]
    names = [name for _, name in parts if name]
    end = f"{{{names[-1]}}}" + "".join(literal for literal, name in parts if not name)
    lost = f", which is {end!r} of INPUT_TEMPLATE"
    if source.truncate_field is not None:
        return (
            f"{lost}, because they are too long even with an empty {source.truncate_field!r} (TRUNCATE_FIELD)",
            "",
        )
    if end == source.input_template:
        return lost, ""
    return lost, f", or set TRUNCATE_FIELD to the field to shorten instead, one of {names}"
