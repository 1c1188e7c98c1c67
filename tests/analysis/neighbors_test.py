"""The pieces that prompt vectors are near."""

import numpy as np
import pytest

from prompt_tuning.analysis import neighbors as neighbors_lib
from prompt_tuning.checkpoints import base_model, prompt_files


def test_a_row_of_the_embedding_is_nearest_to_its_own_piece(vocabulary, rng):
    embedding = rng.normal(size=(256, 16)).astype(np.float32)
    rows = [5, 40, vocabulary.size - 1]
    found = neighbors_lib.nearest(3 * embedding[rows], embedding, vocabulary, 4)
    assert [len(some) for some in found] == [4, 4, 4]
    for row, some in zip(rows, found, strict=True):
        assert some[0].piece == vocabulary.piece(row)
        np.testing.assert_allclose(some[0].similarity, 1.0, rtol=1e-6)
        similarities = [n.similarity for n in some]
        assert similarities == sorted(similarities, reverse=True) and similarities[1] < 0.999


def test_similarity_is_the_cosine(vocabulary):
    embedding = np.zeros((256, 2), np.float32)
    embedding[5], embedding[6], embedding[7] = [2, 0], [3, 3], [0, -1]
    (found,) = neighbors_lib.nearest(np.array([[1, 0]], np.float32), embedding, vocabulary, 2)
    assert [n.piece for n in found] == [vocabulary.piece(5), vocabulary.piece(6)]
    np.testing.assert_allclose([n.similarity for n in found], [1, 0.5**0.5], rtol=1e-6)


def test_rows_without_a_piece_are_no_neighbors(vocabulary):
    embedding = np.ones((256, 2), np.float32)
    embedding[: vocabulary.size] = [1, -1]
    (found,) = neighbors_lib.nearest(np.ones((1, 2), np.float32), embedding, vocabulary, 300)
    assert len(found) == vocabulary.size
    assert all(n.piece and abs(n.similarity) < 1e-6 for n in found)


def neighbors(tiny, path, **settings):
    return neighbors_lib.neighbors(
        vocabulary=tiny.vocabulary, checkpoint=tiny.checkpoint, prompt_paths=[str(path)], **settings
    )


def test_a_line_for_each_vector(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base_model, "load", None)  # The embedding is all that is read.
    rows = np.array([5, 9, 30, 31])
    prompt = 2 * tiny.base["token_embedder"]["embedding"][rows]
    prompt_files.save(tmp_path / "p.npy", prompt, {})
    found = neighbors(tiny, tmp_path / "p.npy", count=2)[""]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found) == 4
    for i, line in enumerate(lines):
        norm = np.linalg.norm(prompt[i])
        first, second = found[i]
        assert first.piece == tiny.vocabulary.piece(rows[i])
        shown = (
            f"{i:4}  norm {norm:8.2f}  {first.piece} 1.00  {second.piece} {second.similarity:.2f}"
        )
        assert line == shown


def test_each_parameter_of_several_has_a_heading(tiny, tmp_path, capsys):
    rows = np.array([[5, 9], [30, 31], [7, 8]])
    tables = tiny.base["token_embedder"]["embedding"][rows]
    leaves = {
        "a/prompt": tables[0],
        "a/scale": np.ones(16),
        "b/tasks": tables[1:],
        "c": tables[0, :, :9],
    }
    prompt_files.save_leaves(tmp_path / "p.npz", leaves, {})
    found = neighbors(tiny, tmp_path / "p.npz")
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == ["a/prompt (2, 16)", "b/tasks (2, 2, 16)"]
    assert len(lines) == 2 + 6
    pieces = {path: [some[0].piece for some in each] for path, each in found.items()}
    expected = {"a/prompt": rows[0], "b/tasks": rows[1:].ravel()}
    assert pieces == {p: [tiny.vocabulary.piece(i) for i in ids] for p, ids in expected.items()}


def test_halves_of_vectors_have_no_neighbors(tiny, tmp_path):
    leaves = {"prompt": np.ones((4, 12)), "task_prompts": np.ones((2, 4, 4))}
    prompt_files.save_leaves(tmp_path / "p.npz", leaves, {})
    part = (
        r"holds prompt \(4, 12\), task_prompts \(2, 4, 4\); expected vectors of width 16, .* "
        "MULTI_TASK_MODE='concatenate_features'"
    )
    with pytest.raises(ValueError, match=part):
        neighbors(tiny, tmp_path / "p.npz")
    prompt_files.save(tmp_path / "p.npy", np.ones((4, 12)), {})
    with pytest.raises(ValueError, match=r"holds \(4, 12\); expected vectors of width 16"):
        neighbors(tiny, tmp_path / "p.npy")
