"""Means, deviations and differences of scores."""

import pytest

from prompt_tuning.analysis import summaries


def rows(variant, value, *scores):
    return [
        {"variant": variant, "value": value, "seed": seed, "trained": 5000, "scores": {"x": score}}
        for seed, score in enumerate(scores)
    ]


ROWS = [*rows("a", 1, 1.0, 2.0, 6.0), *rows("b", 1, 3.0, 3.0), *rows("c", 1, 4.0)]


def test_means_and_sample_deviations():
    summary = summaries.summarise(ROWS)
    assert summary["a", 1].scores["x"] == (3.0, pytest.approx(7**0.5), 3)
    assert summaries.cells(summary, ("P", [1])) == [
        ["", "P", "trained", "x"],
        ["a", "1", "5,000", "3.0 ± 2.6"],
        ["b", "1", "5,000", "3.0 ± 0.0"],
        ["c", "1", "5,000", "4.0"],
    ]


def test_difference_is_computed_per_seed():
    # 1 - 3 and 2 - 3: the third seed has no counterpart.
    cells = summaries.difference(ROWS, "a", "b", ("P", [1]))
    assert cells == [["a − b", "1", "", "-1.5 ± 0.7"]]
    cells = summaries.difference([*rows("a", None, 5.0), *rows("c", None, 4.0)], "a", "c", None)
    assert cells == [["a − c", "", "+1.0"]]


def test_markdown_has_a_title_if_set():
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert summaries.markdown([["a", "b"], ["1", "2"]], "T") == f"T\n\n{table}"
    assert summaries.markdown([["a", "b"], ["1", "2"]], "") == table


@pytest.mark.parametrize("axis", [("P", [1]), None])
def test_plot_is_written(tmp_path, axis):
    value = 1 if axis else None
    summary = summaries.summarise([*rows("a", value, 5.0, 6.0), *rows("b", value, 4.0)])
    summaries.plot(summary, tmp_path / "study.png", "T", axis)
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
