"""What other threads write while TensorFlow is imported is shown; what TensorFlow's C++ writes is not."""

import re
import signal
import subprocess
import sys

# Writes lines in several ways, from before the import to its end.
WRITE_MEANWHILE = """
import logging, os, subprocess, sys, threading, time
from prompt_tuning.data import tensorflow_import
from prompt_tuning.training import reporting

reporting.set_up_logging()
stop, count = threading.Event(), 0

def write():
    global count
    while not stop.is_set():
        logging.warning("log line %d", count)
        os.write(2, f"I0000 00:00:1.5       1 other.cc:1] raw line {count}\\n".encode())
        subprocess.run(["sh", "-c", f"echo child line {count} >&2"])
        count += 1
        time.sleep(0.2)

thread = threading.Thread(target=write)
thread.start()
tensorflow_import.start_tensorflow()
assert "tensorflow" in sys.modules
stop.set()
thread.join()
tensorflow_import.start_tensorflow()
print(count)
"""
END_MEANWHILE = """
import os, threading, time
from prompt_tuning.data import tensorflow_import
from prompt_tuning.distributed import interrupts

interrupts.catch()
with tensorflow_import._without_native_messages():
    os.kill(os.getpid(), {signal})
    time.sleep(60)
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_no_line_is_lost_while_tensorflow_is_imported():
    ended = run(WRITE_MEANWHILE)
    assert ended.returncode == 0, ended.stderr
    count = int(ended.stdout)
    assert count > 2
    # Without the time.
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in ended.stderr.splitlines()]
    for kind in ("log line", "I0000 00:00:1.5       1 other.cc:1] raw line", "child line"):
        assert [x for x in lines if kind in x] == [f"{kind} {i}" for i in range(count)]
    assert len(lines) == 3 * count, "TensorFlow says nothing"


def test_the_last_words_of_a_process_that_is_ended_are_shown():
    ended = run(END_MEANWHILE.format(signal=int(signal.SIGTERM)))
    assert (ended.returncode, ended.stderr) == (143, "prompt-tuning: terminated\n")
