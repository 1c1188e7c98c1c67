"""Parameter trees: paths, split and merge, counts, digests."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import params

TREE = {
    "token_embedder": {"embedding": jnp.ones((4, 2))},
    "encoder": {
        "prompt": {"prompt": jnp.zeros((3, 2))},
        "layers_0": {"mlp": {"wo": {"kernel": jnp.ones((2, 2), jnp.bfloat16)}}},
    },
}
PROMPT, KERNEL = "encoder/prompt/prompt", "encoder/layers_0/mlp/wo/kernel"
TABLE = "token_embedder/embedding"


def test_flatten_joins_keys_in_sorted_order_and_unflatten_inverts_it():
    flat = params.flatten(TREE)
    assert list(flat) == [KERNEL, PROMPT, TABLE]
    assert flat[PROMPT] is TREE["encoder"]["prompt"]["prompt"]
    assert params.unflatten(flat) == TREE
    assert params.flatten({}) == params.unflatten({}) == {}


@pytest.mark.parametrize(
    "trainable",
    [
        # Patterns match complete paths, neither a part nor the start.
        ("prompt", ".*"),
        ("encoder", ".*"),
        ("encoder/promt/.*",),
        # Earlier patterns match all of its leaves.
        (".*", "encoder/.*"),
        ("encoder/.*", "encoder/.*"),
    ],
)
def test_a_pattern_without_effect_is_refused(trainable):
    with pytest.raises(ValueError, match=r"TRAINABLE has patterns .* match no parameter") as error:
        params.split(TREE, trainable)
    unused = trainable[-1] if trainable[0].endswith("*") else trainable[0]
    assert f"TRAINABLE has patterns [{unused!r}]" in str(error.value)


@pytest.mark.parametrize(
    ("trainable", "trained"),
    [
        (("encoder/prompt/.*",), {PROMPT}),
        ((".*",), {PROMPT, KERNEL, TABLE}),
        ((".*/prompt", "token_embedder/.*"), {PROMPT, TABLE}),
        (("encoder/.*", "token_embedder/.*"), {PROMPT, KERNEL, TABLE}),
    ],
)
def test_split_selects_matching_paths_and_merge_inverts_it(trainable, trained):
    selected, frozen = params.split(TREE, trainable)
    assert set(params.flatten(selected)) == trained
    assert set(params.flatten(frozen)) == {PROMPT, KERNEL, TABLE} - trained
    merged = params.flatten(params.merge(selected, frozen))
    assert all(merged[path] is leaf for path, leaf in params.flatten(TREE).items())
    labels = params.flatten(params.trainable_labels(TREE, trainable))
    assert {path for path, label in labels.items() if label == params.TRAINABLE} == trained


def test_trainable_must_be_a_non_empty_sequence():
    with pytest.raises(ValueError, match=r"TRAINABLE is the string .*\('\.\*',\)"):
        params.split(TREE, ".*")
    with pytest.raises(ValueError, match=r"TRAINABLE is .*expected at least one pattern"):
        params.split(TREE, ())


def test_merge_refuses_overlapping_trees():
    selected, _ = params.split(TREE, ("encoder/prompt/.*",))
    with pytest.raises(ValueError, match=r"in two of the trees.*encoder/prompt/prompt"):
        params.merge(TREE, selected)


def test_count_and_size_in_bytes():
    assert params.count(TREE) == 8 + 6 + 4
    assert params.size_in_bytes(TREE) == (8 + 6) * 4 + 4 * 2
    assert params.count(params.shapes(TREE)) == 18
    assert params.count({"scalar": np.float32(1)}) == 1


def test_structure_digest_depends_on_paths_shapes_dtypes_and_source_but_not_values():
    def digest(path="a/b", shape=(2, 3), dtype=jnp.float32, source="", fill=0):
        return params.structure_digest(
            params.unflatten({path: jnp.full(shape, fill, dtype)}), source
        )

    assert digest(fill=1) == digest()
    different = [
        digest(path="a/c"),
        digest(shape=(3, 2)),
        digest(dtype=jnp.bfloat16),
        digest(source="x"),
    ]
    assert len({digest(), *different}) == 5


def test_mismatches_lists_missing_surplus_and_misshapen_leaves():
    tree = {
        "encoder": {
            "prompt": {"prompt": jnp.zeros((5, 2))},
            "layers_0": TREE["encoder"]["layers_0"],
        },
        "decoder": jnp.zeros(7),
    }
    assert params.mismatches(tree, TREE) == [
        "missing: token_embedder/embedding (4, 2)",
        "shape: encoder/prompt/prompt is (5, 2), the model has (3, 2)",
        "surplus: decoder (7,)",
    ]
    assert params.mismatches(TREE, TREE) == []
