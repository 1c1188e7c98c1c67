"""The shipped gin files: what their headers say is true, and they fit together.

Those in t5x/ are read with stand-ins for what they bind of T5X, which have the settings that
scripts/t5x_parity.py found in T5X itself.
"""

import copy
import dataclasses
import importlib
import inspect
import json
import os
import pathlib
import re
import runpy
import shlex
import sys
import types

import gin
import numpy as np
import pytest
import setuptools
from flax import serialization

import prompt_tuning
from prompt_tuning import assets
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.cli import commands, gin_config, gin_files
from prompt_tuning.cli import main as cli
from prompt_tuning.inference import exporter
from prompt_tuning.methods import (
    attention_pattern,
    ia3,
    initializers,
    multi_task,
    per_layer,
    prefix,
    wayward,
)
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import model
from prompt_tuning.t5x import models as t5x_models

FOLDER = pathlib.Path(prompt_tuning.__file__).parents[1] / "gin"
FILES = sorted(str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*.gin"))
OF_T5X = [file for file in FILES if file.startswith("t5x/")]
OURS = [file for file in FILES if file not in OF_T5X]
PARTS = ("Provides", "Requires", "Example", "Result")
MACRO = r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|\b[A-Z]{3,}\b"
# What a header may write in capitals that is no macro.
WORDS = {"TSV", "CSV", "JSONL", "PEFT", "TFDS"}
PROMPTS = {
    "from_class_labels": (initializers.ClassLabels, {"CLASS_LABELS": ["good"]}),
    "from_class_labels_numpy": (
        initializers.OfTable,
        {"CLASS_LABELS": ["good"], "EMBEDDING_FILE": "prompt.npy"},
    ),
    "from_t5x": (initializers.FromArray, {"PROMPT_CHECKPOINT": "checkpoint_3"}),
    "from_file": (initializers.FromArray, {"PROMPT_FILE": "prompt.npy"}),
    "random_uniform": (initializers.RandomUniform, {}),
    "from_sampled_vocab": (initializers.SampledVocabulary, {}),
    "from_sampled_vocab_numpy": (initializers.OfTable, {"EMBEDDING_FILE": "prompt.npy"}),
    "from_embedded_string": (initializers.String, {"PROMPT_TEXT": "good film"}),
}
# Settings that are not the defaults, and what they make of the model.
METHODS = {
    "per_layer": (
        {"PER_LAYER_COMBINE": "add"},
        [prompt_method.Prompt(4), per_layer.LayerPrompt(4, combine="add")],
    ),
    "ia3": ({}, [ia3.IA3()]),
    "prefix": ({}, [prefix.Prefix(4)]),
    "attention_pattern": (
        {"PROMPT_ATTENTION": ["prompt->prompt;causal"]},
        [
            prompt_method.Prompt(4),
            attention_pattern.AttentionPattern(["prompt->prompt;causal"]),
        ],
    ),
    "multi_task": (
        {
            "NUM_TASKS": 3,
            "MULTI_TASK_MODE": "concatenate",
            "TASK_PROMPT_LENGTH": 2,
            "TASK_PROMPT_FEATURES": 5,
            "PROMPT_PLACE": "suffix",
        },
        [multi_task.MultiTaskPrompt(4, 3, "concatenate", 2, 5, "suffix")],
    ),
}
REQUIRED = {
    "train": {"MODEL_DIR": "run", "TRAIN_STEPS": 1003},
    "eval": {"EVAL_OUTPUT_DIR": "scores", "PROMPT_FILE": "prompt.npy"},
    "infer": {"INFER_OUTPUT_DIR": "answers", "PROMPT_FILE": "prompt.npy"},
    "pretrain": {"MODEL_DIR": "run", "TRAIN_STEPS": 3, "TEXT_FILES": ["text.txt"]},
    "lm_adapt": {"MODEL_DIR": "run", "TRAIN_STEPS": 1003, "TEXT_FILES": ["text.txt"]},
    "describe": {},
}


def header(file):
    """The title and the PARTS of a file's header."""
    text = gin_config.header(FOLDER / file)
    parts = re.split(rf"^({'|'.join(PARTS)}):\s", text, flags=re.M)
    return parts[0], dict(zip(parts[1::2], parts[2::2], strict=True))


def command(file):
    """The arguments of `prompt-tuning`, or of `python -m`, in a header's example."""
    words = shlex.split(header(file)[1]["Example"].replace("\\\n", " "))
    program = ["python", "-m"] if file in OF_T5X else ["prompt-tuning"]
    assert words[: len(program)] == program
    return words[len(program) :]


def assigned(file):
    """{macro: value as text} of a file and of what it includes."""
    text = (FOLDER / file).read_text()
    included = [assigned(each) for each in re.findall(r"^include '(.+)'", text, re.M)]
    macros = {name: value for each in included for name, value in each.items()}
    return macros | dict(re.findall(r"^([A-Z][A-Z0-9_]*) = (.*)", text, re.M))


# Macros that a file gives for other commands than the one in its header.
READ_ELSEWHERE = {
    "describe": {"INITIAL_CHECKPOINT_PATH", "PROMPT_INITIALIZER", "VOCABULARY"},
    "tasks": {"INITIAL_CHECKPOINT_PATH"},
    "parameters": {"INITIAL_CHECKPOINT_PATH"},
    **{verb: {"TASK_FEATURE_LENGTHS"} for verb in ("convert", "export", "neighbors", "recycle")},
}


def macros_in(text):
    return set(re.findall(MACRO, text)) - WORDS


def value(name):
    """What gin builds for a macro or a parameter."""
    return copy.deepcopy(gin.query_parameter(name))


def built_arguments(verb):
    """{parameter: what gin builds} of a command; those of its PredictorConfig, if it has one, too."""
    path, name = commands.VERBS[verb].module, commands.VERBS[verb].function
    built = {
        each: value(f"{path}.{name}.{each}")
        for each in inspect.signature(getattr(importlib.import_module(path), name)).parameters
        if each not in ("config_text", "as_json", "mesh")
    }
    if "config" in built:
        path = "prompt_tuning.inference.predictor_config.PredictorConfig"
        fields = dataclasses.fields(built["config"])
        built |= {field.name: value(f"{path}.{field.name}") for field in fields}
    return built


def write_t5x(folder, tree):
    """A T5X checkpoint of the paper authors' code, with no more than this in it."""
    os.makedirs(folder)
    optimizer = {"target": tree, "state": {"step": np.asarray(3)}}
    content = serialization.msgpack_serialize({"version": 3, "optimizer": optimizer})
    pathlib.Path(folder, "checkpoint").write_bytes(content)


def test_import_gin_is_the_library():
    assert FOLDER not in pathlib.Path(gin.__file__).parents
    assert callable(gin.parse_config)
    assert not list(FOLDER.rglob("*.py"))


def test_setup_packs_every_folder(monkeypatch):
    packed = {}
    monkeypatch.setattr(setuptools, "setup", packed.update)
    monkeypatch.chdir(FOLDER.parent)
    runpy.run_path(str(FOLDER.parent / "setup.py"))
    wanted = {
        ".".join(["prompt_tuning", "gin_configs", *pathlib.Path(f).parts[:-1]]) for f in FILES
    }
    assert wanted <= set(packed["packages"])
    assert packed["package_dir"]["prompt_tuning.gin_configs"] == "gin"
    assert {p for p in packed["packages"] if "gin_configs" in p} == wanted | {
        "prompt_tuning.gin_configs"
    }


@pytest.mark.parametrize("file", FILES)
def test_header_has_its_parts_in_order(file):
    title, parts = header(file)
    assert re.fullmatch(r"\S.*\.\n\n", title), title
    assert tuple(parts) == PARTS
    assert all(part.strip() for part in parts.values())


@pytest.mark.parametrize("file", FILES)
def test_comments_fit_a_line(file):
    lines = [line for line in (FOLDER / file).read_text().split("\n") if line.startswith("#")]
    # A word, such as a setting with the path of a checkpoint, cannot be wrapped.
    assert not [line for line in lines if len(line) > 100 and " " in line.strip("# \\")]


@pytest.mark.parametrize("file", FILES)
def test_header_tells_the_macros(file):
    _, parts = header(file)
    macros = assigned(file)
    provided = macros_in(re.sub(r"\([^)]*\)", "", parts["Provides"]))
    assert provided <= macros.keys(), "provides what the file does not set"
    own = set(re.findall(r"^([A-Z][A-Z0-9_]*) = %gin.REQUIRED", (FOLDER / file).read_text(), re.M))
    assert own <= macros_in(parts["Requires"] + parts["Provides"]), "requires what it does not say"


@pytest.mark.parametrize("file", FILES)
def test_defaults_in_headers_are_those_of_the_file(file):
    macros = assigned(file)
    for name, default in re.findall(
        r"([A-Z][A-Z0-9_]+) \(([\d,.e-]+)[):;]", header(file)[1]["Provides"]
    ):
        assert float(default.rstrip(",").replace(",", "")) == float(macros[name]), name


def stand_in(name, settings):
    """Something of T5X's that takes these settings, {name: whether it must be given}."""
    kind = inspect.Parameter.KEYWORD_ONLY

    def take(**given):
        assert {setting for setting, required in settings.items() if required} <= given.keys()
        return given

    take.__signature__ = inspect.Signature(
        [
            inspect.Parameter(setting, kind, default=inspect.Parameter.empty if required else None)
            for setting, required in settings.items()
        ]
    )
    module, take.__name__ = name.split(".")
    # T5X's scripts are programs, and their files say so.
    take.__module__ = "__main__" if module in ("train", "eval", "infer") else f"t5x.{module}"
    return take


# Made once: gin knows a function by its name.
T5X = [
    stand_in(name, settings)
    for name, settings in json.loads(
        (FOLDER.parent / "tests" / "testdata" / "t5x.json").read_text()
    )["settings"].items()
]


@pytest.fixture
def read_as_t5x(monkeypatch):
    """Reads the words of a command line of T5X's as it does."""
    for each in T5X:
        if each.__module__ not in sys.modules or each.__module__ == "__main__":
            monkeypatch.setitem(sys.modules, each.__module__, types.ModuleType(each.__module__))
    for each in T5X:
        monkeypatch.setattr(sys.modules[each.__module__], each.__name__, each, raising=False)

    def read(words):
        flags = [word.partition("=")[::2] for word in words]
        files = [given for flag, given in flags if flag == "--gin_file"]
        prefix = "--gin."
        set_ = [f"{f.removeprefix(prefix)} = {g}" for f, g in flags if f.startswith(prefix)]
        assert len(files) + len(set_) + 1 == len(flags), "and --gin_search_paths"
        gin.clear_config()
        monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", ["", str(FOLDER)])
        gin.parse_config_files_and_bindings(files, set_)
        assert not gin_files.used_macros(gin.config_str()) - gin_config.read_macros().keys()

    yield read
    gin.clear_config()
    # In this process T5X is no more: other tests are told that it is not there.
    for selector, configurable in list(gin.config._REGISTRY.items()):
        if configurable.wrapped in T5X:
            gin.config._REGISTRY.pop(selector)
            gin.config._INVERSE_REGISTRY.pop(configurable.wrapped)


@pytest.mark.parametrize("file", FILES)
def test_command_in_the_header_is_complete_and_uses_the_file(file, read_as_t5x):
    words = command(file)
    if file in OF_T5X:
        read_as_t5x(words[1:])
    else:
        cli.read(words)
    flag = "--gin_file="
    used = [word.removeprefix(flag) for word in words if word.startswith(flag)]
    for each in used:
        used += re.findall(r"^include '(.+)'", (FOLDER / each).read_text(), re.M)
    assert file in used
    read = set(re.findall(r"%([A-Z][A-Z0-9_]*)", gin.config_str()))
    own = re.findall(r"^([A-Z][A-Z0-9_]*) = ", (FOLDER / file).read_text(), re.M)
    assert set(own) - READ_ELSEWHERE.get(words[0], set()) <= read, "sets what nothing reads"


DOCUMENTS = [FOLDER.parent / "README.md", *sorted((FOLDER.parent / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_are_complete(document):
    text = document.read_text().replace("\\\n", " ")
    commands = re.findall(r"^prompt-tuning (.+)", text, re.M)
    assert commands or document.name not in ("README.md", "from_t5x.md")
    for words in map(shlex.split, commands):
        cli.read(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_t5x_in_documents_are_complete(document, read_as_t5x):
    text = document.read_text().replace("\\\n", " ")
    commands = re.findall(r"^python -m t5x\.\w+ (.+)", text, re.M)
    assert commands or document.name != "from_t5x.md"
    for words in map(shlex.split, commands):
        read_as_t5x(words)


SETTINGS_OF_T5X = {
    "train": {"MODEL_DIR": "run", "TRAIN_STEPS": 1003, "BATCH_SIZE": 4},
    "eval": {"EVAL_OUTPUT_DIR": "scores", "PROMPT_FILE": "prompt.npy", "BATCH_SIZE": 4},
    "infer": {"INFER_OUTPUT_DIR": "answers", "PROMPT_FILE": "prompt.npy", "BATCH_SIZE": 4},
}


@pytest.mark.parametrize("run", SETTINGS_OF_T5X)
def test_t5x_gets_all_that_it_requires(
    read_as_t5x, tiny, tiny_job, tmp_path, monkeypatch, run, rng
):
    monkeypatch.chdir(tmp_path)
    checkpoint = exporter.export(
        model=tiny.model,
        vocabulary=tiny.vocabulary,
        checkpoint=tiny.checkpoint,
        output_dir="exported",
    )
    prompt_files.save("prompt.npy", rng.normal(size=(3, 16)), {})
    settings = {"INITIAL_CHECKPOINT_PATH": checkpoint} | SETTINGS_OF_T5X[run]
    words = tiny_job.command(run, f"t5x/prompt_{run}.gin", **settings)
    read_as_t5x(["--gin_search_paths=gin", *words[1:]])
    program = getattr(sys.modules["__main__"], "evaluate" if run == "eval" else run)
    # Stand-ins refuse where one of their settings is missing.
    given = gin.get_configurable(program)()
    model = given["model"]
    assert isinstance(model, t5x_models.Model)
    data = given["train_dataset_cfg" if run == "train" else "dataset_cfg"]
    names = {"train": "train", "eval": "eval", "infer": "infer"}
    assert (data["mixture_or_task_name"], data["batch_size"]) == (names[run], 4)
    restore = given["checkpoint_cfg" if run == "train" else "restore_checkpoint_cfg"]
    if run == "train":
        assert model.optimizer_def.trainable == (".*/prompt/.*",)
        assert model.model.config.dropout_rate == 0.1 and model.model.method.length == 4
        assert given["infer_eval_dataset_cfg"]["mixture_or_task_name"] == "eval"
        (writer,) = restore["save"]["state_transformation_fns"]
        assert (writer.model, writer.task) == (model, "train")
        restore = restore["restore"]
    else:
        assert model.optimizer_def is None and model.model.method.length == 3
    assert restore["path"] == model.checkpoint == checkpoint
    (hook,) = restore["state_transformation_fns"]
    assert hook == t5x_models.FromBase(model)


def test_a_file_for_t5x_is_refused(tiny_job):
    with pytest.raises(cli.UsageError, match=r"python -m t5x.train`.*runs/train.gin"):
        cli.read(tiny_job.command("train", "t5x/prompt_train.gin"))
    with pytest.raises(cli.UsageError) as refused:
        cli.read(tiny_job.command("train", **REQUIRED["train"], T5X_MODEL=1))
    assert "t5x/" not in str(refused.value), "no advice to add such a file"


@pytest.mark.parametrize("file", [f for f in OURS if command(f)[0] == "describe"])
def test_described_numbers_are_true(file, capsys, quick_shapes):
    cli.run([word for word in command(file) if word != "--json"])
    numbers = re.findall(r"\d[\d,]{3,}", header(file)[1]["Result"])
    shown = capsys.readouterr().out
    assert numbers and all(number in shown for number in numbers)


def test_examples_train_beyond_the_step_of_the_embedded_model():
    step = huggingface.read_step(assets.path("t5_mini"))
    for file in FILES:
        flags = dict(re.findall(r"--gin\.(\w+)=(\S+)", " ".join(command(file))))
        if "models/t5_mini.gin" in " ".join(command(file)) and "TRAIN_STEPS" in flags:
            assert int(flags["TRAIN_STEPS"]) > step


@pytest.mark.parametrize("run", REQUIRED)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_prompt_goes_with_every_run(tiny_job, tmp_path, monkeypatch, prompt, run, rng):
    monkeypatch.chdir(tmp_path)
    rows = rng.normal(size=(3, 16)).astype(np.float32)
    prompt_files.save("prompt.npy", rows, {})
    write_t5x("checkpoint_3", {"encoder": {"prompt": {"prompt": {"prompt": rows}}}})
    kind, settings = PROMPTS[prompt]
    verb = "train" if run in ("pretrain", "lm_adapt") else run
    files = [f"prompts/{prompt}.gin", f"runs/{run}.gin"]
    if verb in ("eval", "infer"):  # which set the prompt themselves
        files.reverse()
    cli.read(tiny_job.command(verb, *files, **(REQUIRED[run] | settings)))
    built = built_arguments(verb)
    assert isinstance(built["model"], model.EncoderDecoderModel)
    assert built["model"].config.embed_dim == 16
    if run in ("pretrain", "lm_adapt"):
        assert built["model"].method.soft_tokens.length == 0 and built["prompt_initializer"] is None
    elif run != "describe":
        assert isinstance(built["prompt_initializer"], kind)
        if kind is initializers.FromArray:
            np.testing.assert_array_equal(built["prompt_initializer"].array, rows)
            setting = "PROMPT_CHECKPOINT" if prompt == "from_t5x" else "PROMPT_FILE"
            assert built["prompt_initializer"].setting == setting
    if run in ("train", "describe"):
        assert built["model"].method.length == (3 if prompt == "from_file" else 4)


@pytest.mark.parametrize("run", ["train", "eval", "infer", "describe"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_with_every_run(tiny_job, tmp_path, monkeypatch, method, run, rng):
    monkeypatch.chdir(tmp_path)
    leaves = {"encoder/prompt/prompt": rng.normal(size=(4, 16))}
    prompt_files.save_leaves("prompt.npz", leaves, {"length": 4})
    files = [f"prompts/{method}.gin", f"runs/{run}.gin"]
    given, expected = METHODS[method]
    settings = given | REQUIRED[run]
    settings |= {"PROMPT_LENGTH": 4} if run in ("train", "describe") else {}
    settings |= {"PROMPT_FILE": "prompt.npz"} if "PROMPT_FILE" in settings else {}
    cli.read(tiny_job.command(run, *files, **settings))
    built = built_arguments(run)
    assert built["model"].method.parts == tuple(expected)
    if run in ("train", "describe"):
        patterns = {"ia3": (".*/ia3_scaling",), "prefix": (".*/prefix/.*",)}
        assert built["trainable"] == patterns.get(method, (".*/prompt/.*",))
        assert value("%LEARNING_RATE") == (0.003 if method == "ia3" else 0.3)
    else:
        assert built["prompt_initializer"].leaves.keys() == leaves.keys()


def test_wayward_starts_as_the_text_and_is_held_to_it(tiny_job, vocabulary):
    settings = {"TASK_STRING": "good film", "WAYWARD_GAMMA": 0.5} | REQUIRED["train"]
    files = ["prompts/wayward.gin", "runs/train.gin"]
    cli.read(tiny_job.command("train", *files, **settings))
    ids, train = vocabulary.encode("good film"), "prompt_tuning.training.trainer.train"
    built = value(f"{train}.model")
    assert built.method.parts == (prompt_method.Prompt(len(ids)), wayward.Wayward(ids, 0.5))
    assert len(ids) != 4
    assert value(f"{train}.prompt_initializer") == initializers.String(
        "good film", setting="TASK_STRING"
    )


@pytest.mark.parametrize("method", ["per_layer", "ia3", "prefix", "attention_pattern", "wayward"])
def test_a_method_of_encoders_is_refused_where_there_is_none(method):
    files = ["models/decoder_only_mini.gin", f"prompts/{method}.gin", "runs/describe.gin"]
    flags = [f"--gin_file={file}" for file in files]
    flags += ["--gin.TASK_STRING='a film'"] if method == "wayward" else []
    with pytest.raises(ValueError, match=rf"decoder-only.*Remove prompts/{method}\.gin"):
        cli.run(["describe", *flags])


def test_a_prompt_from_a_file_stands_where_its_card_says(tiny_job, tmp_path, rng):
    for place in ("suffix", (0, 0, 5)):
        prompt_files.save(tmp_path / "p.npy", rng.normal(size=(3, 16)), {"place": place})
        settings = {"PROMPT_FILE": tmp_path / "p.npy", "EVAL_OUTPUT_DIR": "scores"}
        cli.read(tiny_job.command("eval", **settings))
        assert (
            value("prompt_tuning.inference.predictor_config.PredictorConfig.model").method.place
            == place
        )
