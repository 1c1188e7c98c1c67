"""Your own TSV, CSV or JSONL file as a task, without code.

Every row is checked before anything else runs, and read again when it is its turn.
"""

import functools
import gzip
import io
import re
import string
import zlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from prompt_tuning.data import lazy, records


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
    limit = records.unpacked_limit(len(data))
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        unpacked = file.read(limit + 1)
    records.check_unpacked(len(unpacked), limit)
    return unpacked


def column(row: records.Row, name: str, place: str, setting: str) -> str:
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
) -> lazy.Lazy:
    """A file's rows as {"inputs": text, "targets": text, "row": number from 0}, read when asked for.

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

    def make(row: records.Row, number: int, place: str) -> dict[str, Any]:
        inputs = "".join(
            literal + (column(row, name, place, "INPUT_TEMPLATE") if name else "")
            for literal, name in template
        )
        target = column(row, target_column, place, "TARGET_COLUMN") if target_column else ""
        if target_column and labels:
            if target not in labels:
                raise ValueError(f"{place}: label {target!r}; LABEL_MAP has {list(labels)}")
            target = labels[target]
        example = {"inputs": inputs, "targets": target, "row": number}
        if prompt_column:
            example["prompt"] = column(row, prompt_column, place, "PROMPT_COLUMN")
        return example

    return records.by_number(path, setting, make)


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
        postprocess_fn=functools.partial(postprocessors.as_written, vocabulary=vocabulary),
        metric_fns=[metrics.accuracy],
        # The source shuffles the whole.
        shuffle_buffer_size=None,
    )
