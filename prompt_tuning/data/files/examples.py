"""The rows of your own TSV, CSV or JSONL file as examples: template, labels, and what is missing.

Every row is checked before anything else runs, and read again when it is its turn.
"""

import collections
import json
import logging
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from prompt_tuning.data.files import records, tables
from prompt_tuning.data.text import truncation

# What to do about a column that is not in the file, by the setting that names it.
_COLUMN_ADVICE = {
    "INPUT_TEMPLATE": "Use exactly these names in INPUT_TEMPLATE.",
    "TEXT_FILES": "Rename the column of the documents to 'text'.",
}
SHOWN_LINES = 5  # line numbers in a message
SHOWN_TARGETS = 10
# More distinct targets are free text, which is not counted: memory does not grow with the file.
COUNTED_TARGETS = 1000


def column(row: tables.Row, name: str, location: str, setting: str) -> str:
    """The value of a column as text, without white space around it; "" for JSON's null and NaN.

    Args:
      row: of a file.
      name: of the column.
      location: of the row, for messages.
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
            f"{location}: no column {name!r}; expected one of {columns}. "
            + _COLUMN_ADVICE.get(setting, f"Set {setting} to one of them.")
            + tables.separator_hint(columns)
        )
    return "" if _is_missing(value) else _json_text(value, name, location)


def _is_missing(value: Any) -> bool:
    """Whether it is null, NaN or blank."""
    return not value.strip() if isinstance(value, str) else value is None or value != value


def _json_text(value: Any, name: str, location: str) -> str:
    """A value that is not a string, as JSON writes it."""
    if isinstance(value, list | dict):
        kind = "a list" if isinstance(value, list) else "an object"
        raise ValueError(
            f"{location}: column {name!r} is {kind}, {json.dumps(value)[:60]}; expected text, a number, "
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
) -> records.Lazy:
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
      truncate_field: the column whose positions in the inputs are to be "truncate_spans", see
        `truncation`; or None.

    Raises:
      FileNotFoundError, ValueError: with file, line and the setting to correct.
    """
    template = _parse_template(input_template, truncate_field)
    find_label = _label_finder(label_map)

    def make(row: tables.Row, number: int, location: str) -> dict[str, Any] | None:
        texts: list[str] = []
        for literal, name in template:
            texts.append(literal)
            texts.append(column(row, name, location, "INPUT_TEMPLATE") if name else "")
        target = ""
        if target_column:
            target = column(row, target_column, location, "TARGET_COLUMN")
            if not target and all(map(_is_missing, row.values())):
                return None
            if label_map:
                target = find_label(target, location)
        example = {"inputs": "".join(texts), "targets": target, "row": number}
        if prompt_column:
            example["prompt"] = column(row, prompt_column, location, "PROMPT_COLUMN")
        if truncate_field is not None:
            example[truncation.SPANS] = _spans(texts, template, truncate_field)
        return example

    blank = "".join(literal for literal, _ in template)
    summary = RowSummary(f"{setting} {path}", target_column, blank)
    examples = records.by_number(path, setting, make, encoding=encoding, observe=summary.add)
    summary.report(allow_empty_targets=allow_empty_targets)
    return examples


def task_name(path: str) -> str:
    """The name of a file as a task: its stem."""
    return re.sub(r"\W", "_", epath.Path(path).name.split(".")[0])


def _label_finder(label_map: Mapping[Any, str] | None) -> Callable[[str, str], str]:
    """From a file's value, and its place for messages, to the target.

    A value that LABEL_MAP does not have is looked up by what it means: 1.0 is 1, True is true.
    """
    labels = {str(key): label for key, label in (label_map or {}).items()}
    by_meaning: dict[str, set[str]] = {}
    for key, label in labels.items():
        by_meaning.setdefault(_meaning(key), set()).add(label)

    def find(value: str, location: str) -> str:
        if value in labels:
            return labels[value]
        same = by_meaning.get(_meaning(value), set())
        if len(same) == 1:
            return next(iter(same))
        if not value:
            return ""
        raise ValueError(
            f"{location}: label {value!r} is not in LABEL_MAP; expected one of {list(labels)}. Add it to "
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


class RowSummary:
    """Counts the rows of one file while they are read."""

    def __init__(self, location: str, target_column: str | None, blank_inputs: str):
        """Counts nothing yet.

        Args:
          location: the file and its setting, for messages.
          target_column: TARGET_COLUMN; None where the file has no targets.
          blank_inputs: the inputs of a row whose fields are empty.
        """
        self._location, self._target_column, self._blank_inputs = (
            location,
            target_column,
            blank_inputs,
        )
        self._rows = 0
        self._skipped, self._without_inputs, self._without_target = Lines(), Lines(), Lines()
        self._targets: collections.Counter[str] | None = None
        if target_column is not None:
            self._targets = collections.Counter()

    def add(self, number: int, example: Mapping[str, Any] | None) -> None:
        """Counts the example of line `number`; None for a row that is skipped."""
        if example is None:
            self._skipped.add(number)
            return
        self._rows += 1
        if example["inputs"] == self._blank_inputs:
            self._without_inputs.add(number)
        target = example["targets"]
        if not target and self._target_column is not None:
            self._without_target.add(number)
        if self._targets is not None:
            self._targets[target] += 1
            if len(self._targets) > COUNTED_TARGETS:
                self._targets = None

    def report(self, *, allow_empty_targets: bool) -> None:
        """Logs the counts.

        Raises:
          ValueError: no row is left, or rows without target, unless `allow_empty_targets`.
        """
        if not self._rows:
            raise ValueError(
                f"{self._location} has no row of data, because all fields are empty; expected at least one. Add "
                "rows, or correct the path."
            )
        missing = self._without_target
        if missing.count and not allow_empty_targets:
            raise ValueError(
                f"{self._location}: column {self._target_column!r} (TARGET_COLUMN) is empty, null or NaN in "
                f"{missing.count} of {self._rows} rows ({missing}); expected a target in each. Fill in "
                "or delete these rows, or set ALLOW_EMPTY_TARGETS = True to train the model to predict an "
                "empty text."
            )
        skipped = f", {self._skipped.count} empty skipped ({self._skipped})"
        logging.info(
            "%s: rows read: %d%s%s",
            self._location, self._rows, skipped if self._skipped.count else "", self._describe_targets(),
        )  # fmt: skip
        if self._without_inputs.count:
            logging.warning(
                "%s: the fields of INPUT_TEMPLATE are empty in %d of %d rows (%s), which are kept. Correct or "
                "delete these rows.",
                self._location, self._without_inputs.count, self._rows, self._without_inputs,
            )  # fmt: skip

    def _describe_targets(self) -> str:
        if self._target_column is None:
            return ""
        if self._targets is None:
            return f"; over {COUNTED_TARGETS:,} distinct targets"
        common = self._targets.most_common(SHOWN_TARGETS)
        shown = ", ".join(f"{target[:40]!r} {count}" for target, count in common)
        others = len(self._targets) - len(common)
        return f"; targets: {shown}" + (f" and {others} more" if others else "")


class Lines:
    """How many lines there are of a kind, and which are the first.

    Attributes:
      count: of all of them.
    """

    def __init__(self):
        """None yet."""
        self.count = 0
        self._first: list[int] = []

    def add(self, number: int) -> None:
        """One more line."""
        self.count += 1
        if len(self._first) < SHOWN_LINES:
            self._first.append(number)

    def __str__(self) -> str:
        noun = "line" if self.count == 1 else "lines"
        return f"{noun} {', '.join(map(str, self._first))}" + (
            ", …" if self.count > SHOWN_LINES else ""
        )
