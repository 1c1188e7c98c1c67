"""Digests of what a run reads: files, arrays and examples, by their content and not by their path."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

LENGTH = 16  # hexadecimal digits
CHUNK = 2**20
# So many examples of a registered task are compared.
COMPARED_EXAMPLES = 2000


def of_files(paths: Iterable[epath.PathLike]) -> str | None:
    """The digest of the bytes of some files in order; None where one of them does not exist.

    A file that was moved, or downloaded again, has the same digest.
    """
    total = hashlib.sha256()
    for path in map(epath.Path, paths):
        if not path.exists() or path.is_dir():
            return None
        one = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                one.update(chunk)
        total.update(one.digest())
    return total.hexdigest()[:LENGTH]


def of_folder(path: str) -> str:
    """The digest of names, sizes, first and last MiB of the files in a local folder of weights."""
    root, total = pathlib.Path(path), hashlib.sha256()
    for file in sorted(each for each in root.rglob("*") if each.is_file()):
        size = file.stat().st_size
        total.update(f"{file.relative_to(root)}\0{size}\0".encode())
        with file.open("rb") as content:
            total.update(content.read(CHUNK))
            content.seek(max(size - CHUNK, 0))
            total.update(content.read(CHUNK))
    return total.hexdigest()[:LENGTH]


def of_arrays(arrays: Mapping[str, Any]) -> str:
    """The digest of {name: array or text}."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name}\0".encode())
        _update(total, array)
    return total.hexdigest()[:LENGTH]


def of_examples(examples: Sequence[Mapping[str, Any]], limit: int = COMPARED_EXAMPLES) -> str:
    """The digest of the first `limit` examples, and of how many there are."""
    total = hashlib.sha256(f"{len(examples)}".encode())
    for example in examples[:limit]:
        for name, value in sorted(example.items()):
            total.update(f"{name}\0".encode())
            _update(total, value)
    return total.hexdigest()[:LENGTH]


def _update(total: Any, value: Any) -> None:
    """Adds a feature's value: text, a number, or an array of either."""
    if isinstance(value, bytes | str):
        value = value.encode() if isinstance(value, str) else value
        total.update(f"{len(value)}:".encode() + value)
        return
    array = np.asarray(value)
    total.update(f"{array.dtype}{array.shape}".encode())
    if array.dtype == object:
        for each in array.flat:
            _update(total, each)
    else:
        total.update(array.tobytes())


@contextlib.contextmanager
def unchanged(files: Mapping[str, Sequence[epath.PathLike]]) -> Iterator[None]:
    """Around reading {setting: paths}: what was read is one version of each file.

    Raises:
      OSError: a local file was changed meanwhile.
    """
    before = {path: _state(path) for paths in files.values() for path in paths}
    yield
    for setting, paths in files.items():
        for path in paths:
            if _state(path) != before[path]:
                raise OSError(
                    f"{setting} {path} changed while it was read; expected a file that no other process "
                    "writes to. Run the same command again."
                )


def _state(path: epath.PathLike) -> tuple[int, int, int] | None:
    """Size, time and identity of a local file; None of another."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
