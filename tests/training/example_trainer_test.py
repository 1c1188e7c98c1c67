"""Tuning on examples in memory: what a run of it leaves; what it learns: api/tuning_test.py."""

import json

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files, train_state
from prompt_tuning.data import pipeline, vocabularies
from prompt_tuning.training import example_trainer
from prompt_tuning.training import run as run_lib


def tune(loaded, folder, vocabulary, steps=2, **settings):
    defaults = {"task_feature_lengths": None, "split": "train", "batch_size": 4, "pack": True}
    examples = [
        vocabularies.tokenize_pair("she liked it", target, vocabulary)
        for target in ["good", "bad"] * 3
    ]
    dataset = pipeline.DatasetConfig(None, **defaults | settings)
    return example_trainer.train(
        loaded, examples, dataset, steps=steps, learning_rate=0.3, model_dir=folder
    )


def test_a_run_is_left_as_the_command_leaves_it(load, vocabulary, tmp_path, monkeypatch):
    runs, resume = [], run_lib.Run.resume
    monkeypatch.setattr(run_lib.Run, "resume", lambda run: runs.append(run) or resume(run))
    path = tune(load(), tmp_path, vocabulary)
    assert path == tmp_path / "prompts/prompt_1002.npy"
    first = prompt_files.load(tmp_path / "prompts/prompt_1000.npy")
    difference = prompt_files.load(path) - first
    # Two steps of an RMS of 0.3 each, as the optimizer's step is that of the checkpoint.
    assert 0.3 < np.sqrt(np.mean(difference**2)) <= 0.601
    assert runs[0].state.trainable.keys() == {"encoder"}
    assert train_state.latest_step(tmp_path) == 1002
    (line,) = (tmp_path / "train/metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1002
    assert "2 steps of 0.3 from 1000" in (tmp_path / "config.gin").read_text()
    assert not (tmp_path / "inference_eval").exists()


def test_a_batch_is_shared_out(load, vocabulary, tmp_path):
    with pytest.raises(ValueError, match="expected a multiple of the 2 data-parallel shards"):
        tune(load((2, 1)), tmp_path, vocabulary, batch_size=3)
    assert tune(load((2, 1)), tmp_path, vocabulary).exists()
