"""A lock on MODEL_DIR, which prevents two processes from training in the same folder.

The operating system holds the lock (flock) and releases it when the process ends. On NFS it applies
to all machines. Cloud storage such as gs:// has no locks and is not protected.
"""

import contextlib
import datetime
import errno
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Sequence

import filelock
from etils import epath

from prompt_tuning.checkpoints import atomic

LOCK, HOLDER = "writer.lock", "writer.txt"
# Errors of file systems without locks, such as Lustre mounted without its option.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def hold(model_dir: epath.PathLike) -> Iterator[None]:
    """Holds the lock on MODEL_DIR, in the first process of a run.

    Raises:
      ValueError: another process holds it.
      OSError: the folder is not writable.
    """
    if not atomic.is_writer() or "://" in str(model_dir):
        yield
        return
    folder = pathlib.Path(model_dir)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, created)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _acquire(folder, stack)
            # Beside the lock file, which filelock may truncate.
            since = datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds")
            holder = f"process {os.getpid()} on {socket.gethostname()} since {since}"
            stack.callback((folder / HOLDER).unlink, missing_ok=True)
            (folder / HOLDER).write_text(holder)
        except OSError as error:
            raise OSError(
                f"cannot write to MODEL_DIR {folder}: {error}. Expected a writable folder. Set "
                "MODEL_DIR to one."
            ) from error
        yield


def _remove_empty(folders: Sequence[pathlib.Path]) -> None:
    """Removes empty folders, innermost first, that a refused run has created."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _acquire(folder: pathlib.Path, stack: contextlib.ExitStack) -> None:
    """Acquires the lock until the stack is closed. Raises ValueError if another process holds it."""
    try:
        stack.enter_context(filelock.FileLock(folder / LOCK, timeout=0))
        stack.callback((folder / LOCK).unlink, missing_ok=True)
    except filelock.Timeout as error:
        name = "another process"
        with contextlib.suppress(FileNotFoundError):
            name = (folder / HOLDER).read_text(errors="replace") or name
        raise ValueError(
            f"MODEL_DIR {folder} is in use: {name} is training there. Wait for it, stop it, or set "
            "another MODEL_DIR."
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logging.warning(
            "%s is on a file system without locks: make sure that no other process trains there.",
            folder,
        )
