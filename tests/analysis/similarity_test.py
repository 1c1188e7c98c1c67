"""Cosines of prompts, compared with direct computation."""

import itertools

import numpy as np
import pytest

from prompt_tuning.analysis import similarity
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.cli import main as cli


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_measures_match_the_papers_definitions(rng):
    one, other = rng.normal(size=(3, 5)) + 1, rng.normal(size=(4, 5)) + 1
    np.testing.assert_allclose(
        similarity.of_means(one, other), cosine(one.sum(axis=0), other.sum(axis=0))
    )
    pairs = [cosine(a, b) for a, b in itertools.product(one, other)]
    np.testing.assert_allclose(similarity.of_tokens(one, other), np.mean(pairs))


def test_measures_ignore_scale_and_order_of_vectors(rng):
    one, other = rng.normal(size=(2, 6, 5))
    for measure in (similarity.of_means, similarity.of_tokens):
        np.testing.assert_allclose(measure(one, other), measure(other, 3 * one[::-1]))
        assert abs(measure(one, other)) < 1
    np.testing.assert_allclose(similarity.of_means(one, 2 * one), 1)
    assert similarity.of_means(one, np.zeros_like(one)) == 0


@pytest.fixture
def files(tmp_path, rng):
    """{name: path}: a prompt, a similar one, and a dissimilar one without a card."""
    prompt, noise = rng.normal(size=(2, 4, 8))
    rows = {"new": prompt, "near": prompt[:3] + 0.1 * noise[:3], "far": noise}
    paths = {name: str(tmp_path / f"{name}.npy") for name in rows}
    for name, path in paths.items():
        prompt_files.save(path, rows[name], {"task": f"task of {name}"})
    (tmp_path / "far.json").unlink()
    return paths


def test_prints_one_line_per_file_most_similar_first(files, capsys):
    results = similarity.similarity(prompt_file=files["new"], others=[files["far"], files["near"]])
    assert [each.path for each in results] == [files["near"], files["far"]]
    assert [each.task for each in results] == ["task of near", ""]
    assert results[0].of_means > 0.8 > results[1].of_means
    lines = capsys.readouterr().out.splitlines()[2:]
    for each, line in zip(results, lines, strict=True):
        shown = line.split(maxsplit=3)
        assert shown[:3] == [f"{each.of_means:.4f}", f"{each.of_tokens:.4f}", each.path]
        assert shown[3:] == ([each.task] if each.task else [])


def test_command_ranks_prompts(files):
    settings = {"PROMPT_FILE": files["new"], "PROMPT_FILES": [files["far"], files["near"]]}
    flags = [f"--gin.{name}={value!r}" for name, value in settings.items()]
    results = cli.run(["similarity", "--gin_file=runs/similarity.gin", *flags])
    assert [each.path for each in results] == [files["near"], files["far"]]


def test_files_of_several_parameters_are_refused(files, tmp_path):
    prompt_files.save_leaves(tmp_path / "p.npz", {"prompt": np.ones((4, 8)), "b": np.ones(3)}, {})
    part = r"p\.npz holds prompt \(4, 8\), b \(3,\); expected a single prompt"
    for prompt, other in itertools.permutations([files["new"], str(tmp_path / "p.npz")]):
        with pytest.raises(ValueError, match=part):
            similarity.similarity(prompt_file=prompt, others=[other])


def test_other_widths_and_invalid_lists_are_refused(files, tmp_path):
    prompt_files.save(tmp_path / "wide.npy", np.ones((4, 9)), {})
    with pytest.raises(ValueError, match=r"wide\.npy of PROMPT_FILES has vectors of width 9"):
        similarity.similarity(prompt_file=files["new"], others=[str(tmp_path / "wide.npy")])
    for others in ("a.npy", []):
        with pytest.raises(ValueError, match=r"PROMPT_FILES is .*; expected a list"):
            similarity.similarity(prompt_file=files["new"], others=others)
