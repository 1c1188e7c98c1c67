"""Encodings of data files: byte order marks, decoding errors with a suggested encoding."""

import codecs
import logging
import re
from typing import NamedTuple

BOM = "\ufeff"
_BOMS = (  # UTF-32 before UTF-16, whose little-endian mark it begins with
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_PACKED = (  # what other files begin with, and what to do with them
    (
        b"PK\x03\x04",
        "a ZIP archive, as .xlsx files are",
        "Save the table as 'CSV UTF-8', or unpack it",
    ),
    (b"\x1f\x8b", "compressed with gzip", "Add .gz to its name, or decompress it with gunzip"),
    (b"PAR1", "a Parquet table", "Save the table as CSV, e.g. with DataFrame.to_csv of pandas"),
)
# Most files that are not UTF-8 come from Windows; Latin-1 decodes any bytes.
_CANDIDATES = ("cp1252", "latin-1")
_MAC_CANDIDATES = ("mac_roman", *_CANDIDATES)
_EXCERPT = 20  # characters on either side of an error


class TextCoding(NamedTuple):
    """How the bytes of a file become lines of text.

    Attributes:
      encoding: a Python codec.
      newline: what ends a line, as in `io.TextIOWrapper`.
    """

    encoding: str
    newline: str

    @property
    def is_utf8_lines(self) -> bool:
        """Whether the file holds UTF-8 lines that end in a line feed."""
        return self == UTF8_LINES


UTF8_LINES = TextCoding("utf-8", "\n")


def check_name(encoding: str) -> None:
    """Raises ValueError unless `encoding` (FILE_ENCODING) is a text encoding of Python's."""
    try:
        "".encode(encoding)
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"FILE_ENCODING is {encoding!r}; expected a text encoding of Python. Set it to e.g. 'utf-8', "
            "'cp1252', 'latin-1' or 'utf-16'."
        ) from error


def detect(head: bytes, encoding: str, place: str) -> TextCoding:
    """The coding of a file that begins with these bytes.

    A byte order mark takes precedence over `encoding`. Lines end in a carriage return where the
    first one does, as in files of old Macs.

    Raises:
      ValueError: not text; or UTF-16 without a byte order mark, where `encoding` is UTF-8.
    """
    for magic, kind, fix in _PACKED:
        if head.startswith(magic):
            raise ValueError(f"{place} is {kind}; expected a text file. {fix}.")
    marked = next((name for bom, name in _BOMS if head.startswith(bom)), None)
    encoding = codecs.lookup(marked or encoding).name
    if not marked:
        _warn_of_mismatch(head, encoding, place)
    if encoding == "utf-8" and len(head) > 1 and (head[0] == 0) != (head[1] == 0):
        wide = "utf-16-be" if head[0] == 0 else "utf-16-le"
        raise ValueError(
            f"{place} begins with {head[:4]!r}, as UTF-16 without a byte order mark does; expected UTF-8. "
            f"Set FILE_ENCODING = '{wide}', or save the file as UTF-8."
        )
    text = head.decode(encoding, errors="ignore")
    first_break = re.search("\r\n?|\n", text)
    is_mac = first_break and first_break.group() == "\r" and first_break.end() < len(text)
    return TextCoding(encoding, "" if is_mac else "\n")


def _warn_of_mismatch(head: bytes, encoding: str, place: str) -> None:
    """Warns where FILE_ENCODING reads a file that is likely to have another encoding."""
    if encoding.startswith("utf-8") or (first := re.search(rb"[\x80-\xff]", head)) is None:
        return
    likely = [name for name in ("utf-8", "cp1252") if _is_likely(head, name, encoding)]
    if likely:
        start = head.rfind(b"\n", 0, first.start()) + 1
        line = head[max(start, first.start() - _EXCERPT) :].splitlines()[0][: 2 * _EXCERPT]
        logging.warning(
            "%s: FILE_ENCODING = %r decodes to %r, but %s decodes to %r. If the latter is correct, save "
            "the file as UTF-8 with a byte order mark, or set FILE_ENCODING = %r if all files of the command "
            "have this encoding.", place, encoding, line.decode(encoding, errors="replace"),
            likely[0], line.decode(likely[0], errors="replace"), likely[0],
        )  # fmt: skip


def _is_likely(head: bytes, name: str, encoding: str) -> bool:
    """Whether text that `encoding` decodes is likely to be in the encoding `name`."""
    if name == "cp1252" and (encoding != "iso8859-1" or not re.search(rb"[\x80-\x9f]", head)):
        return False  # Latin-1 has rare control characters where cp1252 has quotation marks
    try:
        codecs.getincrementaldecoder(name)().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def decode(line: bytes, number: int, place: str, *, has_setting: bool = True) -> str:
    """Decodes line `number`, from 1, of a UTF-8 file; its byte order mark is dropped.

    Args:
      line: one or several lines.
      number: of the first line.
      place: the file and its setting, for messages.
      has_setting: whether FILE_ENCODING applies to the file.

    Raises:
      ValueError: not UTF-8; the message suggests an encoding.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        number += line.count(b"\n", 0, error.start)
        raise ValueError(
            f"{place}, line {number}: not UTF-8: byte 0x{line[error.start]:02X} "
            f"({error.reason}). {_suggest(line, error.start, has_setting)}"
        ) from error
    return text.removeprefix(BOM) if number == 1 else text


def _suggest(line: bytes, position: int, has_setting: bool) -> str:
    """Advice with the encoding that reads the line and an excerpt as it reads it."""
    is_mac = b"\r" in line and b"\n" not in line
    newline = b"\r" if is_mac else b"\n"
    start = line.rfind(newline, 0, position) + 1
    end = line.find(newline, position)
    one_line = line[max(start, position - _EXCERPT) : len(line) if end < 0 else end]
    for name in _MAC_CANDIDATES if is_mac else _CANDIDATES:
        try:
            excerpt = one_line[: 2 * _EXCERPT].decode(name).strip()
        except UnicodeDecodeError:
            continue
        fix = f"set FILE_ENCODING = '{name}'"
        if not has_setting:
            fix = f"convert the file with `iconv -f {name} -t utf-8`"
        return (
            f"Decoded as {name}, it reads {excerpt!r}. If that is correct, {fix}; otherwise use the "
            "encoding of the program that wrote the file, or save it as UTF-8."
        )
    raise AssertionError("latin-1 decodes any bytes")


def describe_error(error: UnicodeError, encoding: str, offset: int) -> str:
    """What is wrong with a file that `encoding` cannot decode.

    Args:
      error: of the decoder.
      encoding: FILE_ENCODING, or that of the byte order mark.
      offset: bytes of the file up to the end of those that were decoded.
    """
    if not isinstance(error, UnicodeDecodeError):  # UTF-16 and UTF-32 where there is no mark
        return (
            f"not {encoding} ({error}). Set FILE_ENCODING = 'utf-8', or an encoding with a byte order, "
            "such as 'utf-16-le'."
        )
    position = offset - len(error.object) + error.start
    advice = _suggest(error.object, error.start, True)
    if encoding.startswith(("utf-16", "utf-32")):
        advice = "The file may be incomplete: copy it again, or save it as UTF-8."
    return (
        f"not {encoding}: byte 0x{error.object[error.start]:02X} at offset {position:,} "
        f"({error.reason}). {advice}"
    )
