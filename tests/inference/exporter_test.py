"""Exported models equal their source in each format; mismatched settings are refused."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning import params
from prompt_tuning.checkpoints import base_model
from prompt_tuning.checkpoints.formats import huggingface, t5x
from prompt_tuning.inference import exporter
from prompt_tuning.models import decoder_only_model, model
from prompt_tuning.training import state


@pytest.fixture
def export(tiny, tmp_path):
    def make(**settings):
        defaults = {
            "model": tiny.model,
            "vocabulary": tiny.vocabulary,
            "checkpoint": tiny.checkpoint,
            "output_dir": str(tmp_path / "out"),
        }
        return exporter.export(**(defaults | settings))

    return make


@pytest.fixture
def finished(tiny, tmp_path):
    """Returns a function that saves a run of the tiny model: its MODEL_DIR and parameters."""

    def make(make_run, trainable, name="run"):
        loaded = state.load_model(tiny.model, tiny.vocabulary, checkpoint=tiny.checkpoint)
        tuning = make_run(loaded, folder=name, trainable=trainable)
        changed = jax.tree.map(lambda x: x + 1.0, tuning.state.trainable)
        step = jnp.asarray(1003)
        tuning.state = tuning.state._replace(step=step, trainable=changed)
        tuning.save()
        return str(tuning.model_dir), params.flatten(jax.device_get(tuning.params()))

    return make


def read(folder, tiny, dtype="float32"):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), tiny.base)
    return params.flatten(base_model.load(folder, shapes)[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "folder"), [("t5x", "checkpoint_1000"), ("huggingface", "model_1000")]
)
def test_base_model_is_exported_in_each_format(export, tiny, tmp_path, name, folder, dtype):
    exported = export(export_format=name, dtype=dtype)
    assert exported == str(tmp_path / "out" / folder)
    assert {"t5x": t5x, "huggingface": huggingface}[name].is_checkpoint(exported)
    assert base_model.read_step(exported) == 1000
    with base_model.opened(exported) as stored:
        assert {str(leaf.dtype) for leaf in stored.values()} == {dtype}
    for path, array in params.flatten(tiny.base).items():
        np.testing.assert_array_equal(read(exported, tiny, dtype)[path], array.astype(dtype))
    with pytest.raises(FileExistsError, match="EXPORT_DIR"):
        export(export_format=name)


def test_trained_weights_replace_those_of_the_base(export, finished, make_run, tiny):
    folder, trained = finished(make_run, ("decoder/.*", ".*/prompt/.*"))
    exported = read(export(model_dir=folder), tiny)
    assert exported.keys() == params.flatten(tiny.base).keys()
    for path, array in exported.items():
        np.testing.assert_array_equal(array, trained[path])
        changed = not np.array_equal(array, params.flatten(tiny.base)[path])
        assert changed == path.startswith("decoder/"), path


def test_fully_trained_model_needs_no_checkpoint(export, finished, make_run, tiny):
    folder, trained = finished(make_run, (".*",))
    result = export(model_dir=folder, checkpoint=None, export_format="huggingface")
    assert result.endswith("model_1003")
    for path, array in read(result, tiny).items():
        np.testing.assert_array_equal(array, trained[path])


def test_export_of_a_prompt_run_contains_the_base_only(export, finished, make_run, tiny):
    folder, _ = finished(make_run, (".*/prompt/.*",))
    exported = read(export(model_dir=folder), tiny)
    for path, array in params.flatten(tiny.base).items():
        np.testing.assert_array_equal(exported[path], array)


def test_mismatched_settings_are_refused(export, finished, make_run, tiny, tmp_path):
    folder, _ = finished(make_run, ("decoder/.*",))
    copy = shutil.copytree(tiny.checkpoint, tmp_path / "another")
    weights = safetensors.numpy.load_file(copy / "model.safetensors")
    other = {name: tensor * 1.1 for name, tensor in weights.items()}
    safetensors.numpy.save_file(other, copy / "model.safetensors")
    with pytest.raises(ValueError, match=r"trained on another base .*another"):
        export(model_dir=folder, checkpoint=str(copy))
    with pytest.raises(ValueError, match="trained on another base"):
        export(model_dir=folder, checkpoint=None)
    with pytest.raises(ValueError, match=r"MODEL_DIR .*nothing has no checkpoint_<step>"):
        export(model_dir=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="EXPORT_FORMAT is 'pt'; expected one of"):
        export(export_format="pt")
    with pytest.raises(ValueError, match="EXPORT_DTYPE is 'float16'; expected one of"):
        export(dtype="float16")
    for start_step in (None, 1):
        with pytest.raises(
            ValueError, match="no model to export: INITIAL_CHECKPOINT_PATH is not set"
        ):
            export(checkpoint=None, start_step=start_step)
    assert not (tmp_path / "out").exists()


def test_copied_checkpoint_is_the_same_base(export, finished, make_run, tiny, tmp_path):
    folder, trained = finished(make_run, ("decoder/.*",))
    copy = shutil.copytree(tiny.checkpoint, tmp_path / "copy")
    exported = read(export(model_dir=folder, checkpoint=str(copy)), tiny)
    path = "decoder/decoder_norm/scale"
    np.testing.assert_array_equal(exported[path], trained[path])


def test_settings_are_checked_before_weights_are_read(export, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(base_model, "load", lambda *_: pytest.fail("the weights were read"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to EXPORT_DIR .*file"):
        export(output_dir=str(tmp_path / "file" / "out"))
    tokenizer = tmp_path / "with_sentinels.model"
    tokenizer.write_bytes(b"tokenizer <extra_id_0>")
    vocabulary = dataclasses.replace(tiny.vocabulary, path=str(tokenizer))
    with pytest.raises(ValueError, match="already contains the extra ids"):
        export(vocabulary=vocabulary, export_format="huggingface")
    config = dataclasses.replace(tiny.model.config, num_encoder_layers=0)
    decoder = decoder_only_model.DecoderOnlyModel(config)
    with pytest.raises(ValueError, match="not support a decoder-only T5; expected 't5x'"):
        export(model=decoder, export_format="huggingface")


def test_checkpoint_without_a_step_requires_start_step(export, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(base_model, "read_step", lambda path: None)
    with pytest.raises(ValueError, match=r"does not contain its step.* expected START_STEP"):
        export()
    assert export(start_step=7).endswith("checkpoint_7")


def test_run_of_another_model_size_is_refused(export, finished, make_run, tiny):
    folder, _ = finished(make_run, (".*",))
    config = dataclasses.replace(tiny.model.config, mlp_dim=32)
    wider = dataclasses.replace(tiny.model, config=config)
    with pytest.raises(ValueError, match=r"mlp/w.*MODEL_DIR .* has shape .*16.*; expected .*32"):
        exporter.export(
            model=wider,
            vocabulary=tiny.vocabulary,
            checkpoint=None,
            model_dir=folder,
            output_dir=f"{folder}/out",
        )


@pytest.mark.parametrize(("is_tied", "is_scaled"), [(True, False), (False, True), (True, True)])
def test_logits_are_the_same_in_each_format(tiny, tmp_path, rng, is_tied, is_scaled):
    config = dataclasses.replace(
        tiny.model.config, logits_via_embedding=is_tied, scale_decoder_outputs=is_scaled
    )
    network = model.EncoderDecoderModel(config)
    weights = network.init(jax.random.key(0))
    ids = rng.integers(2, 100, (2, 5), np.int32)
    batch = {
        "encoder_input_tokens": ids,
        "decoder_input_tokens": np.pad(ids, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": ids,
    }
    expected = jax.jit(network.logits)(weights, batch)
    if is_tied != is_scaled:
        other = dataclasses.replace(config, scale_decoder_outputs=not is_scaled)
        unlike = jax.jit(model.EncoderDecoderModel(other).logits)(weights, batch)
        assert np.max(np.abs(unlike - expected)) > 0.01
    for export_format in exporter.NAMES:
        folder, settings = tmp_path / export_format, {"step": 3, "dtype": "float32"}
        exporter.write(
            folder,
            params.flatten(weights),
            network,
            tiny.vocabulary,
            export_format=export_format,
            **settings,
        )
        read = base_model.read_config(folder)
        if export_format == exporter.T5X:  # T5X scales only tied logits.
            read = dataclasses.replace(
                config, logits_via_embedding=is_tied and is_scaled, scale_decoder_outputs=None
            )
        else:
            assert (read.logits_via_embedding, read.scale_decoder_outputs) == (is_tied, is_scaled)
        again = model.EncoderDecoderModel(read)
        loaded, _ = base_model.load(folder, params.shapes(again.init(jax.random.key(1))))
        np.testing.assert_allclose(jax.jit(again.logits)(loaded, batch), expected, atol=2e-5)
