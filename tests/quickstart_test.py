"""scripts/quickstart.py with two steps: commands, summary, and a second start."""

import json
import pathlib
import re

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files


@pytest.fixture
def quickstart(load_script, monkeypatch):
    module = load_script("quickstart")
    monkeypatch.setattr(module, "STEPS", 2)
    command = module.command

    def on_few_examples(verb, *arguments):
        few = ["--gin.EVALUATOR_NUM_EXAMPLES=20"] if verb in ("train", "eval") else []
        return command(verb, *arguments, *few)

    monkeypatch.setattr(module, "command", on_few_examples)
    return module


def write_lines(path, *objects):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(value)}\n" for value in objects))


def test_summary_has_the_best_prompt_and_the_time_of_all_steps(quickstart, tmp_path):
    accuracies = (1.0, 60.0, 55.0)
    evaluations = [{"step": i, "accuracy": x} for i, x in enumerate(accuracies)]
    write_lines(tmp_path / "inference_eval/eval-metrics.jsonl", *evaluations)
    answers = [{"target": target} for target in ("good", "bad", "good", "good")]
    write_lines(tmp_path / "inference_eval/eval-000002.jsonl", *answers)
    seconds = [{"step": i, "timing/seconds": 1.5} for i in range(4)]
    write_lines(tmp_path / "train/metrics.jsonl", *seconds)
    card = {"metrics": {"eval": {"accuracy": 60.0}}}
    prompt_files.save(tmp_path / "best.npy", np.ones((20, 128)), card)
    summary = quickstart.summarize(tmp_path, tmp_path / "best.npy", {})
    assert summary["train_seconds"] == 6.0
    assert summary["validation_accuracy"] == {
        "majority": 75.0,
        "untuned_prompt": 1.0,
        "tuned_prompt": 60.0,
    }


def test_runs_all_commands_once(quickstart, tmp_path, capsys, monkeypatch):
    quickstart.main(tmp_path)
    shown = capsys.readouterr().out
    for verb in ("train", "eval", "infer", "neighbors"):
        assert f"$ prompt-tuning {verb} " in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    accuracy = summary["validation_accuracy"]
    run = tmp_path / "train"
    (card,) = prompt_files.read_card(run / "prompts" / "best.npy")["metrics"].values()
    first, last = quickstart.read_lines(next((run / "inference_eval").glob("*-metrics.jsonl")))
    assert last["step"] == first["step"] + 2
    assert accuracy["untuned_prompt"] == first["accuracy"]
    assert accuracy["tuned_prompt"] == card["accuracy"]
    assert card["accuracy"] == max(first["accuracy"], last["accuracy"])
    (log_line,) = quickstart.read_lines(run / "train" / "metrics.jsonl")
    assert summary["train_seconds"] == round(log_line["timing/seconds"], 1)
    assert set(summary["out_of_domain_accuracy"]) == {"restaurants", "gadgets"}
    assert summary["trainable_params"] == 20 * 128 and summary["steps"] == 2
    assert summary["total_params"] > 2_000_000
    prompt = pathlib.Path(summary["prompt_file"])
    assert prompt.stat().st_size == summary["prompt_file_bytes"] < 20_000
    assert re.search(rf"tuned prompt +{accuracy['tuned_prompt']:.1f} %", shown)

    monkeypatch.setattr(quickstart, "command", lambda *_: pytest.fail("runs again"))
    quickstart.main(tmp_path)
    assert "to repeat it: rm -r" in capsys.readouterr().out
