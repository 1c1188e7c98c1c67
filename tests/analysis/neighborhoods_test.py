"""Statistics of nearest neighbors on small tables, the plot, and the command."""

import json

import numpy as np
import pytest

from prompt_tuning.analysis import neighborhoods
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.cli import main as cli

# Two directions, of two rows each, and one that is between them.
TABLE = np.array([[1, 0], [2, 0], [0, 1], [0, 3], [1, 1]], np.float32)


def test_nearest_ids_by_cosine_and_by_distance():
    prompt = np.array([[3, 0], [0, 2]], np.float32)
    ids, near = neighborhoods.nearest_ids(prompt, TABLE, 2)
    assert {tuple(sorted(row)) for row in ids.tolist()} == {(0, 1), (2, 3)}
    np.testing.assert_allclose(near, 1)
    ids, near = neighborhoods.nearest_ids(prompt, TABLE, 2, "euclidean")
    assert ids[0].tolist() == [1, 0] and sorted(ids[1].tolist()) == [2, 3]
    np.testing.assert_allclose(near, [[1, 2], [1, 1]], atol=1e-6)
    with pytest.raises(ValueError, match="NEIGHBOR_METRIC is 'dot'; expected 'cosine' or"):
        neighborhoods.nearest_ids(prompt, TABLE, 2, "dot")


def test_statistics_of_a_small_table():
    prompt = np.array([[3, 0], [4, 0], [0, 2]], np.float32)
    start = np.array([[3, 1], [4, 2], [0, 2]], np.float32)
    figures = neighborhoods.neighborhood(prompt, TABLE, 2, {"a": [1], "b": [3, 4], "c": [4]}, start)
    assert figures.norm == pytest.approx(3) and figures.drift == pytest.approx(1)
    assert figures.nearest == figures.clusters == pytest.approx(1)
    # Two of three vectors share their nearest row.
    assert figures.shared == 2
    assert figures.labels == {"a": 2, "b": 1, "c": 0}
    # The third neighbor of [3, 0] is [1, 1], at 45 degrees: pairs of cosine 1, 0.707, 0.707.
    three = neighborhoods.neighborhood(prompt[:1], TABLE, 3, {})
    assert three.clusters == pytest.approx((1 + 2 * 0.5**0.5) / 3)
    assert np.isnan(three.drift)


def test_random_vectors_have_the_same_norms():
    prompt = np.array([[3, 0, 0], [0, 5, 0]], np.float32)
    other = neighborhoods.random_like(prompt)
    np.testing.assert_allclose(np.linalg.norm(other, axis=1), [3, 5], rtol=1e-6)
    assert np.abs(neighborhoods.unit(other) - neighborhoods.unit(prompt)).max() > 0.1


def test_command_compares_the_prompts_of_a_run(tiny, tiny_job, tmp_path, capsys):
    table = tiny.base["token_embedder"]["embedding"]
    good = tiny.vocabulary.encode("good")
    for step, rows in ((1000, [3, 4, 5, 6]), (1005, [*good, 9, 9, 9][:4])):
        path = tmp_path / "run" / "prompts" / f"prompt_{step}.npy"
        prompt_files.save(path, 2 * table[rows], {"step": step})
    settings = {"PROMPT_FILE": tmp_path / "run", "CLASS_LABELS": ["good"]}
    cli.run(tiny_job.command("neighbors", OUTPUT_DIR=tmp_path / "near", **settings))
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    first, last, random = shown[-3:]
    assert first[0] == "prompt_1000" and last[0] == "prompt_1005" and random[0] == "random"
    assert float(first[2]) == 0 and float(last[2]) > 0  # drift
    assert float(last[3]) == 1 and float(random[3]) < 0.99  # nearest
    assert int(last[-1]) >= len(good) > 0  # the label
    written = json.loads((tmp_path / "near" / "neighbors.json").read_text())
    assert written["neighbors"][""][0][0]["token"] == tiny.vocabulary.piece(good[0])
    assert written["figures"].keys() == {"prompt_1000", "prompt_1005", "random vectors"}
    assert (tmp_path / "near" / "neighbors.png").read_bytes().startswith(b"\x89PNG")
