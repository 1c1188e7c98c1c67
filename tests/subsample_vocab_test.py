"""scripts/subsample_vocab.py."""

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files


@pytest.fixture
def script(load_script):
    return load_script("subsample_vocab")


@pytest.fixture
def sample_rows(script, tiny, tmp_path):
    """(flags) -> the rows of the embedding in the prompt."""

    def call(*flags):
        path = tmp_path / "p.npy"
        script.main([f"--checkpoint_dir={tiny.checkpoint}", f"--output_path={path}", *flags])
        same = prompt_files.load(path)[:, None] == tiny.base["token_embedder"]["embedding"]
        rows, columns = np.nonzero(same.all(-1))
        np.testing.assert_array_equal(rows, np.arange(len(rows)))
        return columns.tolist()

    return call


def test_a_prompt_has_rows_of_the_embedding(sample_rows, tmp_path):
    rows = sample_rows("--prompt_length=20", "--population_size=30")
    assert len(set(rows)) == 20 and max(rows) < 30
    assert sample_rows("--prompt_length=20", "--population_size=30") == rows
    assert sample_rows("--prompt_length=20", "--population_size=30", "--seed=1") != rows
    assert prompt_files.read_card(tmp_path / "p.npy")["length"] == 20
    assert len(sample_rows()) == 100
    assert max(sample_rows("--population_size=0", "--prompt_length=200")) > 200
    assert set(sample_rows("--population_size=3", "--prompt_length=50")) == {0, 1, 2}


def test_the_embedding_is_rounded_to_the_dtype(script, tiny, tmp_path):
    path = tmp_path / "p.npy"
    flags = [f"--checkpoint_dir={tiny.checkpoint}", f"--output_path={path}", "--prompt_length=20"]
    script.main(flags)
    exact = prompt_files.load(path)
    script.main([*flags, "--restore_dtype=bfloat16"])
    rounded = exact.astype("bfloat16").astype(np.float32)
    assert not np.array_equal(rounded, exact)
    np.testing.assert_array_equal(prompt_files.load(path), rounded)


def test_errors_and_help(script, sample_rows, tmp_path, capsys):
    with pytest.raises(SystemExit, match="no parameter 'encoder/prompt"):
        sample_rows("--embeddings_path=encoder/prompt/prompt/prompt")
    with pytest.raises(SystemExit, match=r"has shape \(16,\) .*expected a table"):
        sample_rows("--embeddings_path=encoder/encoder_norm/scale")
    with pytest.raises(SystemExit, match="--prompt_length is 0"):
        sample_rows("--prompt_length=0")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as ended:
        script.main(["--help"])
    assert ended.value.code == 0
    assert "(default: token_embedder/embedding)" in capsys.readouterr().out
