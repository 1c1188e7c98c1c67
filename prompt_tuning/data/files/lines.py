"""Text files of any size, decoded: encodings, byte order marks, gzip, and their lines as UTF-8."""

import codecs
import contextlib
import gzip
import io
import itertools
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from etils import epath

LINE_LIMIT = 16 * 2**20  # bytes of a line, or of a CSV row of several: a longer one is a mistake
# How many times its size a .gz file may unpack to, and how many bytes one may always.
LARGEST_RATIO, LEAST_UNPACKED = 200, 2**24
_HEAD = 2**16  # bytes that encoding, line ends and separator are detected from
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


def read_lines(
    path: str,
    setting: str,
    copy: BinaryIO | None = None,
    coding: TextCoding = UTF8_LINES,
) -> Iterator[bytes]:
    """The lines of a file with their breaks, as UTF-8; unpacked if it ends in .gz.

    Args:
      path: of the file.
      setting: the macro that the path is from, for messages.
      copy: gets what is read, as UTF-8; None for no copy.
      coding: of the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line longer than LINE_LIMIT, which is not read; an incomplete gzip file, or one
        that unpacks to more than `unpacked_limit`; bytes that `coding` cannot decode.
    """
    location, size = f"{setting} {path}", 0
    with _open(path, setting) as (stream, limit):
        readline = stream.readline
        if not coding.is_utf8_lines:
            readline = _utf8_reader(stream, coding, location)
        for number in itertools.count(1):
            line = readline(LINE_LIMIT + 1)
            if limit is not None:
                size += len(line)
                check_unpacked(size, limit)
            if len(line) > LINE_LIMIT:
                raise error_too_long(location, number)
            if not line:
                return
            if copy is not None:
                copy.write(line)
            yield line


def read_head(path: str, setting: str) -> bytes:
    """The first bytes of a file, unpacked if it ends in .gz. Raises as `read_lines`."""
    with _open(path, setting) as (stream, _):
        return stream.read(_HEAD)


@contextlib.contextmanager
def _open(path: str, setting: str) -> Iterator[tuple[Any, int | None]]:
    """(stream of bytes, how many a packed file may have)."""
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{setting} {path} does not exist. Correct the path.")
    with file.open("rb") as packed:
        if file.suffix != ".gz":
            yield packed, None
            return
        try:
            yield gzip.GzipFile(fileobj=packed), unpacked_limit(file.stat().length)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise incomplete_gzip(f"{setting} {path}", error) from error


def _utf8_reader(stream: Any, coding: TextCoding, location: str) -> Callable[[int], bytes]:
    """`readline` of a stream of another coding."""
    text = io.TextIOWrapper(stream, coding.encoding, newline=coding.newline)

    def readline(limit: int) -> bytes:
        try:
            return text.readline(limit).encode()
        except UnicodeError as error:
            message = _describe_error(error, coding.encoding, stream.tell())
            raise ValueError(f"{location}: {message}") from error

    return readline


def unpacked_limit(size: int) -> int:
    """Bytes that a .gz file of this size may hold: no text is packed so well as to hold more."""
    return max(LARGEST_RATIO * size, LEAST_UNPACKED)


def check_unpacked(size: int, limit: int) -> None:
    """Raises gzip.BadGzipFile where more than the limit has come out of a file."""
    if size > limit:
        raise gzip.BadGzipFile(
            f"it decompresses to over {LARGEST_RATIO} times its size; decompress it with gunzip"
        )


def incomplete_gzip(location: str, error: Exception) -> ValueError:
    """The error for a .gz file that cannot be unpacked."""
    return ValueError(
        f"{location} is not a complete gzip file: {error}. Copy the file again; if it is not compressed, "
        "remove .gz from its name."
    )


def error_too_long(location: str, number: int) -> ValueError:
    """The error for a line, or a row of several lines, beyond LINE_LIMIT."""
    return ValueError(
        f"{location}, line {number}: longer than {LINE_LIMIT:,} bytes; expected one row of text. Add a "
        "missing line break, or close an open quotation mark."
    )


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
            raise incomplete_gzip(f"{setting} {path}", error) from error
    return decode(data, 1, f"{setting} {path}", has_setting=False)


def _unpack(data: bytes) -> bytes:
    limit = unpacked_limit(len(data))
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        unpacked = file.read(limit + 1)
    check_unpacked(len(unpacked), limit)
    return unpacked


def find_files(patterns: Sequence[str], setting: str) -> list[str]:
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


def check_encoding(encoding: str) -> None:
    """Raises ValueError unless `encoding` (FILE_ENCODING) is a text encoding of Python's."""
    try:
        "".encode(encoding)
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"FILE_ENCODING is {encoding!r}; expected a text encoding of Python. Set it to e.g. 'utf-8', "
            "'cp1252', 'latin-1' or 'utf-16'."
        ) from error


def detect_coding(head: bytes, encoding: str, location: str) -> TextCoding:
    """The coding of a file that begins with these bytes.

    A byte order mark takes precedence over `encoding`. Lines end in a carriage return where the
    first one does, as in files of old Macs.

    Raises:
      ValueError: not text; or UTF-16 without a byte order mark, where `encoding` is UTF-8.
    """
    for magic, kind, fix in _PACKED:
        if head.startswith(magic):
            raise ValueError(f"{location} is {kind}; expected a text file. {fix}.")
    marked = next((name for bom, name in _BOMS if head.startswith(bom)), None)
    encoding = codecs.lookup(marked or encoding).name
    if not marked:
        _warn_of_mismatch(head, encoding, location)
    if encoding == "utf-8" and len(head) > 1 and (head[0] == 0) != (head[1] == 0):
        wide = "utf-16-be" if head[0] == 0 else "utf-16-le"
        raise ValueError(
            f"{location} begins with {head[:4]!r}, as UTF-16 without a byte order mark does; expected UTF-8. "
            f"Set FILE_ENCODING = '{wide}', or save the file as UTF-8."
        )
    text = head.decode(encoding, errors="ignore")
    first_break = re.search("\r\n?|\n", text)
    is_mac = first_break and first_break.group() == "\r" and first_break.end() < len(text)
    return TextCoding(encoding, "" if is_mac else "\n")


def _warn_of_mismatch(head: bytes, encoding: str, location: str) -> None:
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
            "have this encoding.", location, encoding, line.decode(encoding, errors="replace"),
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


def decode(line: bytes, number: int, location: str, *, has_setting: bool = True) -> str:
    """Decodes line `number`, from 1, of a UTF-8 file; its byte order mark is dropped.

    Args:
      line: one or several lines.
      number: of the first line.
      location: the file and its setting, for messages.
      has_setting: whether FILE_ENCODING applies to the file.

    Raises:
      ValueError: not UTF-8; the message suggests an encoding.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        number += line.count(b"\n", 0, error.start)
        raise ValueError(
            f"{location}, line {number}: not UTF-8: byte 0x{line[error.start]:02X} "
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


def _describe_error(error: UnicodeError, encoding: str, offset: int) -> str:
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
