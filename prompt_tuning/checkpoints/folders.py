"""Folders that appear whole or not at all."""

import contextlib
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def appearing(path: epath.PathLike) -> Iterator[epath.Path]:
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
