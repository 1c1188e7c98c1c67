"""TensorBoard event files, written by the calling thread.

The writer of tensorboardX has a thread and a queue: on a full disk the thread ends with a
traceback, and the run waits for it forever.
"""

import os
import time

from etils import epath
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2


class EventFile:
    """A new event file of a run that resumes from a step."""

    def __init__(self, folder: epath.PathLike, after_step: int):
        """Hides the events after `after_step` of earlier files in `folder`."""
        epath.Path(folder).mkdir(parents=True, exist_ok=True)
        # The writer adds the time to the name.
        prefix, suffix = os.path.join(folder, "events"), f".{after_step}"
        self._file = event_file_writer.EventsWriter(prefix, suffix)
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(after_step + 1, session_log=started)

    def add(self, tag: str, value: float | str, step: int) -> None:
        """Adds a scalar, or a text in Markdown."""
        if isinstance(value, str):
            # Markdown joins lines that a single line break separates.
            content = summary.text(tag, value.replace("\n", "\n\n"))
        else:
            content = summary.scalar(tag, value)
        self._write(step, summary=content)

    def _write(self, step: int, **content) -> None:
        self._file.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))

    def flush(self) -> None:
        """Writes added events to the disk. Raises OSError if it is full."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()
