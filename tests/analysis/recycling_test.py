"""Recycling of prompts for another model."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_tuning.analysis import recycling
from prompt_tuning.checkpoints import base_model, prompt_files
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.cli import main as cli
from prompt_tuning.models import model


@pytest.fixture
def source(rng):
    return rng.normal(size=(60, 6))


@pytest.mark.parametrize("width", [4, 6, 9])
def test_linear_map_is_recovered(source, rng, width):
    """Includes targets that are wider than the source."""
    matrix, prompt = rng.normal(size=(6, width)), 50 * rng.normal(size=(3, 6))
    recycled = recycling.linear(prompt, source, source @ matrix)
    np.testing.assert_allclose(recycled, prompt @ matrix, rtol=1e-6, atol=1e-9)


def test_linear_map_equals_the_papers_combination(source, rng):
    target, prompt = rng.normal(size=(60, 5)), rng.normal(size=(3, 6))
    smallest = prompt @ np.linalg.pinv(source)  # The minimum-norm combination of tokens.
    np.testing.assert_allclose(smallest @ source, prompt)
    np.testing.assert_allclose(recycling.linear(prompt, source, target), smallest @ target)


def test_too_few_tokens_are_refused(source):
    with pytest.raises(
        ValueError, match=r"5 common tokens do not determine .* width 6; .* Increase NUM_WORDS"
    ):
        recycling.linear(source[:1], source[:5], source[:5])


def test_nearest_token_keeps_the_norm_ratio(source, rng):
    target = rng.normal(size=(60, 4))
    prompt = source[[7, 0]] * [[3.0], [0.5]]
    recycled = recycling.nearest(prompt, source, target)
    np.testing.assert_allclose(recycled, target[[7, 0]] * [[3.0], [0.5]])


def test_common_tokens_of_equal_vocabularies(vocabulary):
    same = recycling.common_tokens(vocabulary, vocabulary, 5, 4)
    np.testing.assert_array_equal(same, np.stack([range(7, 12)] * 2, axis=1))
    every = recycling.common_tokens(vocabulary, vocabulary, 10_000, 0)
    assert every[0].tolist() == [3, 3] and every[-1, 0] == vocabulary.size - 101


@dataclasses.dataclass(frozen=True)
class Words:
    """A vocabulary with one token per word."""

    words: tuple[str, ...]
    extra_ids: int = 0

    @property
    def size(self):
        return len(self.words)

    def piece(self, i):
        return self.words[i]

    def check_fits(self, rows):
        assert rows == self.size


def test_common_tokens_have_the_ids_of_each_vocabulary():
    one, other = Words(tuple("_/?abcd")), Words(tuple("_/?dxcba"))
    recycled = recycling.common_tokens(one, other, 9, 1)
    assert recycled.tolist() == [[4, 6], [5, 5], [6, 3]]
    with pytest.raises(ValueError, match="have 4 tokens in common, none after WORD_OFFSET=4"):
        recycling.common_tokens(one, other, 9, 4)


@pytest.fixture
def tables(monkeypatch):
    """{checkpoint: embedding} that replaces the checkpoints."""
    recycled = {}
    monkeypatch.setattr(base_model, "read_embedding", recycled.__getitem__)
    return recycled


def recycle(folder, vocabulary, rng, tables, other=None, **settings):
    """Recycles for a linear image of a model; returns the prompt, the matrix and the result."""
    embedding = rng.normal(size=(vocabulary.size, 6)).astype(np.float32)
    matrix, prompt = rng.normal(size=(6, 5)), rng.normal(size=(3, 6))
    path = str(folder / "p.npy")
    prompt_files.save(path, prompt, {"place": "suffix", "task": "films", "metrics": {"x": 1}})
    tables |= {"source": embedding, "target": embedding @ matrix} | (other or {})
    defaults = {
        "prompt_file": path,
        "source_checkpoint": "source",
        "source_vocabulary": vocabulary,
        "target_checkpoint": "target",
        "target_vocabulary": vocabulary,
        "output_file": str(folder / "new.npy"),
        "num_words": 40,
        "word_offset": 2,
    }
    return prompt, matrix, recycling.recycle(**(defaults | settings))


def test_recycle_writes_a_prompt_for_the_target(tmp_path, vocabulary, rng, tables, capsys):
    prompt, matrix, recycled = recycle(tmp_path, vocabulary, rng, tables)
    np.testing.assert_allclose(recycled, prompt @ matrix, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(prompt_files.load(tmp_path / "new.npy"), recycled, rtol=1e-6)
    card = {"length": 3, "embed_dim": 5, "recycled_from": str(tmp_path / "p.npy")}
    assert prompt_files.read_card(tmp_path / "new.npy") == card | {
        "place": "suffix",
        "task": "films",
    }
    assert "with 40 common tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (
            {"source": np.ones((8, 7))},
            "of width 6, but the source embedding has width 7; .* Set SO",
        ),
        ({"source": np.ones((8, 6))}, "expected at least one row per id"),
        ({"target": np.ones((8, 6))}, "expected at least one row per id"),
    ],
)
def test_mismatched_embeddings_are_refused(tmp_path, vocabulary, rng, tables, other, part):
    with pytest.raises(ValueError, match=part):
        recycle(tmp_path, vocabulary, rng, tables, other)
    assert not (tmp_path / "new.npy").exists()


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"recycler": "magic"}, r"RECYCLER is 'magic'; expected one of \['linear', 'nearest'\]"),
        ({"output_file": "new"}, r"OUTPUT_FILE is 'new'; expected a name that ends in \.npy"),
    ],
)
def test_settings_are_checked_before_models_are_read(
    tmp_path, vocabulary, rng, monkeypatch, settings, part
):
    monkeypatch.setattr(base_model, "read_embedding", None)
    with pytest.raises(ValueError, match=part):
        recycle(tmp_path, vocabulary, rng, {}, **settings)


def test_existing_output_is_refused(tmp_path, vocabulary, rng, tables):
    recycle(tmp_path, vocabulary, rng, tables)
    with pytest.raises(ValueError, match=r"new\.npy exists; .* Set another OUTPUT_FILE"):
        recycle(tmp_path, vocabulary, rng, tables)


def test_a_file_of_several_parameters_cannot_be_recycled(tmp_path, vocabulary, rng):
    prompt_files.save_leaves(tmp_path / "p.npz", {"prompt": np.ones((4, 6))}, {})
    with pytest.raises(ValueError, match=r"p\.npz holds prompt \(4, 6\); expected a single prompt"):
        recycle(tmp_path, vocabulary, rng, {}, prompt_file=str(tmp_path / "p.npz"))


@pytest.fixture
def wide(tiny, tmp_path):
    """A model of width 24 with the vocabulary of `tiny`: its folder and embedding."""
    config = dataclasses.replace(tiny.model.config, embed_dim=24)
    base = jax.device_get(jax.jit(model.EncoderDecoderModel(config).init)(jax.random.key(1)))
    huggingface.save(
        tmp_path / "wide", base, config, vocabulary_file=tiny.vocabulary.path, step=7, dtype="float32"
    )  # fmt: skip
    return tmp_path / "wide", base["token_embedder"]["embedding"]


def test_command_recycles_with_each_recycler(tiny, tiny_job, wide, tmp_path, rng):
    folder, embedding = wide
    prompt = rng.normal(size=(3, 24)).astype(np.float32)
    prompt_files.save(tmp_path / "p.npy", prompt, {"task": "films"})
    settings = {"PROMPT_FILE": tmp_path / "p.npy", "NUM_WORDS": 30, "WORD_OFFSET": 5}
    settings |= {"OUTPUT_FILE": tmp_path / "new.npy", "SOURCE_CHECKPOINT_PATH": folder}
    cli.run(tiny_job.command("recycle", **settings))
    tokens = np.arange(8, 38)
    target = tiny.base["token_embedder"]["embedding"][tokens]
    expected = recycling.linear(prompt, embedding[tokens], target)
    np.testing.assert_allclose(np.load(tmp_path / "new.npy"), expected, rtol=1e-4, atol=1e-5)
    nearest = {"RECYCLER": "nearest", "OUTPUT_FILE": tmp_path / "nearest.npy"}
    recycled = cli.run(tiny_job.command("recycle", **(settings | nearest)))
    np.testing.assert_array_equal(recycled, recycling.nearest(prompt, embedding[tokens], target))


def test_command_recycles_from_byt5(tiny_job, tmp_path, rng, tables):
    tables |= {"byt5": rng.normal(size=(384, 6)), "tiny": rng.normal(size=(256, 16))}
    prompt_files.save(tmp_path / "p.npy", rng.normal(size=(2, 6)), {})
    settings = {
        "PROMPT_FILE": tmp_path / "p.npy",
        "OUTPUT_FILE": tmp_path / "new.npy",
        "INITIAL_CHECKPOINT_PATH": "tiny",
        "SOURCE_CHECKPOINT_PATH": "byt5",
        "WORD_OFFSET": 0,
    }
    command = tiny_job.command("recycle", **settings)
    flag = "--gin.SOURCE_VOCABULARY=@source/vocabularies.ByteVocabulary()"
    assert cli.run([*command, flag]).shape == (2, 16)
