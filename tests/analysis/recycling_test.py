"""Prompts made over for another model."""

import dataclasses

import numpy as np
import pytest

from prompt_tuning.analysis import recycling
from prompt_tuning.checkpoints import prompt_files


@pytest.fixture
def source(rng):
    return rng.normal(size=(60, 6))


@pytest.mark.parametrize("width", [4, 6, 9])
def test_a_linear_image_is_recovered(source, rng, width):
    """Also of more numbers than the source has."""
    matrix, prompt = rng.normal(size=(6, width)), 50 * rng.normal(size=(3, 6))
    found = recycling.linear(prompt, source, source @ matrix)
    np.testing.assert_allclose(found, prompt @ matrix, rtol=1e-6, atol=1e-9)


def test_the_linear_map_is_the_linear_combination(source, rng):
    target, prompt = rng.normal(size=(60, 5)), rng.normal(size=(3, 6))
    smallest = prompt @ np.linalg.pinv(source)  # of all that combine the pieces to the prompt
    np.testing.assert_allclose(smallest @ source, prompt)
    np.testing.assert_allclose(recycling.linear(prompt, source, target), smallest @ target)


def test_too_few_pieces_for_a_map(source):
    with pytest.raises(ValueError, match=r"5 pieces do not determine .* 6 numbers; set NUM_WORDS"):
        recycling.linear(source[:1], source[:5], source[:5])


def test_the_nearest_piece_and_the_length(source, rng):
    target = rng.normal(size=(60, 4))
    prompt = source[[7, 0]] * [[3.0], [0.5]]
    found = recycling.nearest(prompt, source, target)
    np.testing.assert_allclose(found, target[[7, 0]] * [[3.0], [0.5]])


def test_pieces_that_both_vocabularies_have(vocabulary):
    same = recycling.common_pieces(vocabulary, vocabulary, 5, 4)
    np.testing.assert_array_equal(same, np.stack([range(7, 12)] * 2, axis=1))
    every = recycling.common_pieces(vocabulary, vocabulary, 10_000, 0)
    assert every[0].tolist() == [3, 3] and every[-1, 0] == vocabulary.size - 101


@dataclasses.dataclass(frozen=True)
class Words:
    """A vocabulary of words."""

    words: tuple[str, ...]
    extra_ids: int = 0

    @property
    def size(self):
        return len(self.words)

    def piece(self, i):
        return self.words[i]

    def check_fits(self, rows):
        assert rows == self.size


def test_pieces_have_other_ids_in_other_vocabularies():
    one, other = Words(tuple("_/?abcd")), Words(tuple("_/?dxcba"))
    found = recycling.common_pieces(one, other, 9, 1)
    assert found.tolist() == [[4, 6], [5, 5], [6, 3]]
    with pytest.raises(ValueError, match="have 4 pieces in common, none behind WORD_OFFSET 4"):
        recycling.common_pieces(one, other, 9, 4)


def recycle(folder, vocabulary, rng, **settings):
    """A prompt for a turned copy of a model: what there was, its matrix, and what came of it."""
    embedding = rng.normal(size=(vocabulary.size, 6)).astype(np.float32)
    matrix, prompt = rng.normal(size=(6, 5)), rng.normal(size=(3, 6))
    path = str(folder / "p.npy")
    prompt_files.save(path, prompt, {"place": "suffix", "task": "films", "metrics": {"x": 1}})
    defaults = {
        "prompt_file": path,
        "source_embedding": embedding,
        "source_vocabulary": vocabulary,
        "target_embedding": embedding @ matrix,
        "target_vocabulary": vocabulary,
        "output_file": str(folder / "new.npy"),
        "num_words": 40,
        "word_offset": 2,
    }
    return prompt, matrix, recycling.recycle(**(defaults | settings))


def test_recycle_writes_a_prompt_for_the_target(tmp_path, vocabulary, rng, capsys):
    prompt, matrix, found = recycle(tmp_path, vocabulary, rng)
    np.testing.assert_allclose(found, prompt @ matrix, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(prompt_files.load(tmp_path / "new.npy"), found, rtol=1e-6)
    card = {"length": 3, "embed_dim": 5, "recycled_from": str(tmp_path / "p.npy")}
    assert prompt_files.read_card(tmp_path / "new.npy") == card | {
        "place": "suffix",
        "task": "films",
    }
    assert "from 40 pieces" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"recycler": "magic"}, r"RECYCLER is 'magic'; expected one of \['linear', 'nearest'\]"),
        (
            {"source_embedding": np.ones((8, 7))},
            "of 6 numbers, the source's embedding of 7; set SO",
        ),
        ({"source_embedding": np.ones((8, 6))}, "they do not belong together"),
        ({"target_embedding": np.ones((8, 6))}, "they do not belong together"),
    ],
)
def test_what_does_not_fit(tmp_path, vocabulary, rng, settings, part):
    with pytest.raises(ValueError, match=part):
        recycle(tmp_path, vocabulary, rng, **settings)
    assert not (tmp_path / "new.npy").exists()


def test_no_prompt_is_written_over(tmp_path, vocabulary, rng):
    recycle(tmp_path, vocabulary, rng)
    with pytest.raises(ValueError, match=r"new\.npy exists; set another OUTPUT_FILE"):
        recycle(tmp_path, vocabulary, rng)
