"""Prompts in memory: their files, and which of them a text gets."""

import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning.api import prompt as prompt_lib
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.checkpoints.formats import peft
from prompt_tuning.methods import base

TABLE = np.arange(12, dtype=np.float32).reshape(3, 4)
CARD = {"task": "a task", "place": [0, 2, 2]}


def test_a_prompt_and_its_card_are_kept(tmp_path):
    pt.Prompt(TABLE, CARD).save(tmp_path / "prompt.npy")
    found = pt.load_prompt(tmp_path / "prompt.npy")
    np.testing.assert_array_equal(found.table, TABLE)
    assert found.card == prompt_files.read_card(tmp_path / "prompt.npy") == CARD
    assert (len(found), found.place, pt.Prompt(TABLE).place) == (3, (0, 2, 2), "prefix")
    assert repr(found) == "Prompt(length=3, embed_dim=4)"


def test_a_file_of_several_parameters_is_refused(tmp_path):
    prompt_files.save_leaves(tmp_path / "ia3.npz", {"a/b": TABLE}, {})
    with pytest.raises(ValueError, match=r"holds a/b \(3, 4\); expected a single prompt"):
        pt.load_prompt(tmp_path / "ia3.npz")


def test_each_prompt_is_there_once():
    first, second = pt.Prompt(TABLE), pt.Prompt(TABLE)
    assert prompt_lib.distinct(None, 2) == ((), [0, 0])
    assert prompt_lib.distinct(first, 3) == ((first,), [0, 0, 0])
    assert prompt_lib.distinct([second, first, second], 3) == ((second, first), [0, 1, 0])
    assert prompt_lib.distinct([], 0) == ((), [])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("a.npy", r"prompt='a.npy' has type str; .*Pass prompt=pt.load_prompt\('a.npy'\)"),
        ([pt.Prompt(TABLE), None], r"prompt\[1\]=None has type NoneType; expected a Prompt"),
        (
            [pt.Prompt(TABLE)],
            "prompt has 1 elements, and there are 2 texts; expected one prompt for each",
        ),
        ([pt.Prompt(TABLE), pt.Prompt(TABLE[1:])], r"shapes or places: \(2, 4\).*\(3, 4\)"),
        ([pt.Prompt(TABLE), pt.Prompt(TABLE, CARD)], r"'prefix'.*in separate calls"),
    ],
)
def test_what_is_no_prompt_for_each_text_is_refused(prompts, message):
    with pytest.raises((TypeError, ValueError), match=message):
        prompt_lib.distinct(prompts, 2)


def test_a_runs_folder_is_its_best_prompt_else_its_last(tmp_path):
    for step in (9, 10):
        pt.Prompt(TABLE + step, {"step": step}).save(tmp_path / f"run/prompts/prompt_{step}.npy")
    assert pt.load_prompt(tmp_path / "run").card["step"] == 10
    pt.Prompt(TABLE + 9, {"step": 9}).save(tmp_path / "run/prompts/best.npy")
    assert pt.load_prompt(str(tmp_path / "run")).card["step"] == 9
    with pytest.raises(
        ValueError, match=r"path .*prompt_.* matches 2 prompts: .*_9.npy, .*_10.npy"
    ):
        pt.load_prompt(f"{tmp_path}/run/prompts/prompt_*.npy")
    assert pt.load_prompt(f"{tmp_path}/run/prompts/*_9.npy").card["step"] == 9
    with pytest.raises(FileNotFoundError, match=r"path .*matches no prompt; .*model_dir of a run"):
        pt.load_prompt(tmp_path / "run/prompts")


def test_an_adapter_of_peft_is_a_prompt(tmp_path):
    peft.save_prompt(tmp_path / "adapter", TABLE, base_model=None, num_layers=1, num_heads=1)
    np.testing.assert_array_equal(pt.load_prompt(tmp_path / "adapter").table, TABLE)


def test_runs_of_several_seeds_are_listed(tmp_path):
    for seed in (0, 1):
        pt.Prompt(TABLE).save(tmp_path / f"seed_{seed}/prompts/best.npy")
    with pytest.raises(
        ValueError, match=r"contains several runs: .*/seed_0, .*/seed_1; expected one"
    ):
        pt.load_prompt(tmp_path)


@pytest.mark.parametrize(
    ("table", "card", "message"),
    [
        ("a.npy", {}, r"table='a.npy' has type str; .*pt.load_prompt\('a.npy'\)"),
        ([["a"]], {}, "is not an array of numbers .*; expected shape"),
        ([[1.0], [1.0, 2.0]], {}, "is not an array of numbers"),
        ([[np.nan, 1.0]], {}, "table has values that are NaN or infinite"),
        ([[np.inf, 1.0]], {}, "table has values that are NaN or infinite"),
        (np.ones(4), {}, r"table has shape \(4,\); expected \[P, D\]"),
        (np.ones((2, 3, 4)), {}, r"table has shape \(2, 3, 4\)"),
        (TABLE, ["task"], r"card=\['task'\] has type list; expected a dict"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(table, card, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pt.Prompt(table, card)


def test_a_table_is_kept_as_float32():
    assert pt.Prompt(TABLE.astype(np.float64).tolist()).table.dtype == np.float32


def test_labels_are_those_of_the_card():
    assert pt.Prompt(TABLE, {"labels": ["good", "bad"]}).labels == ("good", "bad")
    assert pt.Prompt(TABLE).labels == pt.Prompt(TABLE, {"labels": None}).labels == ()


def test_prompts_become_one_table():
    one, two = pt.Prompt(TABLE, {"place": "suffix"}), pt.Prompt(TABLE + 1, {"place": "suffix"})
    assert prompt_lib.as_method([]) == base.NO_METHOD
    found = [prompt_lib.as_method(prompts) for prompts in ([one], [one, two])]
    assert [(x.length, x.names, x.place) for x in found] == [
        (3, (), "suffix"),
        (3, ("0", "1"), "suffix"),
    ]
    joined = prompt_lib.as_initializer([one, two], "own")
    np.testing.assert_array_equal(joined.array, np.concatenate([TABLE, TABLE + 1]))


def test_a_prompt_of_another_base_model_gives_its_digest():
    own, other, none = (
        pt.Prompt(TABLE, {"base_model_digest": each}) for each in ("weights-a", "weights-b", None)
    )
    for prompts, digest in (([own, none], None), ([none, own, other], "weights-b")):
        assert prompt_lib.as_initializer(prompts, "weights-a").base_model_digest == digest
