"""Models in T5X's interface, called the way T5X calls them; what T5X said is in testdata/t5x.json.

scripts/t5x_parity.py made that file.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import types
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
from jax.sharding import PartitionSpec

from prompt_tuning import params
from prompt_tuning.checkpoints import base_model, prompt_files
from prompt_tuning.data import sources
from prompt_tuning.data.text import labels as labels_lib
from prompt_tuning.inference import exporter
from prompt_tuning.methods import initializers
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import decoder_only_model, decoding
from prompt_tuning.models import model as model_lib
from prompt_tuning.t5x import models as t5x_models
from prompt_tuning.training import optimizers, state

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "testdata" / "t5x.json").read_text())


@flax.struct.dataclass
class PerStep:
    """In place of T5X's metrics of steps and time, which hold numbers for its trainer to fill."""

    total: Any = None
    numerator: Any = None

    @classmethod
    def from_model_output(cls, numerator=None):
        return cls(numerator=numerator)

    def compute(self):
        return self.total


@pytest.fixture
def t5x(monkeypatch):
    """The one module of T5X's that a loss imports."""
    names = ("AveragePerStep", "TimeRate", "Time", "Sum", "StepsPerTime")
    metrics = types.SimpleNamespace(**dict.fromkeys(names, PerStep))
    monkeypatch.setitem(sys.modules, "t5x", types.SimpleNamespace(metrics=metrics))
    monkeypatch.setitem(sys.modules, "t5x.metrics", metrics)


def adafactor(start_step):
    return optimizers.adafactor(0.3, start_step=start_step, weight_decay_rate=1e-5)


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory) -> str:
    """The tiny model at step 1,000, in T5X's format."""
    return exporter.export(
        model=tiny.model,
        vocabulary=tiny.vocabulary,
        checkpoint=tiny.checkpoint,
        output_dir=str(tmp_path_factory.mktemp("t5x")),
    )


@pytest.fixture(scope="module")
def wrapped(tiny, checkpoint) -> t5x_models.Model:
    """The tiny model to be trained."""
    return t5x_models.Model(tiny.model, tiny.vocabulary, checkpoint=checkpoint, optimizer=adafactor)


@pytest.fixture
def batch(rng):
    """Four rows with soft tokens and padding."""
    ids = rng.integers(2, 256, (4, 12))
    ids[:, :4], ids[1, 9:] = 256 + np.arange(4), 0
    targets = rng.integers(2, 256, (4, 5))
    targets[2, 3:] = 0
    arrays = {
        "encoder_input_tokens": ids,
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_loss_weights": targets > 0,
    }
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def first_optimizer(model):
    """What T5X makes of a model and of its base checkpoint, before the first step."""
    shapes = {"encoder_input_tokens": (4, 12)}

    def create(rng):
        variables = flax.core.freeze(model.get_initial_variables(rng, shapes, {}))
        return model.optimizer_def.create(variables["params"])

    made = jax.eval_shape(create, jax.random.PRNGKey(0))
    target = made.state_dict()["target"]
    base = {p: x for p, x in params.flatten(target).items() if p not in model.model.adapter_paths}
    weights, step = base_model.load(model.checkpoint, params.unflatten(base))
    restored = {"target": weights, "state": {"step": np.int32(step), "param_states": {"old": 0}}}
    content = t5x_models.FromBase(model)(restored, made.state_dict())
    return jax.tree.map(jnp.asarray, made.restore_state(content))


def t5x_step(model):
    """T5X's training step: a gradient of all parameters, and the optimizer."""

    @jax.jit
    def step(optimizer, batch, rng=None):
        loss = jax.value_and_grad(model.loss_fn, has_aux=True)
        (_, metrics), gradients = loss(optimizer.target, batch, rng)
        return optimizer.apply_gradient(gradients, learning_rate=jnp.float32(7.0)), metrics

    return step


@pytest.fixture(scope="module")
def parity(load_script, tmp_path_factory):
    """The script, its model and its batches."""
    script = load_script("t5x_parity")
    model = script.make_model(str(tmp_path_factory.mktemp("parity")))
    return script, model, script.read_batches(model)


def test_losses_of_twenty_steps_are_those_of_t5x(parity, t5x):
    _, model, batches = parity
    step, optimizer, losses = t5x_step(model), first_optimizer(model), []
    for each in batches:
        optimizer, metrics = step(optimizer, each)
        losses.append(float(metrics["loss"].total))
        if len(losses) == 1:
            first = {name: m for name, m in metrics.items() if not name.startswith("timing/")}
            with jax.numpy_dtype_promotion("standard"):  # clu divides by whole numbers
                values = {name: float(metric.compute()) for name, metric in first.items()}
            assert values == pytest.approx(GOLDEN["metrics"], rel=1e-4)
    np.testing.assert_allclose(losses, GOLDEN["losses"], rtol=1e-4)


def test_our_trainer_has_the_losses_of_t5x(parity, tmp_path):
    script, model, batches = parity
    losses = script.losses_of_prompt_tuning(model, batches, str(tmp_path))
    np.testing.assert_allclose(losses, GOLDEN["losses"], rtol=1e-4)


def test_a_step_moves_the_prompt_and_nothing_else(wrapped, batch, t5x):
    old = first_optimizer(wrapped)
    new, _ = t5x_step(wrapped)(old, batch, jax.random.PRNGKey(1))
    assert jax.tree.structure(new) == jax.tree.structure(old)
    assert int(new.state.step) == 1001
    before, after = params.flatten(old.target), params.flatten(new.target)
    for path in before:
        has_changed = bool(jnp.any(before[path] != after[path]))
        assert has_changed == (path == "encoder/prompt/prompt"), path
    # As after a million steps: each moves the prompt by the rate, and T5X's own is not asked.
    step = after["encoder/prompt/prompt"] - before["encoder/prompt/prompt"]
    assert float(jnp.sqrt(jnp.mean(step**2))) == pytest.approx(0.3, rel=1e-3)


def test_a_state_that_is_saved_and_restored_goes_on(wrapped, batch, t5x):
    step, start = t5x_step(wrapped), first_optimizer(wrapped)
    saved = step(start, batch)[0]
    content = saved.state_dict()
    flat = traverse_util.flatten_dict(content, keep_empty_nodes=True)
    assert all(hasattr(leaf, "dtype") for leaf in flat.values())
    # The step, and what optax.adafactor keeps for the prompt: count, v_row, v_col and v.
    assert len(flat) == len(params.flatten(start.target)) + 5
    assert t5x_models.FromBase(wrapped)(content, {}, is_resuming=True) is content
    # T5X under Orbax reads what has no axes as float32.
    content["state"] = jax.tree.map(lambda x: x.astype(jnp.float32), content["state"])
    restored = start.restore_state(content)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)
    assert [x.dtype for x in jax.tree.leaves(restored)] == [x.dtype for x in jax.tree.leaves(saved)]
    jax.tree.map(np.testing.assert_array_equal, step(restored, batch)[0], step(saved, batch)[0])


def test_parameters_tell_their_axes_and_slots_follow(tiny):
    model = t5x_models.Model(
        tiny.model,
        tiny.vocabulary,
        optimizer=adafactor,
        trainable=(".*/prompt/.*", ".*/wo/kernel"),
    )
    variables = jax.eval_shape(model.get_initial_variables, jax.random.PRNGKey(0), {})
    axes = flax_partitioning.get_axis_names(variables["params_axes"])
    flat = params.flatten(axes)
    assert flat.keys() == params.flatten(variables["params"]).keys()
    assert flat["encoder/prompt/prompt"] == PartitionSpec("prompt", "prompt_embed")
    assert flat["decoder/layers_0/mlp/wo/kernel"] == PartitionSpec("mlp", "embed")
    optimizer = jax.eval_shape(model.optimizer_def.create, variables["params"])
    derived = model.optimizer_def.derive_logical_axes(optimizer, axes).state_dict()
    assert params.flatten(derived["target"]) == flat
    slots = params.flatten(derived["state"]["param_states"])
    trainable = ["encoder/prompt/prompt"]
    trainable += [f"{stack}/layers_0/mlp/wo/kernel" for stack in ("encoder", "decoder")]
    wanted = {"count": None}
    for path in trainable:  # v_row and v_col are placeholders where the moment is not factored
        wanted |= {f"v/{path}": flat[path], f"v_row/{path}": None, f"v_col/{path}": None}
    assert slots == {f"inner_states/trainable/inner_state/0/{k}": v for k, v in wanted.items()}


def test_the_prompt_starts_as_in_our_trainer(tiny, checkpoint):
    loaded = state.load_model(
        tiny.model,
        tiny.vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=initializers.ClassLabels(["good"]),
        seed=3,
    )
    model = t5x_models.Model(
        tiny.model,
        tiny.vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=initializers.ClassLabels(["good"]),
        seed=3,
    )
    restored = {"target": {"token_embedder": "stored"}, "state": {"step": 5, "param_states": 1}}
    # To answer, T5X wants no state of an optimizer.
    content = t5x_models.FromBase(model)(restored, {"target": {}, "state": {"step": None}})
    assert content["state"] == {"step": 5}
    assert content["target"]["token_embedder"] == "stored"
    ours = loaded.params["encoder"]["prompt"]["prompt"]
    np.testing.assert_array_equal(content["target"]["encoder"]["prompt"]["prompt"], ours)


def test_a_prompt_of_another_base_is_told(tiny, checkpoint, caplog):
    start = initializers.FromArray(np.zeros((4, 16), np.float32), "another")
    model = t5x_models.Model(
        tiny.model, tiny.vocabulary, checkpoint=checkpoint, prompt_initializer=start
    )
    model.added()
    assert "another base model" in caplog.text


def test_what_t5x_cannot_read_is_refused(tiny):
    with pytest.raises(ValueError, match=r"Hugging Face.*prompt-tuning export"):
        t5x_models.Model(tiny.model, tiny.vocabulary, checkpoint=tiny.checkpoint)
    with pytest.raises(ValueError, match="RANDOM_SEED is None"):
        t5x_models.Model(tiny.model, tiny.vocabulary, seed=None)


def test_the_prompt_is_written_at_each_save(wrapped, tmp_path):
    table = np.arange(64, dtype=np.float32).reshape(4, 16)
    target = {"encoder": {"prompt": {"prompt": jnp.asarray(table)}, "other": 1}}
    content, infos = {"target": target, "state": {"step": jnp.int32(1020)}}, object()
    hook = t5x_models.PromptFiles(wrapped, tmp_path, "reviews")
    assert hook(content, infos) == (content, infos)
    file = tmp_path / "prompts" / "prompt_1020.npy"
    np.testing.assert_array_equal(prompt_files.load(file), table)
    card = prompt_files.read_card(file)
    assert (card["task"], card["step"], card["length"]) == ("reviews", 1020, 4)
    loaded = state.load_model(
        wrapped.model, wrapped.vocabulary, checkpoint=wrapped.checkpoint, prompt_initializer=None
    )
    assert card["base_model_digest"] == loaded.digest


def random_weights(model):
    """As T5X initialises all."""
    return jax.jit(lambda rng: model.get_initial_variables(rng, {})["params"])(jax.random.key(0))


def test_answers_and_scores_are_those_of_the_model(tiny, wrapped, batch, t5x):
    weights, ids = random_weights(wrapped), batch["encoder_input_tokens"]
    tokens, scores = jax.jit(tiny.model.predict, static_argnums=2)(weights, ids, 5)
    answer = jax.jit(wrapped.predict_batch_with_aux)
    decodes, aux = answer(weights, batch, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(decodes, tokens[:, 0])
    np.testing.assert_array_equal(aux["scores"], scores[:, 0])
    np.testing.assert_array_equal(jax.jit(wrapped.predict_batch)(weights, batch), decodes)
    np.testing.assert_array_equal(
        jax.jit(wrapped.score_batch)(weights, batch), jax.jit(tiny.model.score)(weights, batch)
    )
    loss, _ = jax.jit(wrapped.eval_fn)(weights, batch)
    assert loss == jax.jit(tiny.model.loss)(weights, batch)[0]
    dropped, _ = jax.jit(wrapped.loss_fn)(weights, batch, jax.random.PRNGKey(0))
    assert loss != dropped


def test_labels_are_ranked(tiny, batch):
    decoder = decoding.LabelRanking(("good", "bad"))
    ranking = dataclasses.replace(tiny.model, decoder=decoder)
    model = t5x_models.Model(ranking, tiny.vocabulary)
    weights, ids = random_weights(model), batch["encoder_input_tokens"]
    labels = labels_lib.label_ids(decoder.labels, tiny.vocabulary)
    tokens, scores = jax.jit(ranking.rank_labels)(weights, ids, labels)
    decodes, aux = jax.jit(model.predict_batch_with_aux)(weights, batch)
    np.testing.assert_array_equal(decodes, tokens[:, 0])
    np.testing.assert_array_equal(aux["scores"], scores[:, 0])


def packed(batch):
    """Each two rows in one, as seqio packs."""
    rows = {name: x.reshape(2, -1) for name, x in batch.items()}
    for side, tokens in (("encoder", "encoder_input_tokens"), ("decoder", "decoder_input_tokens")):
        length = batch[tokens].shape[1]
        segments = np.repeat([[1, 2]], length, axis=1).repeat(2, axis=0)
        filled = (
            rows["encoder_input_tokens"] if side == "encoder" else rows["decoder_target_tokens"]
        )
        rows[f"{side}_segment_ids"] = np.where(filled > 0, segments, 0).astype(np.int32)
        positions = np.tile(np.arange(length, dtype=np.int32), (2, 2))
        rows[f"{side}_positions"] = np.where(filled > 0, positions, 0)
    return rows


@pytest.mark.parametrize(
    "kind", [model_lib.EncoderDecoderModel, decoder_only_model.DecoderOnlyModel]
)
def test_packed_rows_have_the_loss_of_the_examples(tiny, batch, t5x, kind):
    model = t5x_models.Model(kind(tiny.model.config, prompt_method.Prompt(4)), tiny.vocabulary)
    weights, loss = random_weights(model), jax.jit(model.eval_fn)
    alone, _ = loss(weights, batch)
    together, metrics = loss(weights, packed(batch))
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert float(metrics["effective_batch_size/encoder"].total) == 4
    assert jax.jit(model.predict_batch)(weights, batch).shape == (4, 5)


def test_t5x_finds_the_data_and_its_vocabulary(wrapped, tiny_job):
    import seqio

    source = sources.TaskSource(train_file=str(tiny_job.folder / "train.tsv"))
    name = t5x_models.task(source, "train", wrapped.vocabulary)
    output = seqio.get_mixture_or_task(name).output_features
    assert output["inputs"].vocabulary == wrapped.input_vocabulary
    assert output["targets"].vocabulary == wrapped.output_vocabulary
    converter = wrapped.FEATURE_CONVERTER_CLS(pack=True, use_custom_packing_ops=False)
    lengths = converter.get_model_feature_lengths({"inputs": 8, "targets": 2})
    assert converter.pack and lengths["encoder_input_tokens"] == 12


def test_importing_the_models_imports_neither_t5x_nor_seqio():
    program = "import sys; import prompt_tuning.t5x.models; print(sorted(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"'t5x'", "'seqio'", "'tensorflow'", "'clu'"} & set(
        shown.stdout.strip("[]\n").split(", ")
    )
