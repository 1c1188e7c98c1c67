"""Loading a base and making its prompt."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.checkpoints import base_model
from prompt_tuning.methods import base, initializers
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.training import state

PROMPT = np.arange(64, dtype=np.float32).reshape(4, 16)


def load(tiny, **settings):
    defaults = {"checkpoint": tiny.checkpoint, "num_partitions": 8}
    return state.load_model(tiny.model, tiny.vocabulary, **(defaults | settings))


def test_base_comes_from_the_checkpoint_and_the_prompt_from_its_initializer(tiny):
    loaded = load(tiny, prompt_initializer=initializers.FromArray(PROMPT))
    found = params.flatten(jax.device_get(loaded.params))
    np.testing.assert_array_equal(found.pop(prompt_method.PATH), PROMPT)
    base = params.flatten(tiny.base)
    assert found.keys() == base.keys()
    for path, leaf in base.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)
    assert (loaded.step, loaded.checkpoint) == (1000, tiny.checkpoint)
    np.testing.assert_array_equal(loaded.soft_tokens.ids, [256, 257, 258, 259])


def test_initializer_sees_the_embedding_and_the_vocabulary(tiny):
    loaded = load(tiny, prompt_initializer=initializers.String("film"))
    pieces = tiny.vocabulary.encode("film")
    assert 1 <= len(pieces) <= 4
    embedding = tiny.base["token_embedder"]["embedding"]
    found = loaded.params["encoder"]["prompt"]["prompt"]
    np.testing.assert_array_equal(found[: len(pieces)], embedding[np.array(pieces)])


@pytest.mark.parametrize(("known", "warns"), [(None, False), ("its own", False), ("other", True)])
def test_a_prompt_of_another_base_is_told(tiny, caplog, known, warns):
    digest = load(tiny).digest if known == "its own" else known
    load(tiny, prompt_initializer=initializers.FromArray(PROMPT, digest))
    assert ("trained with another base model" in caplog.text) == warns


def test_prompt_follows_the_seed(tiny):
    once, again, other = (
        np.asarray(load(tiny, seed=seed).params["encoder"]["prompt"]["prompt"])
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_weights_are_shared_out(tiny):
    for path, leaf in params.flatten(load(tiny).params).items():
        is_shared = path.rpartition("/")[-1] in ("kernel", "embedding", "rel_embedding")
        assert leaf.addressable_shards[0].data.size * (8 if is_shared else 1) == leaf.size, path


def test_random_weights_are_made_where_they_lie(tiny):
    """Nothing moves them afterwards: a whole one on one device would stay there."""
    kernel = load(tiny, checkpoint=None).params["decoder"]["logits_dense"]["kernel"]
    assert 8 * kernel.addressable_shards[0].data.size == kernel.size


def test_digest_knows_the_base_wherever_it_lies(tiny, tmp_path):
    moved = shutil.copytree(tiny.checkpoint, tmp_path / "model")
    renamed = shutil.copytree(tiny.checkpoint, tmp_path / "other")
    first, same, other, random = (
        load(tiny, checkpoint=path).digest for path in (tiny.checkpoint, moved, renamed, None)
    )
    assert first == same == other != random


def test_random_weights_need_no_checkpoint(tiny):
    plain = tiny._replace(model=dataclasses.replace(tiny.model, method=base.NO_METHOD))
    once, again, other = (load(plain, checkpoint=None, seed=seed) for seed in (1, 1, 2))
    assert (once.step, once.checkpoint, len(once.soft_tokens)) == (0, None, 0)
    assert prompt_method.PATH not in params.flatten(once.params)
    kernels = [
        np.asarray(m.params["decoder"]["logits_dense"]["kernel"]) for m in (once, again, other)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_what_does_not_fit_is_seen_before_the_weights_are_read(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(base_model, "load", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(
        ValueError, match="CLASS_LABELS has 5 labels, but the prompt has only 4 tokens"
    ):
        load(tiny, prompt_initializer=initializers.ClassLabels(list("abcde")))
    with pytest.raises(ValueError, match=r"at most 383 more\. Set VOCABULARY_FILE"):
        load(tiny._replace(vocabulary=dataclasses.replace(tiny.vocabulary, extra_ids=300)))
    with pytest.raises(ValueError, match="NUM_PARTITIONS is 3"):
        load(tiny, num_partitions=3)
    with pytest.raises(ValueError, match=r"num_heads is 8 in config\.json, and 4 in the settings"):
        config = dataclasses.replace(tiny.model.config, num_heads=4)
        load(tiny._replace(model=dataclasses.replace(tiny.model, config=config)))
    with pytest.raises(FileNotFoundError, match="INITIAL_CHECKPOINT_PATH"):
        load(tiny, checkpoint=str(tmp_path / "nowhere"))


def test_weights_are_held_in_the_dtype_asked_and_are_the_same_model(tiny):
    config = dataclasses.replace(tiny.model.config, weights_dtype="bfloat16")
    wide, halved = (
        state.load_model(
            dataclasses.replace(tiny.model, config=each),
            tiny.vocabulary,
            checkpoint=tiny.checkpoint,
        )
        for each in (tiny.model.config, config)
    )
    assert halved.digest == wide.digest
    flat, expected = params.flatten(halved.params), params.flatten(wide.params)
    for path, leaf in flat.items():
        assert leaf.dtype == (jnp.float32 if path == prompt_method.PATH else jnp.bfloat16), path
        if path != prompt_method.PATH:
            np.testing.assert_array_equal(leaf, expected[path].astype(jnp.bfloat16))


SHIFT = "encoder/prompt/shift"


def test_what_a_method_adds_starts_as_its_modules_say(tiny, shifted):
    assert shifted.adapter_paths == {prompt_method.PATH, SHIFT}
    shifted = tiny._replace(model=shifted)
    once, again, other = (
        params.flatten(load(shifted, seed=seed, prompt_initializer=kind).params)
        for seed, kind in ((1, None), (1, initializers.RandomUniform()), (2, None))
    )
    np.testing.assert_array_equal(once[SHIFT], again[SHIFT])
    assert np.abs(once[SHIFT]).std() > 0.1 and not np.array_equal(once[SHIFT], other[SHIFT])
    # The prompt is PROMPT_INITIALIZER's here too, and the rest the checkpoint's.
    np.testing.assert_array_equal(
        once[prompt_method.PATH], load(tiny, seed=1).params["encoder"]["prompt"]["prompt"]
    )
    assert np.abs(again[prompt_method.PATH]).max() <= 0.5
    for path, leaf in params.flatten(tiny.base).items():
        np.testing.assert_array_equal(once[path], leaf, err_msg=path)


LEAVES = {prompt_method.PATH: PROMPT, SHIFT: np.arange(16, dtype=np.float32)}


def test_all_that_a_method_adds_comes_from_a_file(tiny, shifted):
    leaves = initializers.FromLeaves(LEAVES)
    found = params.flatten(load(tiny._replace(model=shifted), prompt_initializer=leaves).params)
    for path, leaf in LEAVES.items():
        np.testing.assert_array_equal(found[path], leaf)


@pytest.mark.parametrize(
    ("initializer", "parts"),
    [
        (initializers.FromArray(PROMPT), ["PROMPT_FILE holds a single prompt", SHIFT]),
        (
            initializers.FromLeaves({prompt_method.PATH: PROMPT}),
            [f"missing: {SHIFT}", "gin file of the method"],
        ),
        (initializers.FromLeaves(LEAVES | {"a/b": np.ones(2)}), ["surplus: a/b (2,)"]),
        (initializers.FromLeaves(LEAVES | {SHIFT: np.ones(3)}), [r"is (3,), the model has (16,)"]),
    ],
)
def test_a_file_of_another_method_is_refused(tiny, shifted, monkeypatch, initializer, parts):
    monkeypatch.setattr(base_model, "load", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(ValueError) as caught:
        load(tiny._replace(model=shifted), prompt_initializer=initializer)
    assert all(part in str(caught.value) for part in parts)


def test_a_prompt_for_a_model_without_one_is_refused(tiny):
    plain = tiny._replace(model=dataclasses.replace(tiny.model, method=base.NO_METHOD))
    with pytest.raises(ValueError, match=r"adapter parameters are none; .* Set the gin file"):
        load(plain, prompt_initializer=initializers.FromArray(PROMPT))
