"""The pieces that prompt vectors are near."""

import numpy as np

from prompt_tuning.analysis import neighbors
from prompt_tuning.prompts import initializers


def test_a_row_of_the_embedding_is_nearest_to_its_own_piece(vocabulary, rng):
    embedding = rng.normal(size=(256, 16)).astype(np.float32)
    rows = [5, 40, vocabulary.size - 1]
    found = neighbors.nearest(3 * embedding[rows], embedding, vocabulary, 4)
    assert [len(some) for some in found] == [4, 4, 4]
    for row, some in zip(rows, found, strict=True):
        assert some[0].piece == vocabulary.piece(row)
        np.testing.assert_allclose(some[0].similarity, 1.0, rtol=1e-6)
        similarities = [n.similarity for n in some]
        assert similarities == sorted(similarities, reverse=True) and similarities[1] < 0.999


def test_similarity_is_the_cosine(vocabulary):
    embedding = np.zeros((256, 2), np.float32)
    embedding[5], embedding[6], embedding[7] = [2, 0], [3, 3], [0, -1]
    (found,) = neighbors.nearest(np.array([[1, 0]], np.float32), embedding, vocabulary, 2)
    assert [n.piece for n in found] == [vocabulary.piece(5), vocabulary.piece(6)]
    np.testing.assert_allclose([n.similarity for n in found], [1, 0.5**0.5], rtol=1e-6)


def test_rows_without_a_piece_are_no_neighbors(vocabulary):
    embedding = np.ones((256, 2), np.float32)
    embedding[: vocabulary.size] = [1, -1]
    (found,) = neighbors.nearest(np.ones((1, 2), np.float32), embedding, vocabulary, 300)
    assert len(found) == vocabulary.size
    assert all(n.piece and abs(n.similarity) < 1e-6 for n in found)


def test_a_line_for_each_vector(tiny, capsys):
    rows = np.array([5, 9, 30, 31])
    prompt = 2 * tiny.base["token_embedder"]["embedding"][rows]
    found = neighbors.neighbors(
        model=tiny.model,
        vocabulary=tiny.vocabulary,
        checkpoint=tiny.checkpoint,
        prompt_initializer=initializers.FromArray(prompt),
        count=2,
    )
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
