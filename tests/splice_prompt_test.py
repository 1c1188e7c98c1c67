"""scripts/splice_prompt.py."""

import json
import shutil

import numpy as np
import pytest

from prompt_tuning.checkpoints import base_model, prompt_files


@pytest.fixture
def script(load_script):
    return load_script("splice_prompt")


def test_writes_model_and_prompt_to_a_checkpoint(script, tiny, tmp_path, capsys):
    prompt = np.arange(32, dtype=np.float32).reshape(2, 16)
    prompt_files.save(tmp_path / "p.npy", prompt, {})
    script.main([
        f"--checkpoint_dir={tiny.checkpoint}",
        f"--prompt_path={tmp_path}/p.npy",
        f"--output_dir={tmp_path}/out",
    ])  # fmt: skip
    folder = tmp_path / "out" / "checkpoint_1000"
    assert capsys.readouterr().out == f"{folder}\n"
    stored = base_model.read_variable(folder, "target/encoder/prompt/prompt/prompt")
    np.testing.assert_array_equal(stored, prompt)
    scale = base_model.read_variable(folder, "encoder/encoder_norm/scale")
    np.testing.assert_array_equal(scale, tiny.base["encoder"]["encoder_norm"]["scale"])


def test_step_and_dtype_can_be_set(script, tiny, tmp_path):
    folder = shutil.copytree(tiny.checkpoint, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    del config["training_steps"]
    (folder / "config.json").write_text(json.dumps(config))
    prompt_files.save(tmp_path / "p.npy", np.ones((2, 16), np.float32), {})
    flags = [f"--checkpoint_dir={folder}", f"--output_dir={tmp_path}/out"]
    flags.append(f"--prompt_path={tmp_path}/p.npy")
    with pytest.raises(SystemExit, match=r"does not contain its step, .* Pass it with --step"):
        script.main(flags)
    script.main([*flags, "--step=7", "--save_dtype=bfloat16"])
    with base_model.opened(tmp_path / "out" / "checkpoint_7") as variables:
        assert {str(leaf.dtype) for leaf in variables.values()} == {"bfloat16"}


def test_errors_and_help(script, tiny, tmp_path, capsys):
    flags = [f"--checkpoint_dir={tiny.checkpoint}", f"--output_dir={tmp_path}/out"]
    with pytest.raises(SystemExit, match=r"none\.npy does not exist"):
        script.main([*flags, "--prompt_path=none.npy"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as ended:
        script.main(["--help"])
    assert ended.value.code == 0 and "--save_dtype" in capsys.readouterr().out
