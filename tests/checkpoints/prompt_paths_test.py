"""Files, folders, patterns and lists as PROMPT_FILE."""

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files, prompt_paths

PROMPT = np.ones((3, 2), np.float32)


@pytest.fixture
def run(tmp_path):
    """The folder of a run with four prompts and its best one."""
    for step in (9, 10, 100, 1000):
        prompt_files.save(tmp_path / f"prompts/prompt_{step}.npy", PROMPT, {})
    prompt_files.save(tmp_path / "prompts/best.npy", PROMPT, {"step": 10})
    return tmp_path


def named(run, *steps):
    return [f"{run}/prompts/prompt_{step}.npy" for step in steps]


def test_a_folder_a_pattern_and_a_list_name_prompts_by_step(run):
    assert prompt_paths.find(run) == named(run, 9, 10, 100, 1000)
    assert prompt_paths.find(str(run), "latest") == named(run, 1000)
    assert prompt_paths.find(f"{run}/prompts/prompt_*00.npy") == named(run, 100, 1000)
    assert prompt_paths.find(f"{run}/p*s/*_9*", "all") == named(run, 9)
    best = f"{run}/prompts/best.npy"
    assert prompt_paths.find([*named(run, 100, 9), best]) == [
        *named(run, 9),
        best,
        *named(run, 100),
    ]
    assert prompt_paths.find("not/there.npy") == ["not/there.npy"]
    assert prompt_paths.find(None) == []
    assert prompt_paths.first(named(run, 9, 10)) == named(run, 9)[0]


def test_steps_are_those_of_cards_else_of_names(run):
    assert [prompt_paths.step_of(path) for path in named(run, 9, 1000)] == [9, 1000]
    assert prompt_paths.step_of(run / "prompts/best.npy") == 10
    assert prompt_paths.step_of("sst2.npy") is None


def test_what_names_no_prompt_is_an_error(run):
    (run / "empty").mkdir()
    for path in (run / "empty", f"{run}/*.npy"):
        with pytest.raises(FileNotFoundError, match="names no prompt; expected a file, a pattern"):
            prompt_paths.find(path)
    with pytest.raises(
        ValueError, match="RESTORE_MODE is 'last'; expected one of specific, latest"
    ):
        prompt_paths.find(run, "last")
