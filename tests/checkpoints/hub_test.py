"""Names of the Hugging Face hub. The hub here is a stand-in: tests have no network."""

import json
import os
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning import params
from prompt_tuning.checkpoints import base_model, hub
from prompt_tuning.cli import main as cli
from prompt_tuning.data.tokenizers import tokenizer_loader


@pytest.fixture
def asked(monkeypatch, tiny, tmp_path):
    """A hub with the model google/tiny; what it was asked."""
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        if name != "google/tiny":
            raise RuntimeError("404")
        return shutil.copytree(tiny.checkpoint, tmp_path / "cache", dirs_exist_ok=True)

    stand_in = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    monkeypatch.chdir(tmp_path)
    hub.folder.cache_clear()
    yield asked
    hub.folder.cache_clear()


def test_a_name_is_a_model(asked, tiny):
    shapes = params.shapes(tiny.base)
    base_model.check_config("google/tiny", tiny.model.config)
    found, step = base_model.load("google/tiny", shapes)
    assert step == base_model.read_step("google/tiny") == 1000
    for path, array in params.flatten(tiny.base).items():
        np.testing.assert_array_equal(params.flatten(found)[path], array)
    name = "decoder/decoder_norm/scale"
    array = base_model.read_variable("google/tiny", name)
    np.testing.assert_array_equal(array, params.flatten(tiny.base)[name])
    # The name's, not that of a folder in a cache.
    copy = shutil.copytree(tiny.checkpoint, "elsewhere/tiny")
    assert base_model.digest("google/tiny", shapes) == base_model.digest(copy, shapes)
    # No program, nothing pickled, and once.
    [(name, patterns)] = asked
    assert name == "google/tiny"
    assert sorted(patterns) == [
        "added_tokens.json",
        "config.json",
        "generation_config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_folder_is_taken_before_a_name(asked, tiny):
    shutil.copytree(tiny.checkpoint, "google/tiny")
    assert base_model.read_step("google/tiny") == 1000
    assert hub.tokenizer_folder("google/tiny") == "google/tiny"
    assert asked == []


def test_what_is_no_name_is_a_path(asked, tmp_path):
    for path in (
        "tiny",
        "a/b/c",
        "/google/tiny",
        "../tiny",
        "google/",
        "gs://b/tiny",
        tmp_path / "x",
    ):
        assert not hub.is_name(path)
    with pytest.raises(FileNotFoundError, match=r"does not exist; .* Set INITIAL_CHECKPOINT_PATH"):
        base_model.read_step("a/b/c")
    assert asked == []


def test_what_the_hub_does_not_give_is_told(asked):
    with pytest.raises(
        FileNotFoundError,
        match=r"google/none is not a local folder, .*\(404\); expected .* Correct INITIAL",
    ):
        base_model.read_step("google/none")


def test_without_the_library_is_told(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        FileNotFoundError, match=r"huggingface_hub, which .* is not installed; .*pip install"
    ):
        base_model.read_step("google/tiny")


def test_a_vocabulary_lies_beside_its_model(asked, tiny, tmp_path):
    assert hub.tokenizer_folder(tiny.checkpoint) == tiny.checkpoint
    assert hub.tokenizer_folder("google/tiny") == str(tmp_path / "cache")
    os.remove("cache/spiece.model")
    os.remove("cache/tokenizer_config.json")
    with pytest.raises(
        FileNotFoundError, match=r"google/tiny has none of spiece\.model, .*set VOCABULARY_FILE"
    ):
        hub.tokenizer_folder("google/tiny")


def test_a_model_of_the_hub_is_tuned(asked, tiny_job):
    os.mkdir("models")
    shutil.copy(tiny_job.folder / "tiny.gin", "models")
    arguments = type(tiny_job)(pathlib.Path("models")).command(
        "train",
        "models/hugging_face.gin",
        "runs/train.gin",
        INITIAL_CHECKPOINT_PATH="google/tiny",
        MODEL_DIR="run",
        TRAIN_STEPS=1001,
    )
    result = cli.run(arguments)
    assert result["step"] == 1001 and len(asked) == 1


def test_a_folder_without_a_sentencepiece_model_is_tuned(asked, tiny, tiny_job):
    """What transformers 5 writes: tokenizer.json alone, here with a token that was added."""
    shutil.copytree(tiny.checkpoint, "model")
    tokenizer = tokenizer_loader.load("model").tokenizer
    tokenizer.add_tokens(["filmset"])
    tokenizer.save("model/tokenizer.json")
    os.remove("model/spiece.model")
    os.mkdir("models")
    shutil.copy(tiny_job.folder / "tiny.gin", "models")
    job = type(tiny_job)(pathlib.Path("models"))
    files, model = ["models/hugging_face.gin"], {"INITIAL_CHECKPOINT_PATH": "model"}
    trained = job.command(
        "train", *files, "runs/train.gin", MODEL_DIR="run", TRAIN_STEPS=1001, **model
    )
    assert cli.run(trained)["step"] == 1001
    asks = {"PROMPT_FILE": "run/prompts/best.npy", **model}
    scores = cli.run(job.command("eval", *files, "runs/eval.gin", EVAL_OUTPUT_DIR="run", **asks))
    assert scores
    (path,) = cli.run(
        job.command("infer", *files, "runs/infer.gin", INFER_OUTPUT_DIR="run", **asks)
    )
    rows = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    loaded = pt.load_model("model")
    assert loaded.vocabulary.size - 1 in loaded.vocabulary.encode("a filmset.")
    texts = [row["inputs"]["inputs_pretokenized"] for row in rows]
    answers = loaded.generate(texts, pt.load_prompt("run/prompts/best.npy"), max_length=8)
    assert answers == [row["prediction"] for row in rows]
