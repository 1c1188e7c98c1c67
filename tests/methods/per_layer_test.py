"""A prompt a layer: what it does to rows, where its tables are, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.methods import combination, per_layer
from prompt_tuning.methods import prompt as prompt_method


class Site(nn.Module):
    """A module that calls hooks."""


LAYER_1 = "encoder/layers_1/prompt/prompt"


@pytest.fixture(scope="module")
def layered(deep):
    return dataclasses.replace(
        deep, method=combination.combine([deep.method, per_layer.LayerPrompt(3)])
    )


@pytest.mark.parametrize(
    ("combine", "rows"), [("replace", [7, 10, 20, 7]), ("add", [7, 17, 27, 7])]
)
def test_rows_of_soft_tokens_are_replaced_or_added_to(combine, rows):
    site = Site().bind({"params": {"prompt": {"prompt": jnp.array([[10.0], [20.0]])}}})
    prompt, x = per_layer.LayerPrompt(2, combine=combine), jnp.full((1, 4, 1), 7.0)
    found = prompt.layer_input(site, x, jnp.array([[-3, 0, 1, -1]]))
    np.testing.assert_array_equal(found[0, :, 0], rows)


def test_all_tasks_share_the_vectors_of_a_layer():
    site = Site().bind({"params": {"prompt": {"prompt": jnp.array([[10.0], [20.0]])}}})
    ids = jnp.array([[-4, 0, 1, 2, 3, 4, 5, -1]])
    found = per_layer.LayerPrompt(2).layer_input(site, jnp.zeros((1, 8, 1)), ids)
    np.testing.assert_array_equal(found[0, :, 0], [0, 10, 20, 10, 20, 10, 20, 0])


def test_an_unknown_way_to_combine():
    with pytest.raises(
        ValueError, match="PER_LAYER_COMBINE is 'both'; expected 'replace' or 'add'"
    ):
        per_layer.LayerPrompt(2, combine="both")


def test_each_layer_behind_the_first_has_a_table_of_its_own(layered):
    config = dataclasses.replace(layered.config, num_encoder_layers=4, remat_policy="full")
    deeper = dataclasses.replace(layered, config=config)
    tables = {f"encoder/layers_{i}/prompt/prompt" for i in (1, 2, 3)}
    assert deeper.adapter_paths == {prompt_method.PATH, *tables}
    shapes = params.flatten(nn.unbox(deeper.abstract_params()))
    assert {shapes[path].shape for path in tables} == {(3, 16)}


@pytest.mark.parametrize(("combine", "policy"), [("replace", "full"), ("add", "none")])
def test_packed_examples_are_as_alone_and_every_vector_counts(
    deep, layered, examples, random_params, combine, policy
):
    config = dataclasses.replace(layered.config, remat_policy=policy)
    method = combination.combine([deep.method, per_layer.LayerPrompt(3, combine)])
    of = dataclasses.replace(layered, config=config, method=method)
    trainable, frozen = params.split(random_params(of), (".*/prompt/.*",))

    def total(tree, batch):
        logits = of.logits(params.merge(tree, frozen), batch)
        return jnp.sum(logits[..., 3]), logits

    compiled = jax.jit(jax.grad(total, has_aux=True))
    examples.check(lambda batch: compiled(trainable, batch)[1])
    gradient = params.flatten(compiled(trainable, examples.alone)[0])
    assert gradient.keys() == of.adapter_paths == {prompt_method.PATH, LAYER_1}
    for path, leaf in gradient.items():
        assert (np.abs(leaf).max(-1) > 1e-5).all(), path


def test_a_layer_reads_its_own_vectors_in_place_of_those_before(layered, examples, random_params):
    """What layer 0 makes of the soft tokens is dropped: the first prompt acts through the input."""
    weights, ids = random_params(layered), examples.alone["encoder_input_tokens"]

    @jax.jit
    def attention_input(weights):
        _, kept = layered.module.apply(
            {"params": weights}, ids, method=layered.module.encode, capture_intermediates=
            lambda m, _: m.name == "pre_attention_layer_norm",
        )  # fmt: skip
        kept = kept["intermediates"]["encoder"]["layers_1"]["pre_attention_layer_norm"]
        return kept["__call__"][0]

    flat = params.flatten(weights)
    other = params.unflatten(flat | {prompt_method.PATH: flat[prompt_method.PATH] + 1})
    before, after = attention_input(weights), attention_input(other)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (np.abs(before - after)[:, 3:5].max(-1) > 1e-4).all()


def test_it_learns(learn):
    found = learn("prompts/per_layer.gin", PROMPT_LENGTH=3)
    assert (np.abs(found.before[LAYER_1]) <= 0.5).all() and found.before[LAYER_1].min() < 0
    assert {path: leaf.shape for path, leaf in found.after.items()} == {
        prompt_method.PATH: (3, 16),
        LAYER_1: (3, 16),
    }
