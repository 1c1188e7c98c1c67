"""Rows of a TSV, CSV or JSONL file, however large: one after the other, or by their number.

In memory are one row, sixteen bytes for each, and the file where it is small.
"""

import array
import csv
import functools
import gzip
import io
import itertools
import logging
import os
import tempfile
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from etils import epath

from prompt_tuning.data import json_text, lazy

Row = Mapping[str, Any]
LINE_LIMIT = 16 * 2**20  # bytes of a line, or of a CSV row of several: a longer one is a mistake
IN_MEMORY = 64 * 2**20  # bytes of a file that is kept, so that it may change while it is used
TELL_EVERY = 30  # seconds
# How many times its size a .gz file may unpack to, and how many bytes one may always.
LARGEST_RATIO, LEAST_UNPACKED = 200, 2**24
BOM = "\ufeff"


def lines(path: str, setting: str, copy: BinaryIO | None = None) -> Iterator[bytes]:
    """The lines of a file with their breaks, unpacked if it ends in .gz; no empty ones at the end.

    Args:
      path: of the file.
      setting: the macro that the path is from, for messages.
      copy: gets what is read; None for no copy.

    Raises FileNotFoundError, or ValueError for a line longer than LINE_LIMIT, which is not read,
    or what is no whole gzip file or unpacks to more than `unpacked_limit`.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{setting} {path} does not exist")
    with file.open("rb") as packed:
        stream, limit = packed, None
        if file.suffix == ".gz":
            stream, limit = gzip.GzipFile(fileobj=packed), unpacked_limit(file.stat().length)
        yield from _without_blank_end(_read(stream, f"{setting} {path}", copy, limit))


def unpacked_limit(size: int) -> int:
    """Bytes that a .gz file of this size may hold: no text is packed so well as to hold more."""
    return max(LARGEST_RATIO * size, LEAST_UNPACKED)


def check_unpacked(size: int, limit: int) -> None:
    """Raises gzip.BadGzipFile where more than the limit has come out of a file."""
    if size > limit:
        raise gzip.BadGzipFile(
            f"it holds over {LARGEST_RATIO} times its size; unpack it with gunzip"
        )


def _read(stream: Any, place: str, copy: BinaryIO | None, limit: int | None) -> Iterator[bytes]:
    size = 0
    try:
        for number in itertools.count(1):
            line = stream.readline(LINE_LIMIT + 1)
            size += len(line)
            if limit is not None:
                check_unpacked(size, limit)
            if len(line) > LINE_LIMIT:
                raise _too_long(place, number)
            if not line:
                return
            if copy is not None:
                copy.write(line)
            yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{place} is no whole gzip file: {error}") from error


def _without_blank_end(of_file: Iterable[bytes]) -> Iterator[bytes]:
    blank: list[bytes] = []
    for line in of_file:
        blank.append(line)
        if line.strip(b"\r\n"):
            yield from blank
            blank.clear()


def _too_long(place: str, number: int) -> ValueError:
    return ValueError(
        f"{place}, line {number}: more than {LINE_LIMIT:,} bytes without an end; expected a row of "
        "text: is a line break missing, or a quote open?"
    )


def _decode(line: bytes, place: str, number: int) -> str:
    """Line `number` of a UTF-8 file, from 1, without a byte order mark; ValueError where it is no such."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        number += line.count(b"\n", 0, error.start)
        raise ValueError(f"{place}, line {number}: not UTF-8 ({error.reason})") from error
    return text.removeprefix(BOM) if number == 1 else text


class _Table:
    """How the rows of one file are told apart and read."""

    def __init__(self, path: str, setting: str, formats: Mapping[str, "Format"]):
        suffix = epath.Path(path.removesuffix(".gz")).suffix
        if suffix not in formats:
            raise ValueError(
                f"{setting} {path} ends in {suffix or 'no suffix'!r}; "
                f"expected one of {', '.join(formats)}, or one of them with .gz"
            )
        self._path, self._setting, self.place = path, setting, f"{setting} {path}"
        self._split, self._parse = formats[suffix]
        self._header: list[str] | None = None

    def scan(self, copy: BinaryIO | None = None) -> Iterator[tuple[int, int, int, Row]]:
        """(line number from 1, first byte, byte behind it, row) of each row; see `lines`."""
        start, empty = 0, True
        for number, record in self._split(lines(self._path, self._setting, copy), self.place):
            begin, start = start, start + len(record)
            if self._parse in (_tsv_fields, _csv_fields) and self._header is None:
                self._header = self._parse(_decode(record, self.place, number), self.place, number)
                continue
            empty = False
            yield number, begin, start, self.row(record, number)
        if empty and self._parse is not _text_line:
            raise ValueError(f"{self.place} has no row of data; expected at least one")

    def row(self, record: bytes, number: int) -> Row:
        """The row of these bytes, which begin at this line."""
        found = self._parse(_decode(record, self.place, number), self.place, number)
        if self._header is None:
            return found
        if len(found) != len(self._header):
            raise ValueError(
                f"{self.place}, line {number}: {len(found)} fields; "
                f"expected the {len(self._header)} of the header, {self._header}"
            )
        return dict(zip(self._header, found, strict=True))


def _split_lines(of_file: Iterator[bytes], place: str) -> Iterator[tuple[int, bytes]]:
    del place
    # Not splitlines: JSON strings may hold U+2028 and its like.
    return enumerate(of_file, start=1)


def _split_csv(of_file: Iterator[bytes], place: str) -> Iterator[tuple[int, bytes]]:
    """A row is several lines where a quoted field has line breaks."""
    taken: list[bytes] = []
    start = 1

    def texts() -> Iterator[str]:
        size = 0
        pieces = (line.splitlines(keepends=True) for line in of_file)  # some end in \r alone
        for piece in _without_blank_end(itertools.chain.from_iterable(pieces)):
            size = len(piece) + (size if taken else 0)
            if size > LINE_LIMIT:
                raise _too_long(place, start)
            taken.append(piece)
            yield _decode(piece, place, start + len(taken) - 1)

    reader = _csv_reader(texts())
    try:
        for _ in reader:
            yield start, b"".join(taken)
            start = reader.line_num + 1
            taken.clear()
    except csv.Error as error:
        raise ValueError(f"{place}, line {start}: not CSV ({error})") from error


def _csv_reader(texts: Iterator[str]):
    # A document may be longer than the module's 131,072 characters.
    csv.field_size_limit(LINE_LIMIT)
    return csv.reader(texts, strict=True)


def _csv_fields(text: str, place: str, number: int) -> list[str]:
    del place, number  # `_split_csv` has read it before
    return next(_csv_reader(io.StringIO(text, newline="")))


def _tsv_fields(text: str, place: str, number: int) -> list[str]:
    del place, number
    # Not the csv module: in a TSV file of sentences a quote is only a quote.
    return text.removesuffix("\n").removesuffix("\r").split("\t")


def _json_object(text: str, place: str, number: int) -> Row:
    row = json_text.parse(text.removesuffix("\n"), f"{place}, line {number}")
    if not isinstance(row, dict):
        raise ValueError(f"{place}, line {number}: {text[:40].rstrip()}; expected a JSON object")
    return row


def _text_line(text: str, place: str, number: int) -> Row:
    del place, number
    return {"text": text}


Format = tuple[Callable, Callable]  # (lines, place) -> records; (record, place, line) -> its row
FORMATS: Mapping[str, Format] = {
    ".tsv": (_split_lines, _tsv_fields),
    ".csv": (_split_csv, _csv_fields),
    ".jsonl": (_split_lines, _json_object),
}
TEXT_FORMATS = {".txt": (_split_lines, _text_line), **FORMATS}  # a line of text is a row too


def read_rows(path: str, setting: str) -> Iterator[tuple[int, Row]]:
    """(line number, {column: value}) of each row of a TSV, CSV or JSONL file.

    `setting` is the macro that the path is from. Raises as `lines`, and ValueError with the line.
    """
    for number, _, _, row in _Table(path, setting, FORMATS).scan():
        yield number, row


def by_number(
    path: str,
    setting: str,
    make: Callable[[Row, int, str], Any],
    formats: Mapping[str, Format] = FORMATS,
) -> lazy.Lazy:
    """What `make` makes of each row, when it is asked for; all rows are tried once, now.

    A large file stays where it is and must not change; a packed one, and one on another
    machine, is unpacked into a temporary file (TMPDIR), a small one kept in memory.

    Args:
      path: of the file.
      setting: the macro that the path is from, for messages.
      make: of a row, its number from 0 and its place for messages; None of no row that counts.
      formats: what the file may be.
    """
    table, content = _Table(path, setting, formats), _Content(path, f"{setting} {path}")
    starts, ends = array.array("q"), array.array("q")
    told = time.monotonic()
    for number, start, end, row in table.scan(None if content.in_place else content):
        if make(row, len(starts), f"{table.place}, line {number}") is not None:
            starts.append(start)
            ends.append(end)
        if time.monotonic() > told + TELL_EVERY:
            told = time.monotonic()
            logging.info("%s: %d rows read, %.1f GB", table.place, len(starts), end / 1e9)

    def get(i: int) -> Any:
        record = content.part(starts[i], ends[i])
        # Where a byte order mark may be matters, the line's number does not.
        return make(table.row(record, 1 + (starts[i] > 0)), i, f"{table.place}, row {i}")

    return lazy.Lazy(get, range(len(starts)))


class _Content:
    """The bytes of a file by their place.

    Attributes:
      in_place: whether they are read from the file; else they are to be written first.
    """

    def __init__(self, path: str, place: str):
        is_here = os.path.isfile(path) and not path.endswith(".gz")
        self.in_place = is_here and os.path.getsize(path) > IN_MEMORY
        self._place, self._lock = place, threading.Lock()
        # Open as long as rows are asked for.
        opener = functools.partial(open, path, "rb")
        spooled = functools.partial(tempfile.SpooledTemporaryFile, IN_MEMORY)
        self._file = opener() if self.in_place else spooled()
        weakref.finalize(self, self._file.close)
        self._state = self._now()

    def _now(self) -> tuple[int, int] | None:
        found = os.fstat(self._file.fileno()) if self.in_place else None
        return found and (found.st_size, found.st_mtime_ns)

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise OSError(
                f"{self._place} is copied to {tempfile.gettempdir()}, which failed: {error}; set "
                "TMPDIR to a folder with room for it"
            ) from error

    def part(self, start: int, end: int) -> bytes:
        if self._now() != self._state:
            raise OSError(f"{self._place} has changed while it was in use; start again")
        with self._lock:
            self._file.seek(start)
            return self._file.read(end - start)
