"""A folder appears whole or not at all."""

import pytest

from prompt_tuning.checkpoints import folders


def test_a_folder_has_its_name_when_all_is_written(tmp_path):
    (tmp_path / "new" / "a.tmp").mkdir(parents=True)  # of a process that was killed
    (tmp_path / "new" / "a.tmp" / "old").touch()
    with folders.appearing(tmp_path / "new" / "a") as folder:
        (folder / "file").write_text("text")
        assert not (tmp_path / "new" / "a").exists()
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["a", "file"]


def test_nothing_stays_of_a_failure(tmp_path):
    with pytest.raises(KeyError), folders.appearing(tmp_path / "a") as folder:
        (folder / "file").write_text("text")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError, match="a exists"), folders.appearing(tmp_path / "a"):
        pytest.fail("the folder was made")
