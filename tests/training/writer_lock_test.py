"""One writer per MODEL_DIR: the message names the holder, and the lock of a dead process is free."""

import contextlib
import errno
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from prompt_tuning.training import writer_lock

HOLDER = """
import sys, time
from prompt_tuning.training import writer_lock
with writer_lock.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(folder):
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_writer_reads_the_holder_and_a_dead_holder_has_no_lock(tmp_path):
    folder = tmp_path / "new" / "run"
    with holder(folder) as process:
        name = rf"run is in use: process {process.pid} on {socket.gethostname()} since \d+-\d+-\d+ "
        for _ in range(2):
            with pytest.raises(ValueError, match=f"{name}.*set another MODEL_DIR"):
                writer_lock.hold(folder).__enter__()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (folder / writer_lock.LOCK).exists()
        with writer_lock.hold(folder):
            assert f"process {os.getpid()} " in (folder / writer_lock.HOLDER).read_text()
            with pytest.raises(ValueError, match=f"process {os.getpid()} .* is training there"):
                writer_lock.hold(folder).__enter__()
    assert list(folder.iterdir()) == []


def test_new_folders_stay_only_with_what_was_written(tmp_path):
    with writer_lock.hold(tmp_path / "a/b/c"):
        pass
    assert list(tmp_path.iterdir()) == []
    with writer_lock.hold(tmp_path / "a/b/c"):
        (tmp_path / "a/b/file").touch()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["file"]


def test_the_lock_ends_with_an_error_and_other_files_stay(tmp_path):
    with pytest.raises(KeyError), writer_lock.hold(tmp_path):
        (tmp_path / "file").touch()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with writer_lock.hold(tmp_path):  # the same process again
        pass


def test_a_file_system_without_locks_refuses_nothing(tmp_path, monkeypatch, caplog):
    def acquire(_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(writer_lock.filelock.FileLock, "__enter__", acquire)
    with writer_lock.hold(tmp_path), writer_lock.hold(tmp_path):
        assert "without locks: make sure that no other process trains there" in caplog.text


def test_an_address_has_no_locks(monkeypatch):
    monkeypatch.setattr(pathlib.Path, "mkdir", None)
    with writer_lock.hold("gs://bucket/run"):
        pass


def test_a_folder_that_is_not_writable_names_its_setting(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to MODEL_DIR .*file.*Set MODEL_DIR"):
        writer_lock.hold(tmp_path / "file").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_other_processes_of_a_run_hold_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_lock.atomic, "is_writer", lambda: False)
    with writer_lock.hold(tmp_path / "run"):
        assert not (tmp_path / "run").exists()
