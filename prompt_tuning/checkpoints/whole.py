"""Files and folders that appear whole or not at all, written by the first of several processes."""

import contextlib
from collections.abc import Iterator

import jax
from etils import epath


def is_writer() -> bool:
    """Whether this process writes: of several that share a run, the first."""
    return jax.process_index() == 0


def write(path: epath.PathLike, content: bytes) -> None:
    """Writes a file, and the folders that it needs; a failure leaves what was there before.

    Of several processes the first writes; to the others the file may not be there yet.
    """
    if not is_writer():
        return
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """A folder under a temporary name, which becomes `path` when all is written.

    Raises:
      FileExistsError: `path` exists.
    """
    path = epath.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; remove it or export to another folder")
    temporary = path.parent / f"{path.name}.tmp"
    if temporary.exists():
        temporary.rmtree()
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        temporary.rmtree(missing_ok=True)
        raise
