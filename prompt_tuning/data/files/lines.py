"""Lines of a text file of any size, as UTF-8: unpacked (.gz) and recoded where it is needed."""

import contextlib
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from etils import epath

from prompt_tuning.data.files import encodings

LINE_LIMIT = 16 * 2**20  # bytes of a line, or of a CSV row of several: a longer one is a mistake
# How many times its size a .gz file may unpack to, and how many bytes one may always.
LARGEST_RATIO, LEAST_UNPACKED = 200, 2**24
_HEAD = 2**16  # bytes that encoding, line ends and separator are detected from


def read_lines(
    path: str,
    setting: str,
    copy: BinaryIO | None = None,
    coding: encodings.TextCoding = encodings.UTF8_LINES,
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
    place, size = f"{setting} {path}", 0
    with _open(path, setting) as (stream, limit):
        readline = stream.readline
        if not coding.is_utf8_lines:
            readline = _utf8_reader(stream, coding, place)
        for number in itertools.count(1):
            line = readline(LINE_LIMIT + 1)
            if limit is not None:
                size += len(line)
                check_unpacked(size, limit)
            if len(line) > LINE_LIMIT:
                raise error_too_long(place, number)
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


def _utf8_reader(stream: Any, coding: encodings.TextCoding, place: str) -> Callable[[int], bytes]:
    """`readline` of a stream of another coding."""
    text = io.TextIOWrapper(stream, coding.encoding, newline=coding.newline)

    def readline(limit: int) -> bytes:
        try:
            return text.readline(limit).encode()
        except UnicodeError as error:
            message = encodings.describe_error(error, coding.encoding, stream.tell())
            raise ValueError(f"{place}: {message}") from error

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


def incomplete_gzip(place: str, error: Exception) -> ValueError:
    """The error for a .gz file that cannot be unpacked."""
    return ValueError(
        f"{place} is not a complete gzip file: {error}. Copy the file again; if it is not compressed, "
        "remove .gz from its name."
    )


def error_too_long(place: str, number: int) -> ValueError:
    """The error for a line, or a row of several lines, beyond LINE_LIMIT."""
    return ValueError(
        f"{place}, line {number}: longer than {LINE_LIMIT:,} bytes; expected one row of text. Add a "
        "missing line break, or close an open quotation mark."
    )
