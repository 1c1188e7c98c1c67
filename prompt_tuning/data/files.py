"""Your own TSV, CSV or JSONL file as a task, without code.

Files are read whole and checked before anything else runs.
"""

import csv
import gzip
import io
import json
import re
import string
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

Row = Mapping[str, Any]
# How many times its size a .gz file may unpack to, and how many bytes one may always.
LARGEST_RATIO, LEAST_UNPACKED = 200, 2**24


def read_text(path: str, setting: str) -> str:
    """The text of a UTF-8 file, unpacked if it ends in .gz, without a byte order mark.

    Raises FileNotFoundError or ValueError naming `setting`, the macro that the path is from.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{setting} {path} does not exist")
    data = file.read_bytes()
    if file.suffix == ".gz":
        try:
            data = _unpack(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{setting} {path} is no whole gzip file: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{setting} {path}, line {line}: not UTF-8 ({error.reason})") from error


def _unpack(data: bytes) -> bytes:
    limit = max(LARGEST_RATIO * len(data), LEAST_UNPACKED)
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        unpacked = file.read(limit + 1)
    if len(unpacked) > limit:
        raise gzip.BadGzipFile(
            f"it holds over {LARGEST_RATIO} times its size; unpack it with gunzip"
        )
    return unpacked


def parse_json(text: str, place: str) -> Any:
    """What a JSON text says. Raises ValueError naming `place` for one that is none, too deep or no text."""
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a pair is no text, and cannot be written
            json.dumps(value, ensure_ascii=False).encode()
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{place}: not JSON ({error})") from error
    return value


def read_rows(path: str, setting: str) -> Iterator[tuple[int, Row]]:
    """(line number, {column: value}) of each row of a TSV, CSV or JSONL file."""
    suffix = epath.Path(path.removesuffix(".gz")).suffix
    if suffix not in _READERS:
        raise ValueError(
            f"{setting} {path} ends in {suffix or 'no suffix'!r}; "
            f"expected one of {', '.join(_READERS)}, or one of them with .gz"
        )
    text = read_text(path, setting).rstrip("\r\n")
    place = f"{setting} {path}"
    empty = True
    for row in _READERS[suffix](text, place):
        empty = False
        yield row
    if empty:
        raise ValueError(f"{place} has no row of data; expected at least one")


def _tsv_rows(text: str, place: str) -> Iterator[tuple[int, Row]]:
    # Not the csv module: in a TSV file of sentences a quote is only a quote.
    lines = [line.removesuffix("\r").split("\t") for line in text.split("\n")]
    return _with_header(enumerate(lines, start=1), place)


def _csv_rows(text: str, place: str) -> Iterator[tuple[int, Row]]:
    # A document may be longer than the module's 131,072 characters.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)

    def numbered():
        start = 1
        try:
            for fields in reader:
                yield start, fields
                start = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{place}, line {start}: not CSV ({error})") from error

    return _with_header(numbered(), place)


def _with_header(lines: Iterator[tuple[int, list[str]]], place: str) -> Iterator[tuple[int, Row]]:
    _, header = next(lines, (1, []))
    for number, fields in lines:
        if len(fields) != len(header):
            raise ValueError(
                f"{place}, line {number}: {len(fields)} fields; "
                f"expected the {len(header)} of the header, {header}"
            )
        yield number, dict(zip(header, fields, strict=True))


def _jsonl_rows(text: str, place: str) -> Iterator[tuple[int, Row]]:
    # Not splitlines: JSON strings may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n") if text else [], start=1):
        row = parse_json(line, f"{place}, line {number}")
        if not isinstance(row, dict):
            raise ValueError(f"{place}, line {number}: {line[:40]}; expected a JSON object")
        yield number, row


_READERS = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _jsonl_rows}


def column(row: Row, name: str, place: str, setting: str) -> str:
    """The value as text without white space around it; ValueError where the row has none."""
    if row.get(name) is None:
        raise ValueError(f"{place}: no column {name!r}; it has {list(row)}; set {setting}")
    return str(row[name]).strip()


def read_examples(
    path: str,
    *,
    setting: str,
    input_template: str,
    target_column: str | None,
    label_map: Mapping[Any, str] | None = None,
    prompt_column: str | None = None,
) -> list[dict[str, Any]]:
    """A file's rows as {"inputs": text, "targets": text, "row": number from 0}.

    Args:
      path: of a .tsv (header, tabs, quotes as they are), .csv (header, quoted as
        spreadsheets do) or .jsonl (an object a line) file, or one of them with .gz.
      setting: the macro that the path is from, for messages.
      input_template: text with column names in braces: "sst2 sentence: {sentence}".
      target_column: the column to be predicted; None where there is none, targets are "".
      label_map: from the file's value to the target; None to take values as they are.
      prompt_column: the column that names the prompt of a row, to be its "prompt"; or None.

    Raises:
      FileNotFoundError, ValueError: with file, line and the setting to mend.
    """
    template = _parse_template(input_template)
    labels = {str(value): label for value, label in (label_map or {}).items()}
    examples = []
    for number, row in read_rows(path, setting):
        place = f"{setting} {path}, line {number}"
        inputs = "".join(
            literal + (column(row, name, place, "INPUT_TEMPLATE") if name else "")
            for literal, name in template
        )
        target = column(row, target_column, place, "TARGET_COLUMN") if target_column else ""
        if target_column and labels:
            if target not in labels:
                raise ValueError(f"{place}: label {target!r}; LABEL_MAP has {list(labels)}")
            target = labels[target]
        examples.append({"inputs": inputs, "targets": target, "row": len(examples)})
        if prompt_column:
            examples[-1]["prompt"] = column(row, prompt_column, place, "PROMPT_COLUMN")
    return examples


def _parse_template(template: str) -> list[tuple[str, str | None]]:
    """(text, column name after it) pairs."""
    try:
        pieces = [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"INPUT_TEMPLATE {template!r}: {error}") from error
    if not any(name for _, name in pieces):
        raise ValueError(
            f"INPUT_TEMPLATE {template!r} names no column; expected e.g. 'sentence: {{sentence}}'"
        )
    return pieces


def file_task(
    path: str,
    *,
    split: str,
    setting: str,
    vocabulary,
    input_template: str,
    target_column: str | None,
    label_map: Mapping[Any, str] | None = None,
    prompt_column: str | None = None,
):
    """A seqio task, not registered, of one file as one split; its name is the file's stem.

    For `vocabulary` (a seqio.Vocabulary), the other settings and errors see
    `features.features` and `read_examples`.
    """
    import seqio

    from prompt_tuning.data import features, in_memory, metrics, postprocessors

    examples = read_examples(
        path,
        setting=setting,
        input_template=input_template,
        target_column=target_column,
        label_map=label_map,
        prompt_column=prompt_column,
    )
    return seqio.Task(
        re.sub(r"\W", "_", epath.Path(path).name.split(".")[0]),
        source=in_memory.InMemory({split: examples}),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=features.features(vocabulary),
        postprocess_fn=postprocessors.strip,
        metric_fns=[metrics.accuracy],
        # The source shuffles the whole.
        shuffle_buffer_size=None,
    )
