"""One writer a folder: a second `train` on the same MODEL_DIR is refused, and told who is there.

The system holds the lock (flock), so that a dead holder has none. It is of a machine, and on
NFS of all machines, where Linux hands it to the server. An address such as gs:// has no locks, and
neither have some file systems: there nothing is refused.
"""

import contextlib
import datetime
import errno
import fcntl
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Sequence

from etils import epath

from prompt_tuning.checkpoints import atomic

FILE = "writer.lock"
# Says the file system, as Lustre without its option: it has no locks.
WITHOUT = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def held(model_dir: epath.PathLike) -> Iterator[None]:
    """Holds MODEL_DIR; leaves nothing there. Of several processes of a run the first holds it.

    Raises:
      ValueError: another process holds it.
      OSError: the folder cannot be written to.
    """
    if not atomic.is_writer() or "://" in str(model_dir):
        yield
        return
    folder = pathlib.Path(model_dir)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with contextlib.ExitStack() as undo:
        try:
            undo.callback(_remove, made)
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(folder)
            # Removed while it is held: who has opened it looks whether it is there still.
            undo.callback(os.close, descriptor)
            undo.callback((folder / FILE).unlink, missing_ok=True)
            since = datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds")
            who = f"process {os.getpid()} on {socket.gethostname()} since {since}"
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, who.encode(), 0)
        except OSError as error:
            raise OSError(
                f"cannot write to MODEL_DIR {folder}: {error}. Expected a writable folder. Set "
                "MODEL_DIR to one."
            ) from error
        yield


def _locked(folder: pathlib.Path) -> int:
    """The open file, locked."""
    while True:
        descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(descriptor, folder)
            if os.path.samestat(os.stat(folder / FILE), os.fstat(descriptor)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # of a run that has just ended: it is removed


def _take(descriptor: int, folder: pathlib.Path) -> None:
    """Raises ValueError where another holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = os.pread(descriptor, 1000, 0).decode(errors="replace") or "another process"
        raise ValueError(
            f"MODEL_DIR {folder} is in use: {who} is training there. Wait for it, stop it, or set "
            "another MODEL_DIR."
        ) from error
    except OSError as error:
        if error.errno not in WITHOUT:
            raise
        logging.warning(
            "%s is on a file system without locks: make sure that no other process trains there.",
            folder,
        )


def _remove(made: Sequence[pathlib.Path]) -> None:
    """The folders that were made, innermost first, as far as nothing is in them."""
    with contextlib.suppress(OSError):
        for each in made:
            each.rmdir()
