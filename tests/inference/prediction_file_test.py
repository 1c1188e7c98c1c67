"""Partial files: complete windows are kept, and one process writes. By command: inferencer_test.py."""

import pytest

from prompt_tuning.checkpoints import atomic
from prompt_tuning.inference import prediction_file
from prompt_tuning.training import settings as settings_lib

SETTINGS = settings_lib.Settings({"BATCH_SIZE": 8})


@pytest.fixture
def open_file(tmp_path):
    return lambda: prediction_file.PredictionFile(tmp_path / "a.jsonl", SETTINGS, 2)


def test_complete_windows_are_kept(open_file, tmp_path):
    with pytest.raises(KeyboardInterrupt), open_file().append() as write:
        write("1\n2\n3\n4\n5")
        raise KeyboardInterrupt
    file = open_file()
    assert (file.num_kept, file.is_complete) == (4, False)
    with file.append() as write:
        write("6\n")
    assert file.path.read_text() == "1\n2\n3\n4\n6\n" and open_file().is_complete
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "a.jsonl.settings.json"}


def test_other_processes_write_nothing(open_file, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "is_writer", lambda: False)
    file = open_file()
    with file.append() as write:
        write("1\n")
    file.mark_completed()
    assert not list(tmp_path.iterdir())
