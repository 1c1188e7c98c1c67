"""Python that the documents show: it runs, and ends as they say. Their commands: gin_test.py."""

import json
import pathlib
import re

import jax
import pytest
from jax.sharding import AxisType

from prompt_tuning.distributed import partitioning

REPOSITORY = pathlib.Path(__file__).parents[1]
NOTEBOOK = REPOSITORY / "docs" / "quickstart.ipynb"
BLOCKS = [
    (document.relative_to(REPOSITORY), block)
    for document in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
    for block in re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.M)
]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """What a laptop has. Steps without end on eight simulated ones wait for each other on few cores."""

    def mesh(num_partitions):
        axes = (partitioning.DATA, partitioning.MODEL)
        kinds = (AxisType.Auto, AxisType.Auto)
        return jax.make_mesh((1, 1), axes, axis_types=kinds, devices=jax.devices()[:1])

    monkeypatch.setattr(partitioning, "make_mesh", mesh)


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=[str(name) for name, _ in BLOCKS])
def test_python_in_a_document_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, block = BLOCKS[number]
    exec(compile(block, str(name), "exec"), {})


def test_the_readme_shows_python():
    assert "README.md" in {str(name) for name, _ in BLOCKS}


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    """Its cells in order, in one namespace, as a kernel runs them."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    space: dict = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None, (
                "commit it without outputs"
            )
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), space)
    shown = capsys.readouterr().out
    assert re.search(r"\d+ of 100 are right", shown) and "positive -" in shown
    # Sixty steps teach the labels, and which prompt has which.
    assert set(space["answers"]) <= {"negative", "positive"}
    names = [("negative", "positive"), ("bad", "good"), ("bad", "good")]
    last = eval("model.generate([texts[0], texts[0], texts[1]], [prompt, other, other])", space)
    assert all(answer in known for answer, known in zip(last, names, strict=True))
    assert space["again"].card == space["prompt"].card
