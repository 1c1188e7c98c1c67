"""A process whose standard streams are closed."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from prompt_tuning.cli import standard_streams
standard_streams.open_closed()
from prompt_tuning.data import tensorflow_import
with tensorflow_import._without_native_messages():
    print("to standard error", file=sys.stderr, flush=True)
os.write(int(sys.argv[1]), repr([x.fileno() for x in (sys.stdin, sys.stdout, sys.stderr)]).encode())
"""


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", ""])
def test_closed_streams_are_the_null_device(closed):
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    command = f'"$0" -c "$1" {writer} {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, CODE],
        pass_fds=[writer],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == "[0, 1, 2]"
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == ("" if closed else "to standard error\n")
