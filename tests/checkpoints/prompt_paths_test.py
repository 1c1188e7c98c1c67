"""Files, folders, patterns and lists as PROMPT_FILE."""

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files, prompt_paths
from prompt_tuning.checkpoints.formats import peft

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
    assert prompt_paths.first([]) is None


def test_the_best_prompt_of_a_run_else_the_last(run):
    assert prompt_paths.best(run) == f"{run}/prompts/best.npy"
    (run / "prompts/best.npy").unlink()
    assert prompt_paths.best(run) == named(run, 1000)[0]
    assert prompt_paths.best(named(run, 9)[0]) == named(run, 9)[0]
    with pytest.raises(
        ValueError, match=r"matches 2 prompts: .*_100.npy, .*_1000.npy; expected one"
    ):
        prompt_paths.best(f"{run}/prompts/*00.npy")


def test_runs_of_several_seeds_are_named(tmp_path):
    for seed in (0, 1):
        prompt_files.save(tmp_path / f"seed_{seed}/prompts/prompt_5.npy", PROMPT, {})
    runs = f"{tmp_path}/seed_0, {tmp_path}/seed_1"
    for read in (prompt_paths.find, prompt_paths.best):
        with pytest.raises(
            ValueError, match=f"PROMPT_FILE {tmp_path} contains several runs: {runs}; "
        ):
            read(tmp_path)


def test_names_with_signs_of_a_pattern_are_names_where_they_exist(tmp_path):
    run = tmp_path / "run[1]"
    prompt_files.save(run / "prompts/prompt_5.npy", PROMPT, {})
    for path in (run, named(run, 5)[0]):
        assert prompt_paths.find(path) == named(run, 5)


def test_prompts_beside_folders_of_seeds_are_those_of_the_run(run):
    prompt_files.save(run / "seed_0/prompts/prompt_5.npy", PROMPT, {})
    assert prompt_paths.find(run) == named(run, 9, 10, 100, 1000)


def test_prompts_of_several_parameters_have_steps(tmp_path):
    for step in (9, 10):
        prompt_files.save_leaves(tmp_path / f"prompts/prompt_{step}.npz", {"a": PROMPT}, {})
        (tmp_path / f"prompts/prompt_{step}.json").unlink()
    files = [f"{tmp_path}/prompts/prompt_{step}.npz" for step in (9, 10)]
    assert prompt_paths.find(tmp_path) == files
    assert prompt_paths.best(tmp_path) == files[1]
    assert [prompt_paths.step_of(file) for file in files] == [9, 10]
    assert prompt_paths.numbered(files) == dict(zip("01", files, strict=True))


def test_signs_of_patterns_are_those_of_glob(run):
    assert prompt_paths.find(f"{run}/prompts/prompt_1?.npy") == named(run, 10)
    assert prompt_paths.find(f"{run}/prompts/prompt_[9].npy") == named(run, 9)


def test_an_adapter_is_a_prompt_and_no_folder_of_prompts(run):
    settings = {"base_model": None, "num_layers": 1, "num_heads": 1}
    peft.save_prompt(run / "adapter", PROMPT, **settings)
    assert prompt_paths.find(run / "adapter") == [f"{run}/adapter"]
    assert prompt_paths.best(run / "adapter") == f"{run}/adapter"
    prompt_files.save(run / "adapter/prompts/best.npy", PROMPT, {})  # a run of PEFT's folder
    assert prompt_paths.best(run / "adapter") == f"{run}/adapter"
    assert prompt_paths.find([run / "adapter", *named(run, 9)]) == [
        f"{run}/adapter",
        *named(run, 9),
    ]
    assert prompt_paths.step_of(run / "adapter") is None


def test_patterns_and_lists_of_adapters(tmp_path):
    settings = {"base_model": None, "num_layers": 1, "num_heads": 1}
    for name in ("checkpoint-40", "checkpoint-100", "named/checkpoint-7/reviews"):
        peft.save_prompt(tmp_path / name, PROMPT, **settings)
        (tmp_path / name / "README.md").touch()
    early, late, named = (
        f"{tmp_path}/{name}"
        for name in ("checkpoint-40", "checkpoint-100", "named/checkpoint-7/reviews")
    )
    assert prompt_paths.find(f"{tmp_path}/checkpoint-*") == [early, late]
    assert prompt_paths.find(f"{tmp_path}/*") == [early, late]
    assert prompt_paths.find(f"{tmp_path}/checkpoint-*", "latest") == [late]
    assert prompt_paths.find([late, f"{tmp_path}/*/*/*", early]) == [named, early, late]
    assert [prompt_paths.step_of(path) for path in (early, late, named)] == [40, 100, 7]
    for path in (f"{tmp_path}/named", f"{tmp_path}/name*", f"{tmp_path}/named/checkpoint-*"):
        with pytest.raises(FileNotFoundError, match=f"folders with the PEFT adapters {named};"):
            prompt_paths.find(path)
    with pytest.raises(
        FileNotFoundError, match="matches no prompt; expected a file, a PEFT adapter"
    ):
        prompt_paths.find(f"{early}/*")


def test_the_paper_authors_files_are_found_with_their_steps(tmp_path):
    paths = [
        tmp_path / f"numpy_checkpoints/checkpoint_{step}/encoder.prompt.prompt.prompt"
        for step in (1100500, 1101000)
    ]
    for path in paths:
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            np.save(file, PROMPT)
        for beside in (".json", ".tmp"):
            path.with_name(path.name + beside).write_text("{}")
    found = prompt_paths.find(f"{tmp_path}/numpy_checkpoints/*/*prompt*")
    assert found == [str(path) for path in paths]
    assert [prompt_paths.step_of(path) for path in found] == [1100500, 1101000]
    with pytest.raises(FileNotFoundError, match="matches no prompt"):
        prompt_paths.find(f"{tmp_path}/numpy_checkpoints/*")  # folders


def test_prompts_of_different_places_are_told(tmp_path):
    for step, place in ((3, "prefix"), (5, "suffix"), (7, "suffix")):
        prompt_files.save(tmp_path / f"prompts/prompt_{step}.npy", PROMPT, {"place": place})
    prompt_paths.check_places(named(tmp_path, 5, 7))
    with pytest.raises(
        ValueError, match=r"different places in the input:\n .*_3.npy: 'prefix'\n .*: 'suffix'"
    ):
        prompt_paths.check_places(named(tmp_path, 3, 5))


def test_steps_are_those_of_cards_else_of_names(run):
    assert [prompt_paths.step_of(path) for path in named(run, 9, 1000)] == [9, 1000]
    assert prompt_paths.step_of(run / "prompts/best.npy") == 10
    assert prompt_paths.step_of("sst2.npy") is None


def test_what_names_no_prompt_is_an_error(run):
    (run / "empty").mkdir()
    for path in (run / "empty", f"{run}/*.npy"):
        with pytest.raises(
            FileNotFoundError, match="matches no prompt; expected a file, a PEFT adapter"
        ):
            prompt_paths.find(path)
    with pytest.raises(
        ValueError, match="RESTORE_MODE='last' is unknown; expected one of specific, latest"
    ):
        prompt_paths.find(run, "last")
