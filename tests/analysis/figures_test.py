"""Files and distinct styles of figures."""

from prompt_tuning.analysis import figures


def test_figure_is_written_to_a_png_file(tmp_path):
    path = tmp_path / "new" / "picture.png"
    with figures.figure(path, "length", "accuracy", "a study") as axes:
        axes.plot([1, 2], [3, 4], **figures.style(0))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]
    assert axes.get_xlabel() == "length" and axes.get_ylabel() == "accuracy"


def test_fourteen_line_styles_are_distinct():
    drawn = {tuple(sorted(figures.style(number).items())) for number in range(14)}
    assert len(drawn) == 14


def test_fifteen_bars_of_a_group_are_distinct(tmp_path):
    """studies/squad_to_mrqa.gin has fifteen scores."""
    groups = {name: {str(i): (50.0 + i, 1.0) for i in range(15)} for name in ("a", "b")}
    with figures.figure(tmp_path / "bars.png", "", "score", "") as axes:
        figures.bars(axes, groups)
    bars = [container[0] for container in axes.containers if hasattr(container, "patches")]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 15
