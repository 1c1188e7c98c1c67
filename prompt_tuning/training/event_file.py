"""TensorBoard's files of events, written where they are told of.

tensorboardX's own writer has a thread and a queue: where the disk is full the thread ends with a
traceback, and the run waits for it for ever.
"""

import os
import time

from etils import epath
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2


class EventFile:
    """A new file of events of a run that goes on from a step."""

    def __init__(self, folder: epath.PathLike, after_step: int):
        """What earlier files in `folder` have after `after_step` is hidden."""
        epath.Path(folder).mkdir(parents=True, exist_ok=True)
        # The rest of the name is the second.
        prefix, suffix = os.path.join(folder, "events"), f".{after_step}"
        self._file = event_file_writer.EventsWriter(prefix, suffix)
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(after_step + 1, session_log=started)

    def add(self, tag: str, value: float | str, step: int) -> None:
        """A number, or a text, which TensorBoard reads as Markdown."""
        if isinstance(value, str):
            # One line break of Markdown is none.
            told = summary.text(tag, value.replace("\n", "\n\n"))
        else:
            told = summary.scalar(tag, value)
        self._write(step, summary=told)

    def _write(self, step: int, **content) -> None:
        self._file.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))

    def flush(self) -> None:
        """Hands what was added to the disk. Raises OSError where it is full."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and ends the file."""
        self._file.close()
