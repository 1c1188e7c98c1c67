"""A prompt in a checkpoint, where the paper authors' code looks for it."""

import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.checkpoints import base_model, lazy_arrays, prompt_files, splicing
from prompt_tuning.checkpoints.formats import t5x

PROMPT = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
TREE = {
    "token_embedder": {"embedding": np.random.default_rng(0).normal(size=(6, 4))},
    "encoder": {"encoder": {"mlp": {"wo": {"kernel": np.ones((3, 2, 4))}}}},
}
TREE = {path: np.asarray(array, np.float32) for path, array in params.flatten(TREE).items()}


@pytest.fixture
def prompt_file(tmp_path):
    prompt_files.save(tmp_path / "p.npy", PROMPT, {})
    return tmp_path / "p.npy"


def test_model_and_prompt_are_in_one_checkpoint(tmp_path, write_orbax, prompt_file):
    base = write_orbax(tmp_path / "base", params.unflatten(TREE), step=7)
    folder = splicing.splice(base, prompt_file, tmp_path / "out")
    assert folder == tmp_path / "out" / "checkpoint_7"
    assert t5x.read_step(folder) == 7
    with t5x.opened(folder) as arrays:
        # Scanned layers stay as they are.
        assert arrays.keys() == TREE.keys() | {"encoder/prompt/prompt/prompt"}
        for path, array in TREE.items():
            np.testing.assert_array_equal(lazy_arrays.read(arrays[path]), array)
        prompt = lazy_arrays.read(arrays["encoder/prompt/prompt/prompt"])
    np.testing.assert_array_equal(prompt, PROMPT)


EMBEDDING, PROMPT_PATH = next(iter(splicing.PROMPTS.items()))


def test_a_prompt_in_it_is_replaced(tmp_path, prompt_file):
    base = {path: lazy_arrays.from_numpy(array) for path, array in TREE.items()}
    older = {
        path: lazy_arrays.from_numpy(PROMPT + 1) for path in (PROMPT_PATH, "encoder/prompt/prompt")
    }
    t5x.save(tmp_path / "checkpoint_3", base | older, step=3, dtype="float32")
    folder = splicing.splice(
        tmp_path / "checkpoint_3", prompt_file, tmp_path / "out", dtype="bfloat16"
    )
    spliced_prompt = base_model.read_variable(folder, PROMPT_PATH)
    np.testing.assert_array_equal(spliced_prompt, PROMPT.astype(spliced_prompt.dtype))
    assert spliced_prompt.dtype.name == "bfloat16"
    with t5x.opened(folder) as spliced:
        assert spliced.keys() == TREE.keys() | {PROMPT_PATH}


def test_the_prompt_of_a_model_without_encoder_is_the_decoders(tmp_path, prompt_file):
    stored = {f"decoder/{EMBEDDING}": lazy_arrays.from_numpy(TREE[EMBEDDING])}
    t5x.save(tmp_path / "checkpoint_3", stored, step=3, dtype="float32")
    folder = splicing.splice(tmp_path / "checkpoint_3", prompt_file, tmp_path / "out", step=9)
    assert folder.name == "checkpoint_9"
    with t5x.opened(folder) as arrays:
        assert arrays.keys() == stored.keys() | {"decoder/prompt/prompt/prompt"}


def test_what_does_not_belong_together_is_told(tmp_path, tiny, prompt_file):
    with pytest.raises(
        ValueError, match=r"p.npy has shape \(2, 4\), and the model .* has width 16"
    ):
        splicing.splice(tiny.checkpoint, prompt_file, tmp_path / "out")
    stored = {EMBEDDING: lazy_arrays.from_numpy(TREE[EMBEDDING])}
    t5x.save(tmp_path / "checkpoint_3", stored, step=3, dtype="float32")
    with pytest.raises(FileExistsError, match="checkpoint_3 exists"):
        splicing.splice(tmp_path / "checkpoint_3", prompt_file, tmp_path)
    stored = {"embed": lazy_arrays.from_numpy(TREE[EMBEDDING])}
    t5x.save(tmp_path / "checkpoint_4", stored, step=4, dtype="float32")
    with pytest.raises(ValueError, match=r"checkpoint_4 has none of token_embedder/embedding, dec"):
        splicing.splice(tmp_path / "checkpoint_4", prompt_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
