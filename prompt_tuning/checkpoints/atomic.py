"""Files and folders that appear whole or not at all, written by the first of several processes."""

import contextlib
import uuid
from collections.abc import Iterator

import jax
from etils import epath
from jax.experimental import multihost_utils


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
    # Commands that are started together, such as the shards of infer, write the same settings.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # that of which no more could be written
        raise


def wait_for_writer(what: str) -> None:
    """Several processes wait for each other here; `what` the first has written is there then."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """A folder under a temporary name, which becomes `path` when all is written.

    Raises:
      FileExistsError: `path` exists.
    """
    path = epath.Path(path)
    if path.exists():
        raise FileExistsError(
            f"{path} exists; expected a new folder. Remove it, or set another output folder."
        )
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
