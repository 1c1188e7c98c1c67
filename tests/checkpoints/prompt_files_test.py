"""Prompt files: what is written is read, and what is wrong is said."""

import json

import ml_dtypes
import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.checkpoints.formats import peft
from prompt_tuning.methods import initializers

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


@pytest.mark.parametrize(
    ("card", "place"),
    [({}, "prefix"), ({"place": "suffix"}, "suffix"), ({"place": (0, 0, 4)}, (0, 0, 4))],
)
def test_where_a_prompt_stands_is_on_its_card(tmp_path, card, place):
    prompt_files.save(tmp_path / "p.npy", PROMPT, card)
    assert prompt_files.place(tmp_path / "p.npy") == place


def test_a_table_is_named_by_its_setting(tmp_path):
    prompt_files.save(tmp_path / "p.npy", PROMPT, {})
    np.testing.assert_array_equal(
        prompt_files.read_table(tmp_path / "p.npy", "EMBEDDING_FILE"), PROMPT
    )
    with pytest.raises(FileNotFoundError, match=r"EMBEDDING_FILE .* does not exist"):
        prompt_files.read_table(tmp_path / "none.npy", "EMBEDDING_FILE")


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


def test_a_failure_leaves_the_old_files(tmp_path, monkeypatch):
    path = tmp_path / "p.npy"
    prompt_files.save(path, PROMPT, CARD)

    def fail(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(type(prompt_files.epath.Path(path)), "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        prompt_files.save(path, 2 * PROMPT, {"task": "other"})
    np.testing.assert_array_equal(prompt_files.load(path), PROMPT)
    assert prompt_files.read_card(path) == CARD and len(list(tmp_path.iterdir())) == 2


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
        (npy(np.ones((3, 4), np.int32)), "expected floats"),
        (npy(np.ones((1, 3, 4), np.float32)), "expected floats"),
        (npy(np.ones((5, 4), np.float32)), r"\(5, 4\).*\(3, 4\).*PROMPT_LENGTH=5"),
        (npy(np.ones((3, 6), np.float32)), r"\(3, 6\).*\(3, 4\).*gin file of a model of width 6"),
        (npy(np.full((3, 4), np.nan, np.float32)), "NaN or infinite"),
        (npy(np.full((3, 4), np.inf, np.float16)), "NaN or infinite"),
    ],
)
def test_what_is_no_prompt_is_refused(tmp_path, write, message):
    write(tmp_path / "p.npy")
    with pytest.raises(ValueError, match=message):
        prompt_files.load(tmp_path / "p.npy", (3, 4))


def test_an_adapter_is_read_in_place_of_a_file(tmp_path, rng):
    table = rng.normal(size=(3, 4)).astype(np.float32)
    settings = {"base_model": "base", "num_layers": 1, "num_heads": 1}
    peft.save_prompt(tmp_path / "a", table, **settings)
    # The card of a file with that name is not the adapter's.
    prompt_files.save(tmp_path / "a.npy", table + 1, {"place": "suffix", "base_model_digest": "x"})
    found = prompt_files.initializer(tmp_path / "a")
    assert isinstance(found, initializers.FromArray) and found.base_model_digest is None
    np.testing.assert_array_equal(found.array, table)
    assert (prompt_files.length(tmp_path / "a"), prompt_files.place(tmp_path / "a")) == (
        3,
        "prefix",
    )
    np.testing.assert_array_equal(prompt_files.load(tmp_path / "a", (3, 4)), table)
    with pytest.raises(ValueError, match=r"PROMPT_FILE .*shape \(3, 4\); expected \(3, 5\)"):
        prompt_files.load(tmp_path / "a", (3, 5))
    peft.save_scaling(
        tmp_path / "b", {"encoder/layers_0/mlp/scaling/ia3_scaling": table}, base_model=None
    )
    with pytest.raises(ValueError, match=r"adapter of IA3; expected .*prompt-tuning convert"):
        prompt_files.initializer(tmp_path / "b")


def test_missing_files_and_wrong_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="PROMPT_FILE"):
        prompt_files.load(tmp_path / "p.npy")
    with pytest.raises(ValueError, match=r"<name>\.npy"):
        prompt_files.save(tmp_path / "p", PROMPT, CARD)
    for read in (prompt_files.length, prompt_files.initializer):
        with pytest.raises(
            ValueError, match=r"is a folder; expected a file, such as .*/prompts/best"
        ):
            read(tmp_path)
    assert prompt_files.read_card(tmp_path / "p.npy") == {}


@pytest.mark.parametrize("content", ["{", "5", json.dumps(["a"])])
def test_a_damaged_card_is_named(tmp_path, content):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ValueError, match=r"p\.json is not a JSON object"):
        prompt_files.read_card(tmp_path / "p.npy")


LEAVES = {"encoder/prompt/prompt": PROMPT, "encoder/layers_1/mlp/scale": PROMPT[0]}


def test_several_parameters_are_read_again(tmp_path):
    path = tmp_path / "new" / "best.npz"
    prompt_files.save_leaves(path, LEAVES, CARD | {"base_model_digest": "abc"})
    found = prompt_files.load_leaves(path)
    assert found.keys() == LEAVES.keys()
    for name, leaf in LEAVES.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], leaf)
    assert prompt_files.length(path) == 3
    assert sorted(p.name for p in path.parent.iterdir()) == ["best.json", "best.npz"]
    with np.load(path) as archive:  # numpy's own format
        assert set(archive.files) == LEAVES.keys()
    first = path.read_bytes()
    prompt_files.save_leaves(path, LEAVES, CARD)
    assert path.read_bytes() == first


def test_the_initializer_of_a_file_is_of_its_kind(tmp_path):
    one, several = tmp_path / "a.npy", tmp_path / "b.npz"
    prompt_files.save(one, PROMPT, CARD | {"base_model_digest": "abc"})
    prompt_files.save_leaves(several, LEAVES, CARD | {"base_model_digest": "abc"})
    array, leaves = map(prompt_files.initializer, (one, several))
    assert isinstance(array, initializers.FromArray) and isinstance(leaves, initializers.FromLeaves)
    np.testing.assert_array_equal(array.array, PROMPT)
    np.testing.assert_array_equal(leaves.leaves["encoder/prompt/prompt"], PROMPT)
    assert array.base_model_digest == leaves.base_model_digest == "abc"


def test_no_file_is_no_initializer_and_no_length():
    assert prompt_files.initializer(None) is None
    assert prompt_files.place(None) == "prefix"
    with pytest.raises(ValueError, match=r"PROMPT_FILE is not set, .* or PROMPT=None"):
        prompt_files.length(None)


def savez(**arrays):
    def write(path):
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"text"), "not a .npz file"),
        (npy(PROMPT), "not a .npz file"),
        (savez(a=np.array([{"a": 1}], object)), "not a .npz file of numbers"),
        (savez(a=np.ones(2, np.int32)), r"a are not floats"),
        (savez(a=np.array([1, np.inf], np.float32)), "NaN or infinite"),
    ],
)
def test_what_is_no_file_of_parameters_is_refused(tmp_path, write, message):
    write(tmp_path / "p.npz")
    with pytest.raises(ValueError, match=message):
        prompt_files.load_leaves(tmp_path / "p.npz")


def test_parameters_without_their_card_and_under_another_name(tmp_path):
    prompt_files.save_leaves(tmp_path / "p.npz", LEAVES, CARD)
    (tmp_path / "p.json").unlink()
    with pytest.raises(ValueError, match=r"no card p\.json .* Copy it there"):
        prompt_files.length(tmp_path / "p.npz")
    with pytest.raises(ValueError, match=r"<name>\.npz"):
        prompt_files.save_leaves(tmp_path / "p.npy", LEAVES, CARD)
    with pytest.raises(FileNotFoundError, match="PROMPT_FILE"):
        prompt_files.load_leaves(tmp_path / "none.npz")


@pytest.mark.parametrize("dtype", ["<f8", ">f8", ">f4", "<f2"])
def test_a_prompt_of_any_float_dtype_is_read(tmp_path, dtype):
    wide = np.array([[0.1, -2], [3, 1e-3]], dtype)
    np.save(tmp_path / "p.npy", wide)
    np.savez(tmp_path / "p.npz", **{"encoder/prompt/prompt": wide})
    expected = wide.astype(np.float32)
    np.testing.assert_array_equal(prompt_files.load(tmp_path / "p.npy"), expected, strict=True)
    (leaf,) = prompt_files.load_leaves(tmp_path / "p.npz").values()
    np.testing.assert_array_equal(leaf, expected, strict=True)


def test_what_float32_cannot_hold_is_not_read(tmp_path):
    np.save(tmp_path / "p.npy", np.full((2, 2), 1e300))
    with pytest.raises(ValueError, match="NaN or infinite values"):
        prompt_files.load(tmp_path / "p.npy")


def test_a_card_of_an_earlier_version_names_no_comparable_base(tmp_path):
    path = tmp_path / "p.npy"
    prompt_files.save(path, PROMPT, CARD | {"base_model_digest": "0123456789abcdef"})
    assert prompt_files.read_card(path)["base_model_digest"] == "0123456789abcdef"
    assert prompt_files.base_model_digest(path) is None


def test_an_adapter_and_a_file_fit_into_one_table(tmp_path):
    settings = {"base_model": None, "num_layers": 1, "num_heads": 1}
    peft.save_prompt(tmp_path / "adapter", 2 * PROMPT, **settings)
    prompt_files.save(tmp_path / "p.npy", PROMPT, CARD | {"base_model_digest": "weights-1"})
    start = prompt_files.initializer({"a": tmp_path / "adapter", "b": tmp_path / "p.npy"})
    np.testing.assert_array_equal(start.array, np.concatenate([2 * PROMPT, PROMPT]))
    assert start.base_model_digest == "weights-1"


def test_a_folder_with_adapters_below_names_them(tmp_path):
    settings = {"base_model": None, "num_layers": 1, "num_heads": 1}
    for number in range(6):
        peft.save_prompt(tmp_path / f"run/checkpoint-{number}", PROMPT, **settings)
    with pytest.raises(ValueError, match=r"with the PEFT adapters .*-0, .*-3 and 2 more; expected"):
        prompt_files.load(tmp_path / "run")
