"""Conversion to and from PEFT: equal logits, equal files, and unsupported methods."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning import params
from prompt_tuning.checkpoints import base_model, prompt_files
from prompt_tuning.checkpoints.formats import huggingface, peft
from prompt_tuning.cli import main as cli
from prompt_tuning.inference import converter
from prompt_tuning.methods import (
    attention_pattern,
    combination,
    ia3,
    initializers,
    per_layer,
    prefix,
)
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoder_only_model
from prompt_tuning.models import model as model_lib

GATED, RELU = "t5_gated_gelu_untied", "t5_relu_tied"
PROMPTS = [(GATED, x) for x in ("prompt", "prompt_encoder_only", "p_tuning_mlp", "p_tuning_lstm")]
SCALINGS = [(GATED, "ia3"), (RELU, "ia3"), (GATED, "ia3_elsewhere")]
PREFIXES = [(GATED, "prefix"), (RELU, "prefix"), (RELU, "prefix_projected")]
LORAS = [(GATED, "lora"), (RELU, "lora_everywhere"), (GATED, "lora_patterns")]
SUFFIXES = (
    dict.fromkeys(PROMPTS, ".npy")
    | dict.fromkeys([*SCALINGS, *PREFIXES], ".npz")
    | dict.fromkeys(LORAS, "")
)


@pytest.fixture
def convert(vocabulary, tmp_path):
    """Returns a function of config, prompt file, output name and settings: the output's path."""

    def make(config, prompt_file, name, **settings):
        defaults = {
            "model": model_lib.EncoderDecoderModel(config, prompt_method.Prompt(4)),
            "vocabulary": vocabulary,
            "checkpoint": None,
        }
        return converter.convert(
            prompt_file=str(prompt_file), output=str(tmp_path / name), **(defaults | settings)
        )

    return make


def assert_same_logits(model, weights, batch, expected):
    """Compares logits at targets; PEFT attends to other positions at padding."""
    real = batch["decoder_target_tokens"] > 0
    logits = np.asarray(jax.jit(model.logits)(weights, batch))
    np.testing.assert_allclose(logits[real], expected[real], atol=2e-5)


def with_prompt(batch, config, length):
    """Returns the batch with soft tokens at the start of each row."""
    ids = batch["encoder_input_tokens"]
    soft = np.tile(config.vocab_size + np.arange(length, dtype=np.int32), (len(ids), 1))
    return batch | {"encoder_input_tokens": np.concatenate([soft, ids], axis=1)}


@pytest.mark.parametrize(("base", "name"), PROMPTS)
def test_converted_prompt_has_the_logits_of_peft(peft_adapter, convert, base, name):
    adapter = peft_adapter(base, name)
    config = adapter.base.config
    converted = convert(config, adapter.folder, "prompt.npy")
    prompt = prompt_files.load(converted, (4, config.embed_dim))
    assert (
        prompt_files.read_card(converted)["length"] == 4
        and prompt_files.place(converted) == "prefix"
    )
    model = model_lib.EncoderDecoderModel(config, prompt_method.Prompt(4))
    added = params.unflatten({model.prompt_path: prompt})
    batch = with_prompt(adapter.batch, config, 4)
    assert_same_logits(model, params.merge(adapter.base.params, added), batch, adapter.logits)


def assert_leaves_have_logits_of_peft(model, converted, adapter):
    """The converted file holds all adapter parameters of the model, which then has PEFT's logits."""
    initializer = prompt_files.initializer(converted)
    assert isinstance(initializer, initializers.FromLeaves)
    assert initializer.leaves.keys() == model.adapter_paths
    weights = params.merge(adapter.base.params, params.unflatten(dict(initializer.leaves)))
    assert_same_logits(model, weights, adapter.batch, adapter.logits)


@pytest.mark.parametrize(("base", "name"), SCALINGS)
def test_converted_ia3_has_the_logits_of_peft(peft_adapter, convert, base, name):
    adapter = peft_adapter(base, name)
    converted = convert(adapter.base.config, adapter.folder, "scaling.npz")
    model = model_lib.EncoderDecoderModel(adapter.base.config, ia3.IA3())
    assert prompt_files.length(converted) == 0
    assert_leaves_have_logits_of_peft(model, converted, adapter)


@pytest.mark.parametrize(("base", "name"), PREFIXES)
def test_converted_prefix_has_the_logits_of_peft_and_round_trips(
    peft_adapter, convert, tmp_path, base, name
):
    adapter = peft_adapter(base, name)
    config = adapter.base.config
    converted = convert(config, adapter.folder, "prefix.npz")
    model = model_lib.EncoderDecoderModel(config, prefix.Prefix(4))
    assert prompt_files.length(converted) == 4
    assert_leaves_have_logits_of_peft(model, converted, adapter)
    convert(config, converted, "written", base_model_name="google/t5")
    again = prompt_files.load_leaves(convert(config, tmp_path / "written", "again.npz"))
    first = prompt_files.load_leaves(converted)
    assert again.keys() == first.keys()
    for path, leaf in again.items():
        np.testing.assert_array_equal(leaf, first[path], strict=True)


@pytest.fixture
def saved(vocabulary, tmp_path):
    """Returns a function that saves a golden as a Hugging Face folder of step 7."""

    def save(golden):
        folder, settings = tmp_path / "base", {"step": 7, "dtype": "float32"}
        vocabulary_file = vocabulary.path
        huggingface.save(
            folder, golden.params, golden.config, vocabulary_file=vocabulary_file, **settings
        )
        return str(folder)

    return save


@pytest.mark.parametrize(("base", "name"), LORAS)
def test_merged_lora_has_the_logits_of_peft(peft_adapter, convert, saved, base, name):
    adapter = peft_adapter(base, name)
    config, checkpoint = adapter.base.config, saved(adapter.base)
    converted = convert(config, adapter.folder, "merged", checkpoint=checkpoint)
    base_model.check_config(converted, config)
    assert base_model.read_step(converted) == 7
    loaded, _ = base_model.load(converted, params.shapes(adapter.base.params))
    assert_same_logits(model_lib.EncoderDecoderModel(config), loaded, adapter.batch, adapter.logits)


@pytest.mark.parametrize(("base", "name"), [PROMPTS[1], SCALINGS[0]])
def test_written_adapter_equals_the_file_that_peft_writes(
    peft_adapter, convert, tmp_path, base, name
):
    adapter = peft_adapter(base, name)
    suffix = SUFFIXES[base, name]
    converted = convert(adapter.base.config, adapter.folder, f"converted{suffix}")
    written = convert(adapter.base.config, converted, "written", base_model_name="google/t5")
    texts = [
        json.loads((x / peft.CONFIG).read_text()) for x in (adapter.folder, tmp_path / "written")
    ]
    for text in texts:
        text.pop("peft_version", None)
        text["target_modules"] = sorted(text.get("target_modules", ()))
    assert texts[1].pop("base_model_name_or_path") == "google/t5"
    assert texts[0].pop("base_model_name_or_path") is None
    assert texts[1] == texts[0]
    files = [(x / peft.WEIGHTS).read_bytes() for x in (adapter.folder, tmp_path / "written")]
    assert files[1] == files[0]
    assert {x.name for x in (tmp_path / "written").iterdir()} == {peft.CONFIG, peft.WEIGHTS}
    assert written == str(tmp_path / "written")


@pytest.mark.parametrize(("base", "name"), SUFFIXES)
def test_output_suffix_must_match_the_content(peft_adapter, convert, tmp_path, base, name):
    adapter = peft_adapter(base, name)
    for suffix in {".npy", ".npz", ""} - {SUFFIXES[base, name]}:
        with pytest.raises(ValueError, match=r"OUTPUT is '.*'; expected .* for the .* Set OUTPUT"):
            convert(adapter.base.config, adapter.folder, f"out{suffix}")
    assert not list(tmp_path.glob("out*"))


CONFIG = config_lib.T5Config(24, 8, 2, 3, 10, 2, 1)


def prompt_file(tmp_path, width=8, **card):
    prompt_files.save(tmp_path / "p.npy", np.ones((4, width)), card)
    return tmp_path / "p.npy"


def test_methods_that_peft_does_not_support_are_refused(convert, tmp_path):
    file = prompt_file(tmp_path, place="suffix")
    with pytest.raises(
        ValueError, match=r"has the place 'suffix' .*expected 'prefix'.*PROMPT_PLACE"
    ):
        convert(CONFIG, file, "out")
    leaves = {
        "encoder/prompt/prompt": np.ones((4, 8)),
        "encoder/layers_1/prompt/prompt": np.ones((4, 8)),
    }
    prompt_files.save_leaves(tmp_path / "p.npz", leaves, {"length": 4})
    with pytest.raises(
        ValueError, match=r"(?s)surplus: encoder/layers_1/prompt.*PEFT supports .* IA3 and prefix"
    ):
        layered = model_lib.EncoderDecoderModel(
            CONFIG, combination.combine([prompt_method.Prompt(4), per_layer.LayerPrompt(4)])
        )
        convert(CONFIG, tmp_path / "p.npz", "out", model=layered)
    pattern = attention_pattern.AttentionPattern(["prompt->prompt;causal"])
    method = combination.combine([prompt_method.Prompt(4), pattern])
    masked = model_lib.EncoderDecoderModel(CONFIG, method)
    with pytest.raises(ValueError, match=r"ATTENTION_PATTERN is set.*attention_pattern\.gin"):
        convert(CONFIG, prompt_file(tmp_path), "out", model=masked)
    with pytest.raises(ValueError, match=r"MODEL is decoder-only.*expected an encoder-decoder"):
        model = decoder_only_model.DecoderOnlyModel(CONFIG, prompt_method.Prompt(4))
        convert(CONFIG, prompt_file(tmp_path), "out", model=model)
    assert not (tmp_path / "out").exists()


def test_adapters_of_another_model_are_refused(peft_adapter, convert, saved, tmp_path):
    adapter = peft_adapter(GATED, "prompt")
    with pytest.raises(
        ValueError, match=r"vectors of width 24; expected 8, the width of the model"
    ):
        convert(CONFIG, adapter.folder, "out.npy")
    with pytest.raises(ValueError, match=r"vectors of width 24; expected 8"):
        convert(CONFIG, prompt_file(tmp_path, 24), "out")
    for name, output in (("ia3", "out.npz"), ("lora", "out")):
        other = peft_adapter(GATED, name)
        # A smaller model; a model with fewer layers.
        for config in (CONFIG, other.base.config):
            same_width = config is not CONFIG
            config = (
                config_lib.dataclasses.replace(config, num_decoder_layers=1)
                if same_width
                else config
            )
            weights = jax.jit(model_lib.EncoderDecoderModel(config).init)(jax.random.key(0))
            checkpoint = saved(other.base._replace(params=weights, config=config))
            with pytest.raises(ValueError, match=r"adapter_model.safetensors contains 'base"):
                convert(config, other.folder, output, checkpoint=checkpoint)
            base_model.epath.Path(checkpoint).rmtree()
    assert not list(tmp_path.glob("out*"))


def test_lora_requires_a_checkpoint_and_a_step(peft_adapter, convert, saved, tmp_path, monkeypatch):
    adapter = peft_adapter(GATED, "lora")
    config, checkpoint = adapter.base.config, saved(adapter.base)
    with pytest.raises(ValueError, match=r"INITIAL_CHECKPOINT_PATH is not set.*Set INITIAL_CHECK"):
        convert(config, adapter.folder, "out")
    monkeypatch.setattr(base_model, "read_step", lambda path: None)
    with pytest.raises(ValueError, match=r"START_STEP is not set.*Set START_STEP"):
        convert(config, adapter.folder, "out", checkpoint=checkpoint)
    assert not (tmp_path / "out").exists()
    converted = convert(config, adapter.folder, "out", checkpoint=checkpoint, start_step=11)
    assert huggingface.read_step(converted) == 11


def test_existing_output_is_not_changed(convert, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(FileExistsError, match="set another OUTPUT"):
        convert(CONFIG, prompt_file(tmp_path), "out")
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["mine"]


def test_failed_write_leaves_no_files(convert, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(safetensors.numpy, "save", fail)
    with pytest.raises(OSError, match="the disk is full"):
        convert(CONFIG, prompt_file(tmp_path), "out")
    assert not list(tmp_path.glob("out*"))


def test_command_converts_both_ways_and_evaluates_the_adapter(tiny_job, tmp_path, rng):
    table = rng.normal(size=(4, 16)).astype(np.float32)
    prompt_files.save(tmp_path / "p.npy", table, {})
    to_adapter = {"PROMPT_FILE": tmp_path / "p.npy", "OUTPUT": tmp_path / "adapter"}
    assert cli.run(tiny_job.command("convert", **to_adapter)) == str(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / peft.CONFIG).read_text())
    assert config["base_model_name_or_path"].endswith("/model")
    from_adapter = {"PROMPT_FILE": tmp_path / "adapter", "OUTPUT": tmp_path / "back.npy"}
    cli.run(tiny_job.command("convert", **from_adapter))
    np.testing.assert_array_equal(np.load(tmp_path / "back.npy"), table)
    scores = [
        cli.run(
            tiny_job.command(
                "eval", PROMPT_FILE=tmp_path / name, EVAL_OUTPUT_DIR=tmp_path / f"of_{name}"
            )
        )
        for name in ("p.npy", "adapter")
    ]
    assert scores[0] == scores[1]


def test_adapters_in_subfolders_are_listed(convert, tmp_path):
    for name in ("letters", "reviews"):
        folder = tmp_path / "run/checkpoint-40" / name
        peft.save_prompt(
            folder, np.ones((4, 8), np.float32), base_model=None, num_layers=2, num_heads=2
        )
    with pytest.raises(ValueError, match=r"with the PEFT adapters .*40/letters, .*40/reviews;"):
        convert(CONFIG, tmp_path / "run", "out.npy")
