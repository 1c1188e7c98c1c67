"""Paths, labels, split and merge: truth tables and errors."""

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
    ("table", "expected"),
    [
        ([(".*", "a")], {PROMPT: "a", KERNEL: "a", TABLE: "a"}),
        # The first match wins.
        ([(".*/kernel", "a"), (".*", "b")], {PROMPT: "b", KERNEL: "a", TABLE: "b"}),
        ([("encoder/.*", "a"), ("token_.*", "b")], {PROMPT: "a", KERNEL: "a", TABLE: "b"}),
        # One label may have several rows.
        ([(KERNEL, "a"), (TABLE, "a"), (".*", "b")], {PROMPT: "b", KERNEL: "a", TABLE: "a"}),
    ],
)
def test_label_truth_table(table, expected):
    assert params.flatten(params.label(TREE, table)) == expected


@pytest.mark.parametrize(
    ("table", "message"),
    [
        # A pattern matches whole paths: neither a part nor a beginning.
        ([("prompt", "a"), (".*", "b")], r"patterns \['prompt'\] that match no parameter"),
        ([("encoder", "a"), (".*", "b")], r"patterns \['encoder'\] that match no parameter"),
        ([(".*", "a"), ("encoder/.*", "b")], r"TRAINABLE has patterns \['encoder/\.\*'\]"),
        ([("encoder/.*", "a")], "parameter 'token_embedder/embedding' matches no pattern"),
        ([], "matches no pattern"),
    ],
)
def test_label_errors_name_the_pattern_or_the_leaf(table, message):
    with pytest.raises(ValueError, match=message):
        params.label(TREE, table)


@pytest.mark.parametrize(
    ("trainable", "trained"),
    [
        (("encoder/prompt/.*",), {PROMPT}),
        ((".*",), {PROMPT, KERNEL, TABLE}),
        ((".*/prompt", "token_embedder/.*"), {PROMPT, TABLE}),
        (("encoder/.*", "token_embedder/.*"), {PROMPT, KERNEL, TABLE}),
    ],
)
def test_split_truth_table_and_merge_inverts_it(trainable, trained):
    kept, frozen = params.split(TREE, trainable)
    assert set(params.flatten(kept)) == trained
    assert set(params.flatten(frozen)) == {PROMPT, KERNEL, TABLE} - trained
    merged = params.flatten(params.merge(kept, frozen))
    assert all(merged[path] is leaf for path, leaf in params.flatten(TREE).items())
    labels = params.flatten(params.trainable_labels(TREE, trainable))
    assert {path for path, label in labels.items() if label == params.TRAINABLE} == trained


def test_nothing_trainable_is_an_error_where_a_pattern_says_otherwise():
    with pytest.raises(ValueError, match="match no parameter"):
        params.split(TREE, ("encoder/promt/.*",))


def test_a_string_for_trainable_is_refused():
    with pytest.raises(ValueError, match=r"TRAINABLE is the string .*\('\.\*',\)"):
        params.split(TREE, ".*")


def test_merge_refuses_overlap_and_names_it():
    kept, _ = params.split(TREE, ("encoder/prompt/.*",))
    with pytest.raises(ValueError, match=r"in two of the trees.*encoder/prompt/prompt"):
        params.merge(TREE, kept)


def test_count_and_bytes():
    assert params.count(TREE) == 8 + 6 + 4
    assert params.size_in_bytes(TREE) == (8 + 6) * 4 + 4 * 2
    assert params.count(params.shapes(TREE)) == 18
    assert params.count({"scalar": np.float32(1)}) == 1


def test_structure_digest_sees_paths_shapes_dtypes_and_source_but_no_values():
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


def test_mismatches_lists_what_is_missing_surplus_and_misshapen():
    found = {
        "encoder": {
            "prompt": {"prompt": jnp.zeros((5, 2))},
            "layers_0": TREE["encoder"]["layers_0"],
        },
        "decoder": jnp.zeros(7),
    }
    assert params.mismatches(found, TREE) == [
        "missing: token_embedder/embedding (4, 2)",
        "shape: encoder/prompt/prompt is (5, 2), the model has (3, 2)",
        "surplus: decoder (7,)",
    ]
    assert params.mismatches(TREE, TREE) == []
