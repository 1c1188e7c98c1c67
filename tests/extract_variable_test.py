"""scripts/extract_variable.py."""

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files


@pytest.fixture
def script(load_script):
    return load_script("extract_variable")


def test_writes_a_variable_to_a_file(script, tiny, tmp_path, capsys):
    output = tmp_path / "new" / "embedding.npy"
    flags = [f"--checkpoint_dir={tiny.checkpoint}", f"--output_path={output}"]
    flags.append("--variable_path=target/token_embedder/embedding")
    embedding = tiny.base["token_embedder"]["embedding"]
    script.main(flags)
    np.testing.assert_array_equal(np.load(output), embedding, strict=True)
    assert "float32 (256, 16)" in capsys.readouterr().out
    script.main([*flags, "--restore_dtype=bfloat16"])
    # numpy does not load bfloat16 by itself; prompt files may be bfloat16.
    rounded = np.asarray(embedding).astype("bfloat16").astype(np.float32)
    np.testing.assert_array_equal(prompt_files.load(output), rounded)


def test_errors_and_help(script, tiny, tmp_path, capsys):
    flags = [f"--checkpoint_dir={tiny.checkpoint}", f"--output_path={tmp_path}/a.npy"]
    with pytest.raises(SystemExit, match="such as token_embedder/embedding"):
        script.main([*flags, "--variable_path=token_embeder/embedding"])
    with pytest.raises(SystemExit, match="does not exist"):
        script.main(["--checkpoint_dir=none", *flags[1:], "--variable_path=a"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as ended:
        script.main(["--help"])
    assert ended.value.code == 0 and "--variable_path" in capsys.readouterr().out
