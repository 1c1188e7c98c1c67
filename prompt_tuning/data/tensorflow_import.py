"""The import of TensorFlow and seqio, which write to standard error while they are read."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

# Copies lines but those that match. A process of its own: what another thread, or a signal's
# handler that ends this process, writes is shown whatever happens here.
_COPY_LINES = """
import re, sys
dropped = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not dropped.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""
_lock = threading.Lock()
_HEADING = "WARNING: All log messages before absl::InitializeLog"


def start_tensorflow() -> None:
    """Imports TensorFlow and seqio, quietly, and keeps them off the GPU."""
    with _lock, _without_native_messages():
        import seqio  # noqa: F401
        import tensorflow as tf

        # A GPU is JAX's; TensorFlow would take all of its memory.
        tf.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def _without_native_messages() -> Iterator[None]:
    """Leaves out of standard error what C++ code of this thread logs below fatal.

    TensorFlow logs while its libraries are loaded, before it reads TF_CPP_MIN_LOG_LEVEL. All other
    lines, those of Python and of other threads too, are shown as they are written.
    """
    if "tensorflow" in sys.modules and "seqio" in sys.modules:
        yield
        return
    thread = threading.get_native_id()
    dropped = rf"[IWE]\d{{4}} \S+ +{thread} \S+:\d+\] |{re.escape(_HEADING)}"
    kept = os.dup(2)
    copier = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _COPY_LINES, dropped],
        stdin=subprocess.PIPE,
        stdout=kept,
        start_new_session=True,  # Ctrl-C is for this process.
    )
    os.dup2(copier.stdin.fileno(), 2)
    copier.stdin.close()
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        # It ends with the last writer; a process that was started meanwhile may be one.
        with contextlib.suppress(subprocess.TimeoutExpired):
            copier.wait(timeout=5)
