"""One writer a folder: who is there is told, and a dead one is not."""

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
with writer_lock.held(sys.argv[1]):
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


def test_a_second_writer_is_told_who_is_there_and_a_dead_one_is_not(tmp_path):
    folder = tmp_path / "new" / "run"
    with holder(folder) as process:
        who = rf"run is in use: process {process.pid} on {socket.gethostname()} since \d+-\d+-\d+ "
        with pytest.raises(ValueError, match=f"{who}.*set another MODEL_DIR"):
            writer_lock.held(folder).__enter__()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (folder / writer_lock.FILE).exists()
        with writer_lock.held(folder):
            assert f"process {os.getpid()} " in (folder / writer_lock.FILE).read_text()
    assert list(folder.iterdir()) == []


def test_it_leaves_nothing_and_what_was_written_stays(tmp_path):
    with writer_lock.held(tmp_path / "a/b/c"):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), writer_lock.held(tmp_path / "a/b/c"):
        (tmp_path / "a/b/file").touch()
        raise KeyError
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["file"]
    with writer_lock.held(tmp_path / "a/b"):  # the same process again
        pass


def test_a_lock_that_is_removed_while_it_is_taken_is_made_anew(tmp_path, monkeypatch):
    take, removed = writer_lock._take, []

    def racing(descriptor, folder):
        take(descriptor, folder)
        if not removed:
            (folder / writer_lock.FILE).unlink()  # as one that ends does
        removed.append(descriptor)

    monkeypatch.setattr(writer_lock, "_take", racing)
    with writer_lock.held(tmp_path):
        assert len(removed) == 2 and (tmp_path / writer_lock.FILE).exists()
        with pytest.raises(ValueError, match="is in use"):
            writer_lock.held(tmp_path).__enter__()


def test_a_file_system_without_locks_refuses_nothing(tmp_path, monkeypatch, caplog):
    def without(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(writer_lock.fcntl, "flock", without)
    with writer_lock.held(tmp_path), writer_lock.held(tmp_path):
        assert "without locks: make sure that no other process trains there" in caplog.text


def test_an_address_has_no_locks(monkeypatch):
    monkeypatch.setattr(pathlib.Path, "mkdir", None)
    with writer_lock.held("gs://bucket/run"):
        pass


def test_a_folder_that_cannot_be_written_names_its_setting(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to MODEL_DIR .*file.*Set MODEL_DIR"):
        writer_lock.held(tmp_path / "file").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_others_of_a_run_hold_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_lock.atomic, "is_writer", lambda: False)
    with writer_lock.held(tmp_path / "run"):
        assert not (tmp_path / "run").exists()
