"""Prompt files: what is written is read, and what is wrong is said."""

import json

import ml_dtypes
import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files

PROMPT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
CARD = {"length": 3, "embed_dim": 4, "task": "sst2", "metrics": {"accuracy": 94.5}}


def test_prompt_and_card_are_read_again(tmp_path):
    path = tmp_path / "new" / "sst2.v1.npy"
    prompt_files.save(path, PROMPT, CARD)
    loaded = prompt_files.load(path, (3, 4))
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, PROMPT)
    assert prompt_files.read_card(path) == CARD
    assert sorted(p.name for p in path.parent.iterdir()) == ["sst2.v1.json", "sst2.v1.npy"]


def test_what_settings_are_taken_from_a_file(tmp_path):
    path = tmp_path / "p.npy"
    prompt_files.save(path, PROMPT, CARD | {"base_model_digest": "abc"})
    assert prompt_files.length(path) == 3
    assert prompt_files.base_model_digest(path) == "abc"
    path.with_suffix(".json").unlink()
    assert prompt_files.base_model_digest(path) is None


def test_saving_again_replaces_both(tmp_path):
    path = tmp_path / "p.npy"
    prompt_files.save(path, PROMPT, CARD)
    prompt_files.save(path, 2 * PROMPT, {"task": "other"})
    np.testing.assert_array_equal(prompt_files.load(path), 2 * PROMPT)
    assert prompt_files.read_card(path) == {"task": "other"}


def test_a_card_that_is_not_json_leaves_the_old_files(tmp_path):
    path = tmp_path / "p.npy"
    prompt_files.save(path, PROMPT, CARD)
    with pytest.raises(TypeError):
        prompt_files.save(path, 2 * PROMPT, {"step": object()})
    np.testing.assert_array_equal(prompt_files.load(path), PROMPT)
    assert prompt_files.read_card(path) == CARD


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("name", ["p.npy", "encoder.prompt.prompt.prompt"])
def test_narrow_files_and_files_without_suffix_are_read(tmp_path, dtype, name):
    with (tmp_path / name).open("wb") as file:
        np.save(file, PROMPT.astype(dtype))
    loaded = prompt_files.load(tmp_path / name)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, PROMPT.astype(dtype).astype(np.float32))
    assert prompt_files.read_card(tmp_path / name) == {}


def npy(array):
    def write(path):
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=True)

    return write


def npz(path):
    with path.open("wb") as file:
        np.savez(file, PROMPT)


def cut(path):
    npy(PROMPT)(path)
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"text"), "not a .npy file"),
        (lambda path: path.write_bytes(b""), "not a .npy file"),
        (npz, "not a .npy file"),
        (cut, "not a .npy file"),
        (npy(np.array([{"a": 1}], object)), "not a .npy file of numbers"),
        (npy(np.ones((3, 4), np.int32)), "not a float table"),
        (npy(np.ones((1, 3, 4), np.float32)), "not a float table"),
        (npy(np.ones((5, 4), np.float32)), r"\(5, 4\).*\(3, 4\).*PROMPT_LENGTH must be 5"),
        (npy(np.ones((3, 6), np.float32)), r"\(3, 6\).*\(3, 4\).*gin file one of width 6"),
        (npy(np.full((3, 4), np.nan, np.float32)), "NaN or infinite"),
        (npy(np.full((3, 4), np.inf, np.float16)), "NaN or infinite"),
    ],
)
def test_what_is_no_prompt_is_refused(tmp_path, write, message):
    write(tmp_path / "p.npy")
    with pytest.raises(ValueError, match=message):
        prompt_files.load(tmp_path / "p.npy", (3, 4))


def test_missing_files_and_wrong_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="PROMPT_FILE"):
        prompt_files.load(tmp_path / "p.npy")
    with pytest.raises(ValueError, match=r"<name>\.npy"):
        prompt_files.save(tmp_path / "p", PROMPT, CARD)
    assert prompt_files.read_card(tmp_path / "p.npy") == {}


@pytest.mark.parametrize("content", ["{", "5", json.dumps(["a"])])
def test_a_damaged_card_is_named(tmp_path, content):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ValueError, match=r"p\.json is not a JSON object"):
        prompt_files.read_card(tmp_path / "p.npy")


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
    assert prompt_files.find(run) == named(run, 9, 10, 100, 1000)
    assert prompt_files.find(str(run), "latest") == named(run, 1000)
    assert prompt_files.find(f"{run}/prompts/prompt_*00.npy") == named(run, 100, 1000)
    assert prompt_files.find(f"{run}/p*s/*_9*", "all") == named(run, 9)
    best = f"{run}/prompts/best.npy"
    assert prompt_files.find([*named(run, 100, 9), best]) == [
        *named(run, 9),
        best,
        *named(run, 100),
    ]
    assert prompt_files.find("not/there.npy") == ["not/there.npy"]
    assert prompt_files.find(None) == []
    assert prompt_files.first(named(run, 9, 10)) == named(run, 9)[0]


def test_steps_are_those_of_cards_else_of_names(run):
    assert [prompt_files.step_of(path) for path in named(run, 9, 1000)] == [9, 1000]
    assert prompt_files.step_of(run / "prompts/best.npy") == 10
    assert prompt_files.step_of("sst2.npy") is None


def test_what_names_no_prompt_is_an_error(run):
    (run / "empty").mkdir()
    for path in (run / "empty", f"{run}/*.npy"):
        with pytest.raises(FileNotFoundError, match="names no prompt; expected a file, a pattern"):
            prompt_files.find(path)
    with pytest.raises(
        ValueError, match="RESTORE_MODE is 'last'; expected one of specific, latest"
    ):
        prompt_files.find(run, "last")
