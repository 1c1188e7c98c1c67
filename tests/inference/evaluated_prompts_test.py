"""The record of evaluated prompts. The command is tested in evaluator_test.py."""

import json

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.inference import evaluated_prompts
from prompt_tuning.training import settings as settings_lib

SETTINGS = settings_lib.Settings({"BATCH_SIZE": 8, "EVAL_FILE": "a"}, {"EVAL_FILE": "0" * 16})


@pytest.fixture
def pending(tiny, tmp_path):
    """Returns a function: pending steps of prompts 3, 5 and 7, all evaluated with SETTINGS."""
    paths = [str(tmp_path / f"prompt_{step}.npy") for step in (3, 5, 7)]
    for path in paths:
        prompt_files.save(path, np.ones((4, 16)), {})

    def record(settings=SETTINGS):
        return evaluated_prompts.EvaluatedPrompts(tmp_path, "task", paths, settings, tiny.model)

    first = record()
    for path, _ in first.pending:
        first.add(path)
    return lambda settings=SETTINGS: [step for _, step in record(settings).pending]


def test_evaluated_prompts_are_skipped(pending, tmp_path):
    assert pending() == []
    assert (tmp_path / "eval.task.ckpt").read_text().count("prompt_") == 3


def test_changed_prompt_and_later_ones_are_evaluated_again(pending, tmp_path):
    prompt_files.save(tmp_path / "prompt_5.npy", np.full((4, 16), 2.0), {})
    assert pending() == [5, 7]  # Metrics are stored in the order of steps.


def test_prompt_with_another_position_is_evaluated_again(pending, tmp_path):
    prompt_files.save(tmp_path / "prompt_7.npy", np.ones((4, 16)), {"place": "suffix"})
    assert pending() == [7]


@pytest.mark.parametrize(
    "other",
    [
        settings_lib.Settings({"BATCH_SIZE": 4, "EVAL_FILE": "a"}, SETTINGS.contents),
        settings_lib.Settings(SETTINGS.values, {"EVAL_FILE": "1" * 16}),
    ],
)
def test_changed_settings_or_data_reset_the_record(pending, other, caplog):
    assert pending(other) == [3, 5, 7]
    assert "because these settings changed (old -> new):" in caplog.text
    assert "BATCH_SIZE: 8 -> 4" in caplog.text or "(content 00000000 -> 11111111)" in caplog.text


def test_prompts_that_are_done_stay_in_the_record(tiny, pending, tmp_path):
    """The second call evaluates the last prompt alone; the third nothing."""
    prompt_files.save(tmp_path / "prompt_7.npy", np.full((4, 16), 2.0), {})
    paths = [str(tmp_path / f"prompt_{step}.npy") for step in (3, 5, 7)]
    record = evaluated_prompts.EvaluatedPrompts(tmp_path, "task", paths, SETTINGS, tiny.model)
    assert (record.pending, record.last_step) == ([(paths[2], 7)], 5)
    record.add(paths[2])
    assert pending() == []


def test_a_single_prompt_is_evaluated_again(tiny, tmp_path):
    path = str(tmp_path / "prompt_3.npy")
    prompt_files.save(path, np.ones((4, 16)), {})
    for paths, expected in (([path], (path, 3)), ([], ("", None))):
        for _ in range(2):
            record = evaluated_prompts.EvaluatedPrompts(tmp_path, "a", paths, SETTINGS, tiny.model)
            assert (record.pending, record.last_step) == ([expected], -1)
            record.add(expected[0])


@pytest.mark.parametrize(
    "names", [("prompt_3.npy", "a/prompt_3.npy"), ("prompt_3.npy", "mine.npy")]
)
def test_prompts_without_distinct_steps_are_refused(tiny, tmp_path, names):
    paths = [str(tmp_path / name) for name in names]
    for path in paths:
        prompt_files.save(path, np.ones((4, 16)), {})
    with pytest.raises(ValueError, match=r"prompts of the steps .*; expected one prompt per step"):
        evaluated_prompts.EvaluatedPrompts(tmp_path, "task", paths, SETTINGS, tiny.model)


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"prompts": {}})])
def test_missing_or_invalid_record_resets_the_evaluation(pending, tmp_path, content):
    file = tmp_path / "eval.task.settings.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    assert pending() == [3, 5, 7]
