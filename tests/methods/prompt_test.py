"""How the prompt's table fills the rows of soft tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model


class Site(nn.Module):
    """A module that calls hooks."""


def fill(prompt, soft_ids, x, table):
    site = Site().bind({"params": {"prompt": {"prompt": table}}})
    return prompt.embed_input(site, x, jnp.array(soft_ids))


TABLE = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.mark.parametrize(
    ("soft_ids", "rows"),
    [
        ([0, 1, 2, -5, -1], [0, 1, 2, None, None]),  # a prefix
        ([-9, -9, 0, 1, 2], [None, None, 0, 1, 2]),  # a suffix
        ([-1, 2, -1, 0, -1], [None, 2, None, 0, None]),  # spread, in any order
        ([-1, -1, -1, -1, -1], [None] * 5),  # no soft token
    ],
)
def test_soft_ids_name_rows_of_the_table(soft_ids, rows):
    x = np.full((1, 5, 2), -1, np.float32)
    found = fill(prompt_method.Prompt(length=3, names=("a", "b")), [soft_ids], x, TABLE)
    expected = [TABLE[row] if row is not None else [-1, -1] for row in rows]
    np.testing.assert_array_equal(found, [expected])


def test_each_row_of_a_batch_may_use_its_own_prompt():
    x = np.zeros((2, 3, 2), np.float32)
    found = fill(prompt_method.Prompt(3, ("a", "b")), [[0, 1, 2], [3, 4, 5]], x, TABLE)
    np.testing.assert_array_equal(found, TABLE.reshape(2, 3, 2))


def test_an_id_beyond_the_table_gives_no_row_of_it():
    x = np.zeros((1, 3, 2), np.float32)
    found = fill(prompt_method.Prompt(6), [[-1, 5, 6]], x, TABLE)
    np.testing.assert_array_equal(found, [[[0, 0], TABLE[5], [np.nan] * 2]])


@pytest.mark.parametrize("length", [0, -1, 2.5, "4"])
def test_a_length_that_is_none(length):
    with pytest.raises(ValueError, match=f"PROMPT_LENGTH is {length!r}; expected an integer"):
        prompt_method.Prompt(length)


def test_the_table_is_float32_and_the_vectors_have_the_dtype_of_x():
    prompt, x = prompt_method.Prompt(6), jnp.zeros((1, 2, 2), jnp.bfloat16)
    of = model.EncoderDecoderModel(config_lib.T5Config(16, 8, 2, 4, 8, 1, 1), prompt)
    table = of.init_adapter(jax.random.key(0))["encoder"]["prompt"]["prompt"]
    assert (table.shape, table.dtype) == ((6, 8), jnp.float32)
    assert float(jnp.abs(table).max()) <= 0.5
    assert fill(prompt, [[0, 1]], x, TABLE).dtype == jnp.bfloat16


def test_gradient_reaches_the_used_rows_only():
    x = jnp.zeros((1, 4, 2))

    def total(table):
        return jnp.sum(fill(prompt_method.Prompt(6), [[0, 2, 2, -1]], x, table))

    gradient = jax.grad(total)(jnp.array(TABLE))
    np.testing.assert_array_equal(gradient[:, 0], [1, 0, 2, 0, 0, 0])


def test_path_and_logical_axes_in_the_model():
    config = config_lib.T5Config(16, 8, 2, 4, 8, 1, 1)
    abstract = model.EncoderDecoderModel(config, prompt_method.Prompt(5)).abstract_params()
    box = params.flatten(abstract)[prompt_method.PATH]
    assert box.value.shape == (5, 8)
    assert box.names == ("prompt", "prompt_embed")
