"""Your own TSV, CSV or JSONL file as a task, without code.

Every row is checked before anything else runs, and read again when it is its turn.
"""

import functools
import gzip
import io
import json
import re
import string
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from prompt_tuning.data.files import encodings, lazy, lines, records, row_summary, tables
from prompt_tuning.data.text import truncation

# What to do about a column that is not in the file, by the setting that names it.
_COLUMN_ADVICE = {
    "INPUT_TEMPLATE": "Use exactly these names in INPUT_TEMPLATE.",
    "TEXT_FILES": "Rename the column of the documents to 'text'.",
}


def read_text(path: str, setting: str) -> str:
    """The text of a UTF-8 file, unpacked if it ends in .gz, without a byte order mark.

    Raises FileNotFoundError or ValueError naming `setting`, the macro that the path is from.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{setting} {path} does not exist. Correct the path.")
    data = file.read_bytes()
    if file.suffix == ".gz":
        try:
            data = _unpack(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise lines.incomplete_gzip(f"{setting} {path}", error) from error
    return encodings.decode(data, 1, f"{setting} {path}", has_setting=False)


def _unpack(data: bytes) -> bytes:
    limit = lines.unpacked_limit(len(data))
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        unpacked = file.read(limit + 1)
    lines.check_unpacked(len(unpacked), limit)
    return unpacked


def find(patterns: Sequence[str], setting: str) -> list[str]:
    """The files of several paths or patterns such as "corpus/*.jsonl", in order.

    Raises ValueError where `patterns` is a string, FileNotFoundError where one matches no file.
    """
    if isinstance(patterns, str):
        raise ValueError(
            f"{setting} is {patterns!r}; expected a list. Set {setting} = [{patterns!r}]."
        )
    paths: list[str] = []
    for pattern in map(epath.Path, patterns):
        matching = sorted(pattern.parent.glob(pattern.name))
        if not matching:
            raise FileNotFoundError(
                f"{setting} {pattern} matches no file. Correct the path or pattern."
            )
        paths += map(str, matching)
    return paths


def column(row: tables.Row, name: str, place: str, setting: str) -> str:
    """The value of a column as text, without white space around it; "" for JSON's null and NaN.

    Args:
      row: of a file.
      name: of the column.
      place: of the row, for messages.
      setting: the macro that names the column.

    Raises:
      ValueError: the row has no such column, or a list or an object in it.
    """
    value = row.get(name)
    if type(value) is str:
        return value.strip()
    if name not in row:
        columns = list(row)
        raise ValueError(
            f"{place}: no column {name!r}; expected one of {columns}. "
            + _COLUMN_ADVICE.get(setting, f"Set {setting} to one of them.")
            + tables.separator_hint(columns)
        )
    return "" if _is_missing(value) else _json_text(value, name, place)


def _is_missing(value: Any) -> bool:
    """Whether it is null, NaN or blank."""
    return not value.strip() if isinstance(value, str) else value is None or value != value


def _json_text(value: Any, name: str, place: str) -> str:
    """A value that is not a string, as JSON writes it."""
    if isinstance(value, list | dict):
        kind = "a list" if isinstance(value, list) else "an object"
        raise ValueError(
            f"{place}: column {name!r} is {kind}, {json.dumps(value)[:60]}; expected text, a number, "
            "true or false. Join its items to one text, or write one column per item."
        )
    return json.dumps(value)


def read_examples(
    path: str,
    *,
    setting: str,
    input_template: str,
    target_column: str | None,
    label_map: Mapping[Any, str] | None = None,
    prompt_column: str | None = None,
    encoding: str = "utf-8",
    allow_empty_targets: bool = False,
    truncate_field: str | None = None,
) -> lazy.Lazy:
    """A file's rows as {"inputs": text, "targets": text, "row": number from 0}, read when asked for.

    Blank lines are skipped; where there is a target column, so are rows without any text.

    Args:
      path: of a .tsv (header, tabs; quoted as CSV or not, see `quoting`), .csv (header, quoted as
        spreadsheets do) or .jsonl (an object a line) file, or one of them with .gz.
      setting: the macro that the path is from, for messages.
      input_template: text with column names in braces: "sst2 sentence: {sentence}".
      target_column: the column to be predicted; None where there is none, targets are "".
      label_map: from the file's value to the target; None to take values as they are.
      prompt_column: the column that names the prompt of a row, to be its "prompt"; or None.
      encoding: FILE_ENCODING; a byte order mark takes precedence.
      allow_empty_targets: whether a row may have no target.
      truncate_field: the column whose places in the inputs are to be "truncate_spans", see
        `truncation`; or None.

    Raises:
      FileNotFoundError, ValueError: with file, line and the setting to correct.
    """
    template = _parse_template(input_template, truncate_field)
    find_label = _label_finder(label_map)

    def make(row: tables.Row, number: int, place: str) -> dict[str, Any] | None:
        texts: list[str] = []
        for literal, name in template:
            texts.append(literal)
            texts.append(column(row, name, place, "INPUT_TEMPLATE") if name else "")
        target = ""
        if target_column:
            target = column(row, target_column, place, "TARGET_COLUMN")
            if not target and all(map(_is_missing, row.values())):
                return None
            if label_map:
                target = find_label(target, place)
        example = {"inputs": "".join(texts), "targets": target, "row": number}
        if prompt_column:
            example["prompt"] = column(row, prompt_column, place, "PROMPT_COLUMN")
        if truncate_field is not None:
            example[truncation.SPANS] = _spans(texts, template, truncate_field)
        return example

    blank = "".join(literal for literal, _ in template)
    summary = row_summary.RowSummary(f"{setting} {path}", target_column, blank)
    examples = records.by_number(path, setting, make, encoding=encoding, observe=summary.add)
    summary.report(allow_empty_targets=allow_empty_targets)
    return examples


def _label_finder(label_map: Mapping[Any, str] | None) -> Callable[[str, str], str]:
    """From a file's value, and its place for messages, to the target.

    A value that LABEL_MAP does not have is looked up by what it means: 1.0 is 1, True is true.
    """
    labels = {str(key): label for key, label in (label_map or {}).items()}
    by_meaning: dict[str, set[str]] = {}
    for key, label in labels.items():
        by_meaning.setdefault(_meaning(key), set()).add(label)

    def find(value: str, place: str) -> str:
        if value in labels:
            return labels[value]
        same = by_meaning.get(_meaning(value), set())
        if len(same) == 1:
            return next(iter(same))
        if not value:
            return ""
        raise ValueError(
            f"{place}: label {value!r} is not in LABEL_MAP; expected one of {list(labels)}. Add it to "
            "LABEL_MAP, or correct the row."
        )

    return find


def _meaning(value: str) -> str:
    if value.lower() in ("true", "false"):
        return value.lower()
    # pandas makes floats of whole numbers where one is missing.
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", value)


def _spans(
    texts: Sequence[str], template: Sequence[tuple[str, str | None]], field: str
) -> Int[np.ndarray, "k 2"]:
    """Where the values of a field begin and end in the joined texts, literals and values in turn."""
    ends = np.cumsum([len(text) for text in texts])
    which = [2 * i + 1 for i, (_, name) in enumerate(template) if name == field]
    return np.array([(ends[i - 1], ends[i]) for i in which], np.int32)


def _parse_template(template: str, truncate_field: str | None) -> list[tuple[str, str | None]]:
    """(text, column name after it) pairs, one of them with the field to shorten."""
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"INPUT_TEMPLATE {template!r} is not a valid template ({error}); expected column names in "
            "braces, such as 'sentence: {sentence}'. Double a brace that is text: '{{' or '}}'."
        ) from error
    for _, name, format_spec, conversion in fields:
        if format_spec or conversion:
            raise ValueError(
                f"INPUT_TEMPLATE {template!r} has a format after {name!r}; expected only column names in "
                f"braces. Write {f'{{{name}}}'!r}, and rename a column whose name has ':' or '!'."
            )
    pieces = [(literal, name) for literal, name, *_ in fields]
    names = [name for _, name in pieces if name]
    if not names:
        raise ValueError(
            f"INPUT_TEMPLATE {template!r} has no column; expected at least one column name in braces. Set "
            "e.g. INPUT_TEMPLATE = 'sentence: {sentence}'."
        )
    if truncate_field is not None and truncate_field not in names:
        raise ValueError(
            f"TRUNCATE_FIELD is {truncate_field!r}; expected a field of INPUT_TEMPLATE {template!r}. Set it "
            f"to one of {names}."
        )
    return pieces


def file_task(path: str, *, split: str, vocabulary, **settings: Any):
    """A seqio task, not registered, of one file as one split; its name is the file's stem.

    Args:
      path: of the file.
      split: that the file is read as.
      vocabulary: a seqio.Vocabulary; see `features.features`.
      **settings: of `read_examples`, which says what it raises.
    """
    import seqio

    from prompt_tuning.data import features, in_memory
    from prompt_tuning.data.text import metrics, postprocessors, preprocessors

    examples = read_examples(path, **settings)
    steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]
    if settings.get("truncate_field") is not None:
        steps.insert(0, preprocessors.truncate_field)
    return seqio.Task(
        re.sub(r"\W", "_", epath.Path(path).name.split(".")[0]),
        source=in_memory.InMemory({split: examples}),
        preprocessors=steps,
        output_features=features.features(vocabulary),
        postprocess_fn=functools.partial(postprocessors.as_written, vocabulary=vocabulary),
        metric_fns=[metrics.accuracy],
        # The source shuffles the whole.
        shuffle_buffer_size=None,
    )
