"""Inputs that are too long: shortens one field of them (TRUNCATE_FIELD), or says what is cut off."""

import logging
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

SPANS = "truncate_spans"  # the feature of an example that says where the field is
_SEARCHED = 64  # characters before a cut in which the field's own tokens may end

Encode = Callable[[str], Sequence[int]]


def truncate(text: str, spans: Int[np.ndarray, "k 2"], encode: Encode, length: int) -> str:
    """Cuts the end off a field until the text has at most `length` tokens.

    As much of the field is kept as fits, up to the end of one of its tokens. The text around it
    stays; where that alone is too long, the field is empty and the result is too long.

    Args:
      text: with the field.
      spans: first character, and character behind the last, of each occurrence of the field.
      encode: makes tokens of a text.
      length: tokens to keep, without an end token.
    """
    if len(encode(text)) <= length:
        return text
    start, end = map(int, spans[0])
    fits, too_long = 0, end - start
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if len(encode(_cut(text, spans, middle))) <= length:
            fits = middle
        else:
            too_long = middle
    shortened = _cut(text, spans, _last_token_end(text[start:end], fits, encode))
    if len(encode(shortened)) > length:  # the text behind makes other tokens of the field's end
        return _cut(text, spans, fits)
    return shortened


def _cut(text: str, spans: Int[np.ndarray, "k 2"], size: int) -> str:
    """The text with the first `size` characters of the field in each of its places."""
    kept, behind = [], 0
    for start, end in spans.tolist():
        kept += [text[behind:start], text[start : min(end, start + size)].rstrip()]
        behind = end
    return "".join([*kept, text[behind:]])


def _last_token_end(field: str, size: int, encode: Encode) -> int:
    """The end of the last token of the field within its first `size` characters."""
    ids = list(encode(field))
    for end in range(size, max(size - _SEARCHED, 0), -1):
        shorter = list(encode(field[:end]))
        if shorter == ids[: len(shorter)]:
            return end
    return size


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
            f"{lost}, as even without TRUNCATE_FIELD = {source.truncate_field!r} they are too long",
            "",
        )
    if end == source.input_template:
        return lost, ""
    return lost, f", or TRUNCATE_FIELD to the field to shorten in its place, one of {names}"
