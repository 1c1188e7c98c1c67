"""Nearest vocabulary tokens of prompt vectors."""

import numpy as np
import pytest

from prompt_tuning.analysis import neighbors as neighbors_lib
from prompt_tuning.checkpoints import base_model, prompt_files


def test_row_of_the_embedding_is_nearest_to_its_token(vocabulary, rng):
    embedding = rng.normal(size=(256, 16)).astype(np.float32)
    rows = [5, 40, vocabulary.size - 1]
    tables = neighbors_lib.nearest(3 * embedding[rows], embedding, vocabulary, 4)
    assert [len(row) for row in tables] == [4, 4, 4]
    for row, nearest in zip(rows, tables, strict=True):
        assert nearest[0].token == vocabulary.piece(row)
        np.testing.assert_allclose(nearest[0].similarity, 1.0, rtol=1e-6)
        similarities = [n.similarity for n in nearest]
        assert similarities == sorted(similarities, reverse=True) and similarities[1] < 0.999


def test_similarity_is_the_cosine(vocabulary):
    embedding = np.zeros((256, 2), np.float32)
    embedding[5], embedding[6], embedding[7] = [2, 0], [3, 3], [0, -1]
    (tables,) = neighbors_lib.nearest(np.array([[1, 0]], np.float32), embedding, vocabulary, 2)
    assert [n.token for n in tables] == [vocabulary.piece(5), vocabulary.piece(6)]
    np.testing.assert_allclose([n.similarity for n in tables], [1, 0.5**0.5], rtol=1e-6)


def test_rows_beyond_the_vocabulary_are_excluded(vocabulary):
    embedding = np.ones((256, 2), np.float32)
    embedding[: vocabulary.size] = [1, -1]
    (tables,) = neighbors_lib.nearest(np.ones((1, 2), np.float32), embedding, vocabulary, 300)
    assert len(tables) == vocabulary.size
    assert all(n.token and abs(n.similarity) < 1e-6 for n in tables)


def neighbors(tiny, path, **settings):
    return neighbors_lib.neighbors(
        vocabulary=tiny.vocabulary, checkpoint=tiny.checkpoint, prompt_paths=[str(path)], **settings
    )


def test_prints_one_line_per_vector(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(base_model, "load", None)  # Only the embedding is read.
    rows = np.array([5, 9, 30, 31])
    prompt = 2 * tiny.base["token_embedder"]["embedding"][rows]
    prompt_files.save(tmp_path / "p.npy", prompt, {})
    tables = neighbors(tiny, tmp_path / "p.npy", count=2)[""]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(tables) == 4
    for i, line in enumerate(lines):
        norm = np.linalg.norm(prompt[i])
        first, second = tables[i]
        assert first.token == tiny.vocabulary.piece(rows[i])
        shown = (
            f"{i:4}  norm {norm:8.2f}  {first.token} 1.00  {second.token} {second.similarity:.2f}"
        )
        assert line == shown


def test_prints_a_heading_per_parameter(tiny, tmp_path, capsys):
    rows = np.array([[5, 9], [30, 31], [7, 8]])
    tables = tiny.base["token_embedder"]["embedding"][rows]
    leaves = {
        "a/prompt": tables[0],
        "a/scale": np.ones(16),
        "b/tasks": tables[1:],
        "c": tables[0, :, :9],
    }
    prompt_files.save_leaves(tmp_path / "p.npz", leaves, {})
    tables = neighbors(tiny, tmp_path / "p.npz")
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == ["a/prompt (2, 16)", "b/tasks (2, 2, 16)"]
    assert len(lines) == 2 + 6
    tokens = {path: [row[0].token for row in table] for path, table in tables.items()}
    expected = {"a/prompt": rows[0], "b/tasks": rows[1:].ravel()}
    assert tokens == {p: [tiny.vocabulary.piece(i) for i in ids] for p, ids in expected.items()}


def test_vectors_of_another_width_are_refused(tiny, tmp_path):
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
