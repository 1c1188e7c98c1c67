"""scripts/quickstart.py, with few steps: everything runs, the summary is whole, nothing runs twice."""

import json
import pathlib
import re

import pytest


@pytest.fixture
def quickstart(load_script, monkeypatch):
    module = load_script("quickstart")
    monkeypatch.setattr(module, "STEPS", 2)
    return module


def test_quickstart(quickstart, tmp_path, capsys, monkeypatch):
    quickstart.main(tmp_path)
    shown = capsys.readouterr().out
    for verb in ("train", "eval", "infer", "neighbors"):
        assert f"$ prompt-tuning {verb} " in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    accuracy = summary["validation_accuracy"]
    assert accuracy["majority"] == 50.0
    assert accuracy["tuned_prompt"] >= accuracy["untuned_prompt"]
    assert set(summary["out_of_domain_accuracy"]) == {"restaurants", "gadgets"}
    assert summary["trainable_params"] == 20 * 128 and summary["steps"] == 2
    assert summary["total_params"] > 2_000_000
    prompt = pathlib.Path(summary["prompt_file"])
    assert prompt.stat().st_size == summary["prompt_file_bytes"] < 20_000
    assert re.search(rf"tuned prompt +{accuracy['tuned_prompt']:.1f} %", shown)

    monkeypatch.setattr(quickstart, "command", lambda *_: pytest.fail("runs again"))
    quickstart.main(tmp_path)
    assert "to start anew: rm -r" in capsys.readouterr().out
