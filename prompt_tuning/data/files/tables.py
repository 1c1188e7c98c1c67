"""Rows of a TSV, CSV or JSON Lines file, one after the other: {column: value}."""

import collections
import csv
import functools
import io
import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from etils import epath

from prompt_tuning.data.files import lines, quoting

Row = Mapping[str, Any]
SUFFIXES = (".tsv", ".csv", ".jsonl", ".json")
TEXT_SUFFIXES = (".txt", *SUFFIXES)  # a line of text is a row too
# Excel's first line that names the separator of the others.
_SEPARATOR_LINE = re.compile(r'"?sep=([\t !#-/:-@[-^{-~])"?[\r\n]', re.IGNORECASE)
_SEPARATORS = (",", ";", "\t", "|")
_UNPRINTED = b" \r\n"


class Table:
    """How the rows of one file are separated and read.

    Attributes:
      location: the file and its setting, for messages.
      coding: of the file.
    """

    def __init__(
        self,
        path: str,
        setting: str,
        suffixes: Sequence[str] = SUFFIXES,
        encoding: str | None = None,
    ):
        """Detects encoding, separator and quoting.

        Args:
          path: of the file.
          setting: the macro that the path is from, for messages.
          suffixes: those that the file may have, before .gz.
          encoding: FILE_ENCODING; None for UTF-8 where that setting does not apply.

        Raises:
          ValueError: another suffix or encoding; and as `lines.read_lines`.
        """
        suffix = epath.Path(path.removesuffix(".gz")).suffix.lower()
        self.location = f"{setting} {path}"
        if suffix not in suffixes:
            raise ValueError(
                f"{self.location} {f'ends in {suffix!r}' if suffix else 'has no suffix'}; expected one of "
                f"{', '.join(suffixes)}, or one of them with .gz. Save the table as one of them, "
                "e.g. as 'CSV UTF-8' in Excel or with to_csv in pandas; for lines of text, name the file .tsv "
                "and add a column name as first line."
            )
        codec = "utf-8" if encoding is None else encoding
        lines.check_encoding(codec)
        self._path, self._setting = path, setting
        self._decode = functools.partial(
            lines.decode, location=self.location, has_setting=encoding is not None
        )
        head = lines.read_head(path, setting)
        self.coding = lines.detect_coding(head, codec, self.location)
        self._header: list[str] | None = None
        self._skipped_lines = 0
        text = head.decode(self.coding.encoding, errors="ignore").removeprefix(lines.BOM)
        self._format = self._choose_format(suffix, text)

    def scan(self, copy: BinaryIO | None = None) -> Iterator[tuple[int, int, int, Row | None]]:
        """Reads the file once.

        Args:
          copy: gets the file as UTF-8; None for no copy.

        Yields:
          (line number from 1, first byte, byte behind it, row) of each record; the bytes are those
          of the file as UTF-8. The row is None for a blank line.
        """
        start, has_rows, needs_header = 0, False, self._format.has_header
        of_file = lines.read_lines(self._path, self._setting, copy, self.coding)
        for number, record, values in self._format.split(of_file):
            begin, start = start, start + len(record)
            if needs_header:
                is_blank = not record.removeprefix(lines.BOM.encode()).strip()
                if number > self._skipped_lines and not is_blank:
                    self._header, needs_header = self._check_header(values), False
                continue
            row = self._make_row(values, record, number)
            has_rows = has_rows or row is not None
            yield number, begin, start, row
        if not has_rows and not isinstance(self._format, _TextLines):
            raise ValueError(
                f"{self.location} has no row of data; expected at least one. Add rows, or correct the path."
            )

    def row(self, record: bytes, number: int) -> Row | None:
        """The row of these bytes, which begin at this line; None for a blank line."""
        return self._make_row(self._format.parse(record, number), record, number)

    def _choose_format(
        self, suffix: str, head: str
    ) -> "_TextLines | _JsonLines | _TabSeparated | _Quoted":
        if suffix == ".txt":
            return _TextLines(self._decode)
        if suffix in (".jsonl", ".json"):
            return _JsonLines(self._decode, self.location)
        separator = "\t" if suffix == ".tsv" else _detect_separator(head)
        if named := _SEPARATOR_LINE.match(head):
            self._skipped_lines, separator = 1, named[1]
        if separator not in (",", "\t") or (separator == "\t") != (suffix == ".tsv"):
            logging.info("%s: fields are separated by %r", self.location, separator)
        if separator == "\t":
            return _TabSeparated(self._decode, self.location, self._detect_quoting)
        return _Quoted(self._decode, self.location, separator)

    def _detect_quoting(self) -> quoting.Quoting:
        of_file = lines.read_lines(self._path, self._setting, coding=self.coding)
        first = next(of_file, b"").removeprefix(lines.BOM.encode())
        skipped = self._skipped_lines
        rows = itertools.islice(itertools.chain((first,), of_file), skipped, None)
        return quoting.detect_quoting(rows, self.location, skipped + 1)

    def _check_header(self, names: Sequence[str]) -> list[str]:
        header = [name.strip() for name in names]
        counts = collections.Counter(name for name in header if name)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(
                f"{self.location}: column {twice[0]!r} occurs {counts[twice[0]]} times in the header "
                f"{header}; expected each name once. Rename or delete the others."
            )
        return header

    def _make_row(self, values: Any, record: bytes, number: int) -> Row | None:
        if self._header is None:
            return values
        if len(values) < 2 and not record.strip(_UNPRINTED):
            return None
        if len(values) != len(self._header):
            raise ValueError(
                f"{self.location}, line {number}: {len(values)} fields; expected "
                f"{len(self._header)}, as in the header {self._header}. {self._format.advice}"
                + separator_hint(self._header)
                + self._row_name_hint(values)
            )
        return dict(zip(self._header, values, strict=True))

    def _row_name_hint(self, values: Sequence[str]) -> str:
        """Advice where a row begins with a number that the header does not name; else ""."""
        if len(values) != len(self._header or ()) + 1 or not values[0].isdecimal():
            return ""
        return (
            f" If {values[0]!r} is the row name of R's write.table, write the file again with "
            "row.names=FALSE."
        )


def separator_hint(columns: Iterable[str]) -> str:
    """Advice where a column's name has what separates fields in other files; "" where none has."""
    for separator in _SEPARATORS:
        if any(separator in column for column in columns):
            return (
                f" If the {separator!r} in the header separates fields, name the file .csv and insert the "
                f"first line sep={separator}"
            )
    return ""


def _detect_separator(head: str) -> str:
    """A comma, or another separator where the header has that and no comma."""
    csv.field_size_limit(lines.LINE_LIMIT)
    for separator in _SEPARATORS:
        rows = csv.reader(io.StringIO(head.lstrip("\r\n"), newline=""), delimiter=separator)
        if len(next(rows, ())) > 1:
            return separator
    return ","


class _TextLines:
    """Each line is a row with the column "text"."""

    has_header, advice = False, ""

    def __init__(self, decode):
        """`decode` makes text of the bytes at a line."""
        self._decode = decode

    def split(self, of_file: Iterator[bytes]) -> Iterator[tuple[int, bytes, Row]]:
        for number, line in enumerate(of_file, start=1):
            yield number, line, self.parse(line, number)

    def parse(self, record: bytes, number: int) -> Row:
        return {"text": self._decode(record, number)}


class _JsonLines:
    """Each line is a JSON object."""

    has_header, advice = False, ""

    def __init__(self, decode, location: str):
        """`decode` makes text of the bytes at a line."""
        self._decode, self._location = decode, location

    def split(self, of_file: Iterator[bytes]) -> Iterator[tuple[int, bytes, Row | None]]:
        # Not splitlines: JSON strings may hold U+2028 and its like.
        for number, line in enumerate(of_file, start=1):
            yield number, line, self.parse(line, number)

    def parse(self, record: bytes, number: int) -> Row | None:
        text = self._decode(record, number).strip()
        if not text:
            return None
        location = f"{self._location}, line {number}"
        if number == 1 and text.startswith("["):
            raise ValueError(
                f"{location}: not JSON Lines but a JSON list; expected one JSON object per line. Convert "
                "the file with `jq -c '.[]'`, or write it with to_json(orient='records', lines=True) "
                "of pandas."
            )
        try:
            row = parse_json(text, location, _JSON.decode)
        except ValueError as error:
            if not isinstance(error.__cause__, json.JSONDecodeError):
                raise
            raise ValueError(
                f"{location}: not JSON ({error.__cause__}); expected one JSON object per line. Write the file "
                "again with one object on each line, e.g. with to_json(orient='records', lines=True) of pandas."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{location}: {text[:40]}; expected a JSON object. Write each row as "
                '{"column": value, …} on one line.'
            )
        return row


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r} occurs more than once")
    return row


_JSON = json.JSONDecoder(object_pairs_hook=_unique_keys)


def parse_json(text: str | bytes, location: str, decode: Callable[[Any], Any] = json.loads) -> Any:
    """What a JSON text says.

    Args:
      text: the JSON.
      location: its file and line, for messages.
      decode: parses it.

    Raises:
      ValueError: no JSON, or nested too deep, or a string that no file can hold: half of a
        surrogate pair.
    """
    try:
        value = decode(text)
        if (b"\\ud" if isinstance(text, bytes) else "\\ud") in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (RecursionError, ValueError) as error:
        raise ValueError(
            f"{location}: not JSON ({error}). Correct it, or write the file again."
        ) from error
    return value


class _TabSeparated:
    """Each line is a row and a quotation mark is text, or fields are quoted (see `quoting`)."""

    has_header = True

    def __init__(self, decode, location: str, detect_quoting: Callable[[], quoting.Quoting]):
        """`decode` makes text of the bytes at a line; the file may be read once more to decide."""
        self._decode, self._location, self._detect_quoting = decode, location, detect_quoting
        self._is_decided, self._quoted = False, None
        self.advice = (
            "A tab or line break inside a field splits it: save the file as CSV (.csv), where such fields "
            "are quoted."
        )

    def split(self, of_file: Iterator[bytes]) -> Iterator[tuple[int, bytes, list[str]]]:
        for number, line in enumerate(of_file, start=1):
            if b'"' in line and not self._is_decided:
                self._decide()
                if self._quoted is not None:
                    yield from self._quoted.split(itertools.chain((line,), of_file), number)
                    return
            yield number, line, self.parse(line, number)

    def parse(self, record: bytes, number: int) -> list[str]:
        if self._quoted is not None:
            return self._quoted.parse(record, number)
        text = self._decode(record, number)
        return text.removesuffix("\n").removesuffix("\r").split("\t")

    def _decide(self) -> None:
        self._is_decided, detected = True, self._detect_quoting()
        if detected.is_quoted:
            logging.info("%s: fields are quoted and are read as in CSV", self._location)
            self._quoted = _Quoted(self._decode, self._location, "\t")
        if detected.broken_line:
            self.advice = (
                "Quotation marks are read as text, because those of line "
                f"{detected.broken_line} do not follow CSV. {self.advice}"
            )
        if detected.is_mixed:
            logging.warning(
                "%s: quotation marks are read as text, because those of line %d do not follow CSV. If the "
                "fields of the file are quoted, save it as CSV (.csv).",
                self._location, detected.broken_line,
            )  # fmt: skip


class _Quoted:
    """A row is several lines where a quoted field has line breaks."""

    has_header = True

    def __init__(self, decode, location: str, separator: str):
        """`decode` makes text of the bytes at a line."""
        self._decode, self._location, self._separator = decode, location, separator
        self._warns_of_spaces = True
        self.advice = f"Quote fields that contain {separator!r} or a line break."

    def split(
        self, of_file: Iterable[bytes], start: int = 1
    ) -> Iterator[tuple[int, bytes, list[str]]]:
        taken: list[bytes] = []
        before = start - 1

        def read_texts() -> Iterator[str]:
            size = 0
            for line in of_file:
                # Some lines end in \r alone.
                for piece in line.splitlines(keepends=True) if b"\r" in line else (line,):
                    size = len(piece) + (size if taken else 0)
                    taken.append(piece)
                    if size > lines.LINE_LIMIT:
                        raise lines.error_too_long(self._location, self._open_line(start, taken))
                    yield self._decode(piece, start + len(taken) - 1)

        reader = self._reader(read_texts())
        try:
            for values in reader:
                record = b"".join(taken)
                self._check_spaces(record, values, start)
                yield start, record, values
                start = before + reader.line_num + 1
                taken.clear()
        except csv.Error as error:
            raise ValueError(
                f"{self._location}, line {self._open_line(start, taken)}: not CSV ({error}). Close the "
                'quoted field that begins there, and double ("") quotation marks that are text.'
            ) from error

    def _check_spaces(self, record: bytes, values: Sequence[str], number: int) -> None:
        """Warns, once, of a space between separator and quotation mark, with which the mark is text."""
        pattern = f'{self._separator} "'.encode()
        if self._warns_of_spaces and pattern in record and any(v[:2] == ' "' for v in values):
            self._warns_of_spaces = False
            logging.warning(
                "%s, line %d: a space before a quotation mark makes the mark a part of the text; expected %r. "
                "If the fields are quoted, delete the space.",
                self._location, number, f'"a"{self._separator}"b"',
            )  # fmt: skip

    def parse(self, record: bytes, number: int) -> list[str]:
        text = self._decode(record, number)
        if '"' not in text:
            return text.rstrip("\r\n").split(self._separator)
        return next(self._reader(io.StringIO(text, newline="")), [])

    def _reader(self, texts: Iterable[str]):
        # A document may be longer than the module's 131,072 characters.
        csv.field_size_limit(lines.LINE_LIMIT)
        return csv.reader(texts, strict=True, delimiter=self._separator)

    def _open_line(self, start: int, taken: Sequence[bytes]) -> int:
        """The line of the quotation mark that opens the last field of a record from line `start`."""
        separator = re.escape(self._separator.encode())
        field = rb'(?:"[^"]*(?:""[^"]*)*"|[^"%s][^%s]*|)' % (separator, separator)
        complete = re.match(rb"(?:%s%s)*" % (field, separator), record := b"".join(taken))
        return start + len(re.findall(rb"\r\n?|\n", record[: complete.end()]))
