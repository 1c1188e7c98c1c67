"""Gin files as text."""

from prompt_tuning.cli import gin_files


def test_macros_within_strings_are_not_used():
    text = "a.b = %ONE\nTWO = ['%THREE', \"%FOUR\", %FIVE_6]\nc = 'it\\'s %SEVEN'"
    assert gin_files.used_macros(text) == {"ONE", "FIVE_6"}


def test_a_model_file_is_read_once_and_others_each_time(tmp_path):
    paths = [tmp_path / folder / "a.gin" for folder in ("models", "tasks")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("A = 1")
    link = tmp_path / "models/b.gin"
    link.symlink_to(paths[0])
    open_file = gin_files.open_once()

    def read(path):
        with open_file(str(path)) as file:
            return file.read()

    assert [read(path) for path in (*paths, *paths, link)] == ["A = 1", "A = 1", "", "A = 1", ""]
    assert [gin_files.is_model(str(path)) for path in paths] == [True, False]
