"""scripts/splice_prompt.py."""

import importlib.util
import pathlib

import numpy as np
import pytest

from prompt_tuning.checkpoints import base_model, prompt_files

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "splice_prompt.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("splice_prompt", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_model_and_prompt_make_a_checkpoint(script, tiny, tmp_path, capsys):
    prompt = np.arange(32, dtype=np.float32).reshape(2, 16)
    prompt_files.save(tmp_path / "p.npy", prompt, {})
    script.main([
        f"--checkpoint_dir={tiny.checkpoint}",
        f"--prompt_path={tmp_path}/p.npy",
        f"--output_dir={tmp_path}/out",
    ])  # fmt: skip
    folder = tmp_path / "out" / "checkpoint_1000"
    assert capsys.readouterr().out == f"{folder}\n"
    found = base_model.read_variable(folder, "target/encoder/prompt/prompt/prompt")
    np.testing.assert_array_equal(found, prompt)
    scale = base_model.read_variable(folder, "encoder/encoder_norm/scale")
    np.testing.assert_array_equal(scale, tiny.base["encoder"]["encoder_norm"]["scale"])


def test_mistakes_and_help(script, tiny, tmp_path, capsys):
    flags = [f"--checkpoint_dir={tiny.checkpoint}", f"--output_dir={tmp_path}/out"]
    with pytest.raises(SystemExit, match=r"none\.npy does not exist"):
        script.main([*flags, "--prompt_path=none.npy"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as ended:
        script.main(["--help"])
    assert ended.value.code == 0 and "--save_dtype" in capsys.readouterr().out
