"""scripts/check_wheel.py: missing and surplus files of a wheel."""

import zipfile

import pytest


@pytest.fixture
def check_wheel(load_script):
    return load_script("check_wheel")


def make(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*names, "prompt_tuning-0.1.0.dist-info/METADATA"):
            archive.writestr(name, "")
    return str(path)


def test_a_complete_wheel_passes(check_wheel, tmp_path, capsys):
    names = set(check_wheel.expected(check_wheel.REPOSITORY))
    assert {
        "prompt_tuning/py.typed",
        "prompt_tuning/api/model.py",
        "prompt_tuning/gin_configs/models/t5_mini.gin",
        "prompt_tuning/assets/t5_mini/model.safetensors",
    } <= names
    check_wheel.main([make(tmp_path / "a.whl", names)])
    assert f"{len(names)} files" in capsys.readouterr().out


def test_missing_and_surplus_files_are_named(check_wheel, tmp_path):
    names = set(check_wheel.expected(check_wheel.REPOSITORY)) - {"prompt_tuning/py.typed"}
    with pytest.raises(SystemExit, match=r"missing: prompt_tuning.py.typed\n  surplus: tests.a.py"):
        check_wheel.main([make(tmp_path / "a.whl", {*names, "tests/a.py"})])
