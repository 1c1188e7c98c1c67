"""The hooks: a plain T5 has the program of no method, and each hook acts where it says."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
from flax import linen as nn

from prompt_tuning.methods import base, combination
from prompt_tuning.models import decoding


class Site(nn.Module):
    """A module that calls hooks."""


HOOKS = [
    name
    for name, function in inspect.getmembers(base.Method, inspect.isfunction)
    if list(inspect.signature(function).parameters)[1:2] == ["site"]
]


class Idle(base.Method):
    """A method that overrides nothing."""


class Scaled(base.Method):
    """Multiplies what each of `hooks` gets by 1.5, and notes where it was called."""

    def __init__(self, hooks, calls=None):
        object.__setattr__(self, "hooks", tuple(hooks))
        object.__setattr__(self, "calls", [] if calls is None else calls)

    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)


def _scale(hook):
    def scale(self, site, value, *context):
        names = [each for each in context if isinstance(each, str)]
        self.calls.append((hook, "/".join([*site.path, *names])))
        if hook not in self.hooks:
            return value
        if hook == "attention_mask":
            return value & (np.arange(value.shape[-1]) != 4)
        return jax.tree.map(lambda x: x * 1.5, value)

    return scale


for _name in HOOKS:
    setattr(Scaled, _name, _scale(_name))


@pytest.fixture(scope="module")
def weights(deep, random_params):
    return random_params(dataclasses.replace(deep, method=base.NO_METHOD))


def program(model, batch):
    """The jaxpr of loss and gradient, and that of decoding."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    batch = batch | {"decoder_loss_weights": batch["decoder_target_tokens"] > 0}
    step = jax.make_jaxpr(jax.value_and_grad(model.loss, has_aux=True))
    decode = jax.make_jaxpr(lambda params, ids: model.predict(params, ids, 3))
    ids = batch["encoder_input_tokens"]
    return str(step(shapes, batch, jax.random.key(1))), str(decode(shapes, ids))


@pytest.mark.parametrize("arrangement", ["alone", "packed"])
def test_hooks_that_do_nothing_leave_the_program_of_a_plain_t5(deep, examples, arrangement):
    config = dataclasses.replace(deep.config, dropout_rate=0.1)
    plain = dataclasses.replace(deep, config=config, method=base.NO_METHOD)
    expected = program(plain, getattr(examples, arrangement))
    for method in (Idle(), combination.Combination((Idle(), Idle())), Scaled(())):
        same = dataclasses.replace(plain, method=method)
        assert same.adapter_paths == set() and same.prompt_path is None
        assert program(same, getattr(examples, arrangement)) == expected
    assert program(deep, getattr(examples, arrangement)) != expected


def test_every_hook_is_called_where_its_docstring_says(deep, examples, weights):
    method = Scaled(())
    model = dataclasses.replace(deep, method=method)
    jax.eval_shape(model.logits, weights, examples.alone)
    encoder = ["encoder/layers_0", "encoder/layers_1"]
    decoder = "decoder/layers_0"
    attentions = [f"{layer}/attention" for layer in encoder]
    attentions += [f"{decoder}/self_attention", f"{decoder}/encoder_decoder_attention"]
    dense = [f"{attention}/{name}" for attention in attentions for name in ("query", "out")]
    dense += [f"{x}/mlp/{name}" for x in (*encoder, decoder) for name in ("wi_0", "wi_1", "wo")]
    expected = {
        "embed_input": ["encoder"],
        "attention_mask": ["encoder"],
        "layer_input": [*encoder, decoder],
        "keys_values": [decoder],
        "dense_input": dense,
        "dense_output": dense,
        "sublayer_output": [*attentions, *(f"{layer}/mlp" for layer in (*encoder, decoder))],
        "logits": ["decoder"],
    }
    assert sorted(method.calls) == sorted((hook, x) for hook, xs in expected.items() for x in xs)
    assert expected.keys() == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_what_a_hook_returns_counts_in_training_and_decoding(deep, examples, weights, hook):
    plain = dataclasses.replace(deep, method=base.NO_METHOD)
    model = dataclasses.replace(plain, method=Scaled([hook]), decoder=decoding.Greedy())
    ids = examples.alone["encoder_input_tokens"] % deep.config.vocab_size
    tokens, scores = jax.jit(model.predict, static_argnums=2)(weights, ids, 4)
    targets = np.asarray(tokens)[:, 0]
    batch = {
        "encoder_input_tokens": ids,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": targets > 0,
    }
    changed, unchanged = (np.asarray(jax.jit(x.score)(weights, batch)) for x in (model, plain))
    assert np.abs(changed - unchanged).max() > 1e-3
    if hook != "keys_values":  # of the new key only in training, of the cache in decoding
        np.testing.assert_allclose(np.ravel(scores), changed, atol=1e-4)


def test_a_parameter_is_read_below_its_site(deep):
    site = Site().bind({"params": {"a": {"b": np.float32(3)}}})
    assert base.parameter(site, "a/b") == 3.0
    for name in ("a/c", "b"):
        with pytest.raises(KeyError, match=f"the parameters lack {name}, which the method"):
            base.parameter(site, name)
    # Forgotten parameters are an error of the network too.
    weights = dataclasses.replace(deep, method=base.NO_METHOD).init(jax.random.key(0))
    ids = np.ones((1, 2), np.int32)
    batch = {f"{x}_tokens": ids for x in ("encoder_input", "decoder_input", "decoder_target")}
    with pytest.raises(KeyError, match="the parameters lack encoder/prompt/prompt"):
        deep.logits(weights, batch)


def test_parameters_start_as_they_say_with_their_axes():
    normal = nn.initializers.normal(1.0)
    parameters = {
        "a/b/c": base.Parameter((2, 3), normal, ("prompt", None)),
        "a/d": base.Parameter((2, 3), normal),
        "e": base.Parameter((4,), nn.initializers.ones),
    }
    made = base.init_parameters(parameters, jax.random.key(0))
    assert made["a"]["b"]["c"].names == ("prompt", None)
    first, second = made["a"]["b"]["c"].value, made["a"]["d"]
    assert first.dtype == second.dtype == np.float32 and not np.array_equal(first, second)
    np.testing.assert_array_equal(made["e"], np.ones(4))
    other = nn.unbox(base.init_parameters(parameters, jax.random.key(1)))
    assert not np.array_equal(other["a"]["b"]["c"], first)
    assert base.init_parameters({}, jax.random.key(0)) == {}


def test_a_method_is_counted_by_its_parameters():
    class Two(base.Method):
        def parameters(self, config, shapes):
            return {
                "a": base.Parameter((2, config), nn.initializers.ones),
                "b": base.Parameter(shapes["c"], nn.initializers.ones),
            }

    assert Two().count(5, {"c": (7,)}) == 2 * 5 + 7
    assert base.NO_METHOD.count(5, {}) == 0


def test_a_method_names_its_gin_file():
    assert combination.Combination(()).gin_file == "prompts/combination.gin"
    assert base.NO_METHOD.parts == () and Idle().parts == (Idle(),)
