"""TensorBoard's events: a disk that is full is an error where they are told."""

import resource
import threading

import pytest

from prompt_tuning.training import event_file


def test_a_full_disk_is_an_error_and_no_thread_waits(tmp_path):
    before = threading.active_count()
    events = event_file.EventFile(tmp_path / "new", after_step=3)
    for step in range(100):
        events.add("loss", 1.0, step)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            events.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert threading.active_count() == before
    events.close()
    assert len(list((tmp_path / "new").iterdir())) == 1
