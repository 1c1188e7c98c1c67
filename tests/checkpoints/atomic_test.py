"""A file and a folder appear whole or not at all."""

import concurrent.futures
import pathlib

import pytest

from prompt_tuning.checkpoints import atomic


def test_a_file_is_written_with_its_folders_and_replaced(tmp_path):
    path = tmp_path / "new" / "a.json"
    for content in (b"one", b"two"):
        atomic.write(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_many_write_the_same_file(tmp_path):
    path = tmp_path / "config.gin"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: atomic.write(path, b"the same"), range(200)))
    assert path.read_bytes() == b"the same" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch, method):
    path = tmp_path / "a.json"
    atomic.write(path, b"old")

    def fail(self, *_):
        pathlib.Path(str(self)).write_text("half")
        raise OSError(28, "no space left")

    monkeypatch.setattr(type(atomic.epath.Path(path)), method, fail)
    with pytest.raises(OSError, match=r"no space left: '.*/a\.json'"):
        atomic.write(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_has_its_name_when_all_is_written(tmp_path):
    (tmp_path / "new" / "a.tmp").mkdir(parents=True)  # of a process that was killed
    (tmp_path / "new" / "a.tmp" / "old").touch()
    with atomic.folder(tmp_path / "new" / "a") as folder:
        (folder / "file").write_text("text")
        assert not (tmp_path / "new" / "a").exists()
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["a", "file"]


def test_nothing_stays_of_a_failure(tmp_path):
    with pytest.raises(KeyError), atomic.folder(tmp_path / "a") as folder:
        (folder / "file").write_text("text")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError, match="a exists"), atomic.folder(tmp_path / "a"):
        pytest.fail("the folder was made")
