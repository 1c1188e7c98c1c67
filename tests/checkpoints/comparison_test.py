"""Which parameters of two checkpoints differ."""

import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.checkpoints import comparison, lazy_arrays
from prompt_tuning.checkpoints.formats import t5x


@pytest.fixture
def tree(rng):
    names = ["token_embedder/embedding", *(f"encoder/layers_{i}/mlp/wo/kernel" for i in range(9))]
    return {name: rng.normal(size=(4, 3)).astype(np.float32) for name in names}


@pytest.fixture
def write(tmp_path):
    def make(name, tree, step=3, dtype="float32"):
        stored = {path: lazy_arrays.from_numpy(array) for path, array in tree.items()}
        t5x.save(tmp_path / name, stored, step=step, dtype=dtype)
        return tmp_path / name

    return make


def test_the_same_model_in_two_formats_is_the_same(write, write_orbax, tree, tmp_path):
    native = write("a", tree)
    under_orbax = write_orbax(tmp_path / "b", params.unflatten(tree))
    result = comparison.compare(native, under_orbax)
    assert result["same"] and result["compared"] == 10


def test_scanned_layers_are_compared_with_unscanned_ones(write, tree):
    kernels = [tree[f"encoder/layers_{i}/mlp/wo/kernel"] for i in range(9)]
    kernels[7] = kernels[7] + 0.5
    embedding = {"token_embedder/embedding": tree["token_embedder/embedding"]}
    scanned = embedding | {"encoder/encoder/mlp/wo/kernel": np.stack(kernels, 1)}
    first, second = write("a", tree), write("b", scanned)
    different = comparison.compare(first, second)["different"]
    assert different == {"encoder/layers_7/mlp/wo/kernel": pytest.approx(0.5)}
    tree["encoder/layers_7/mlp/wo/kernel"] = kernels[7]
    assert comparison.compare(write("c", tree), second)["same"]
    assert comparison.compare(second, second)["compared"] == 10


def test_what_only_one_has_is_told(write, write_orbax, tree, tmp_path):
    native = write("a", tree)
    under_orbax = write_orbax(
        tmp_path / "b", params.unflatten({"x": np.ones(2, np.float32), **tree})
    )
    result = comparison.compare(native, under_orbax)
    assert result == {
        "same": False,
        "compared": 10,
        "different": {},
        "only_first": [],
        "only_second": ["x"],
        "steps": [3, 3],
    }


def test_what_differs_is_told_with_its_largest_difference(write, tree):
    first = write("a", tree)
    changed = {path: array.copy() for path, array in tree.items()}
    changed["encoder/layers_2/mlp/wo/kernel"][1, 1] += 0.5
    changed["encoder/layers_3/mlp/wo/kernel"][0, 0] = np.nan
    changed["token_embedder/embedding"] = np.ones((5, 3), np.float32)
    result = comparison.compare(first, write("b", changed))
    assert not result["same"]
    assert result["different"] == {
        "encoder/layers_2/mlp/wo/kernel": pytest.approx(0.5),
        "encoder/layers_3/mlp/wo/kernel": "not finite",
        "token_embedder/embedding": "(4, 3) and (5, 3)",
    }
    assert comparison.compare(first, write("c", tree))["same"]
    assert not comparison.compare(first, write("d", tree, dtype="bfloat16"))["same"]


def test_steps_count_where_they_are_asked_for(write, tree):
    pair = write("a", tree, step=3), write("b", tree, step=4)
    assert comparison.compare(*pair)["same"]
    assert not comparison.compare(*pair, with_step=True)["same"]


def test_a_part_is_drawn_and_what_is_named_is_compared(write, tree):
    first = write("a", tree)
    second = write("b", {path: array + 1 for path, array in tree.items()})
    drawn = [comparison.compare(first, second, fraction=0.2, seed=seed) for seed in (0, 0, 1, 2)]
    assert {each["compared"] for each in drawn} == {2}
    assert drawn[0] == drawn[1]
    assert len({tuple(each["different"]) for each in drawn}) > 1
    named = comparison.compare(first, second, fraction=0.1, check=["encoder/layers_[3-5]/*"])
    assert {f"encoder/layers_{i}/mlp/wo/kernel" for i in (3, 4, 5)} <= named["different"].keys()


def test_mistakes(write, tree):
    first = write("a", tree)
    with pytest.raises(
        ValueError, match=r"fraction=0 is out of range; expected a number greater than 0"
    ):
        comparison.compare(first, first, fraction=0)
    with pytest.raises(ValueError, match=r"\['decoder/\*'\] match no parameter"):
        comparison.compare(first, first, check=["decoder/*"])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        comparison.compare(first, first / "b")
