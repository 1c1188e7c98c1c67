"""Decides whether the fields of a TSV file are quoted as in CSV.

pandas, Excel and R quote fields; GLUE's files and many others do not, and a quotation mark in them is
text. Nothing in a file says which it is, so all of its rows decide.
"""

import dataclasses
import re
from collections.abc import Iterable

from prompt_tuning.data.files import lines

_QUOTED = rb'"[^"]*(?:""[^"]*)*"'
_FIELD = rb'(?:%s|[^"\t\r\n]*)' % _QUOTED
_RECORD = re.compile(rb"%s(?:\t%s)*(?:\r?\n|\r)?" % (_FIELD, _FIELD))
_OPEN_RECORD = re.compile(rb'(?:%s\t)*"[^"]*(?:""[^"]*)*' % _FIELD)
_FIELDS = re.compile(rb"(?:^|(?<=\t))%s" % _FIELD)


@dataclasses.dataclass(frozen=True)
class Quoting:
    """How the quotation marks of a TSV file are to be read.

    Attributes:
      is_quoted: as in CSV; otherwise they are text.
      broken_line: the first line whose quotation marks are not those of CSV; None where there is none.
      is_mixed: whether fields before that line are quoted as only CSV quotes them.
    """

    is_quoted: bool
    broken_line: int | None = None
    is_mixed: bool = False


def detect_quoting(rows: Iterable[bytes], location: str, first_line: int = 1) -> Quoting:
    """Decides from all lines of a file, or from those up to the first that CSV could not have.

    A file is quoted if every quotation mark in it is one of CSV's, and if one of these holds:
    its lines do not have the header's number of fields otherwise (line breaks and tabs in fields);
    its header is quoted; each quoted field has what writers quote fields for (a doubled quotation
    mark, or a comma where no field has one unquoted), or all values of its column are quoted.

    Args:
      rows: the lines, header first.
      location: the file and its setting, for messages.
      first_line: number of the header's line.

    Raises:
      ValueError: the header is quoted and the quotation marks of a later line are not CSV's.
    """
    evidence = _Evidence()
    record: list[bytes] = []  # the lines of one whose last field is open
    start = size = 0
    for number, line in enumerate(rows, start=first_line):
        if not record and b'"' not in line:
            evidence.add_plain(line)
            continue
        if not record:
            start, size = number, 0
        # As if the field that is open began here.
        fields = b'"' + line if record else line
        record.append(line)
        size += len(line)
        is_open = fields.count(b'"') % 2
        syntax = _OPEN_RECORD if is_open else _RECORD
        if size > lines.LINE_LIMIT or not syntax.fullmatch(fields):
            return _broken(evidence, start, location)
        evidence.add_line(line)
        if not is_open:
            evidence.add_record(b"".join(record))
            record.clear()
    if record:
        return _broken(evidence, start, location)
    return Quoting(evidence.is_quoted())


def _broken(evidence: "_Evidence", number: int, location: str) -> Quoting:
    if evidence.header_is_quoted:
        raise ValueError(
            f"{location}, line {number}: quotation marks do not follow CSV, although the header is quoted; "
            'expected them around fields, and doubled ("") inside fields. Correct the row, or save the '
            "file again as CSV (.csv) or JSON Lines (.jsonl)."
        )
    return Quoting(False, number, evidence.has_doubled)


@dataclasses.dataclass
class _Evidence:
    """What the lines of a TSV file have been seen to have.

    Attributes:
      columns: fields of the header; 0 before it.
      rows: records but the header.
      fits_plain: each line has as many fields as the header, read without quotes.
      fits_quoted: each record has as many, read with quotes.
      joins_lines: a quoted field has a line break.
      header_is_quoted: each of its fields is.
      has_doubled: a quoted field has a doubled quotation mark.
      has_quoted: there is a quoted field.
      unneeded: columns with a quoted field that need not be quoted.
      with_comma: columns with a quoted field that only a comma explains.
      unquoted: columns with an unquoted value.
      has_plain_comma: an unquoted field has a comma.
    """

    columns: int = 0
    rows: int = 0
    fits_plain: bool = True
    fits_quoted: bool = True
    joins_lines: bool = False
    header_is_quoted: bool = False
    has_doubled: bool = False
    has_quoted: bool = False
    unneeded: set[int] = dataclasses.field(default_factory=set)
    with_comma: set[int] = dataclasses.field(default_factory=set)
    unquoted: set[int] = dataclasses.field(default_factory=set)
    has_plain_comma: bool = False

    def add_plain(self, line: bytes) -> None:
        """A line without quotation marks, which is a record."""
        tabs = line.count(b"\t")
        if not self.columns:
            self.columns = tabs + 1 if line.strip() else 0
            return
        if tabs + 1 != self.columns and line.strip():
            self.fits_plain = self.fits_quoted = False
        self.rows += 1
        if not self.has_plain_comma and b"," in line:
            self.has_plain_comma = True
        if len(self.unquoted) < self.columns:
            fields = line.rstrip(b"\r\n").split(b"\t")
            self.unquoted.update(i for i, field in enumerate(fields) if field)

    def add_line(self, line: bytes) -> None:
        """A line of a record with quotation marks."""
        if self.columns and line.count(b"\t") + 1 != self.columns:
            self.fits_plain = False

    def add_record(self, record: bytes) -> None:
        """A record with quotation marks, which are those of CSV."""
        fields = _FIELDS.findall(record)
        if not self.columns:
            self.columns = len(fields)
            self.header_is_quoted = all(field.startswith(b'"') for field in fields)
            return
        self.rows += 1
        self.fits_quoted &= len(fields) == self.columns
        self.joins_lines |= b"\n" in record.rstrip(b"\r\n")
        for column, field in enumerate(fields):
            if not field.startswith(b'"'):
                if field:
                    self.unquoted.add(column)
                self.has_plain_comma |= b"," in field
                continue
            value = field[1:-1]
            if not value:
                continue  # an empty text, which no writer without quotes would have as two of them
            self.has_quoted = True
            if b'"' in value:
                self.has_doubled = True
            elif not re.search(rb"[\t\r\n]", value):
                (self.with_comma if b"," in value else self.unneeded).add(column)

    def is_quoted(self) -> bool:
        """The decision; see `detect_quoting`."""
        if not self.has_quoted:
            return self.header_is_quoted
        if not self.fits_plain and self.fits_quoted:
            return True
        if self.fits_plain and self.joins_lines and not self.header_is_quoted:
            return False  # a quotation mark here and one lines below: rows would be lost
        return self.header_is_quoted or self._is_explained()

    def _is_explained(self) -> bool:
        unneeded = self.unneeded | (self.with_comma if self.has_plain_comma else set())
        return not unneeded or (self.rows > 1 and not unneeded & self.unquoted)
