"""The rules of CONTRIBUTING.md that a program can check: layers, imports, a test for each file."""

import ast
import pathlib
import subprocess
import sys

import prompt_tuning

PACKAGE = pathlib.Path(prompt_tuning.__file__).parent
REPOSITORY = PACKAGE.parent
TESTS = REPOSITORY / "tests"
# Folders and modules from the lowest layer to the highest; a module that is listed itself may lie
# lower than the rest of its folder.
LAYERS = (
    {"annotations", "params", "assets", "texts", "distributed.partitioning"},
    {"methods", "models", "training.optimizers"},
    {"checkpoints", "data"},
    {
        *("training.adapter_files", "training.counts", "training.event_file", "training.reporting"),
        *("training.settings", "training.state"),
        *("distributed.interrupts", "distributed.processes", "distributed.watch"),
    },
    {"inference"},
    {"training"},
    {"analysis", "api", "distributed"},
    {"__init__", "cli", "__main__", "t5x"},
)
RANKS = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
# The network knows the interface of methods, and methods the sizes of the network.
APART = {
    "models": ("methods", {"methods.base"}),
    "methods": ("models", {"models.config"}),
    "data": ("checkpoints", set()),
}
# What a part may import beside numpy, etils, jaxtyping, the standard library and this package.
LIBRARIES = {
    "__init__": set(),
    "annotations": set(),
    "params": {"jax"},
    "distributed": {"jax", "flax", "optax"},
    "assets": set(),
    "texts": set(),
    "methods": {"jax", "flax"},
    "models": {"jax", "flax"},
    "checkpoints": {
        *("jax", "flax", "huggingface_hub", "ml_dtypes", "msgpack", "orbax", "safetensors"),
        "tensorstore",
    },
    "data": {"scipy", "sentencepiece", "seqio", "tensorflow", "tensorflow_datasets", "tokenizers"},
    "training": {"filelock", "jax", "flax", "optax", "rich", "tensorboardX"},
    "inference": {"jax", "flax"},
    "analysis": {"jax", "flax", "matplotlib"},
    "api": set(),
    "cli": {"gin", "jax"},
    "t5x": {"clu", "flax", "jax", "optax", "seqio", "t5x", "tensorflow"},
    "__main__": set(),
}
ANYWHERE = {"numpy", "etils", "jaxtyping", "prompt_tuning", *sys.stdlib_module_names}
OF_FILES = {"etils", "io", "os", "pathlib", "shutil", "tempfile"}
# tf.data code, and modules that register tasks: imported when a task is opened.
TENSORFLOW_AT_ONCE = {
    "t5x/feature_converter.py",
    "data/text/formats.py",
    "data/seqio_tasks.py",
    "data/files/originals.py",
    "data/text/preprocessors.py",
    "data/text/questions.py",
    "data/text/ranking.py",
    "data/tasks/registry.py",
    "data/tokenizers/seqio_vocabulary.py",
    "data/tasks/super_glue.py",
    "data/tasks/text.py",
    "data/tasks/variants.py",
}
TESTED_ELSEWHERE = {
    "__init__.py": "a version, and names that are imported late: cli/main_test.py, api/model_test.py",
    "__main__.py": "a call: cli/main_test.py runs it",
    "cli/gin_config.py": "what `prompt-tuning` reads: cli/main_test.py, gin_test.py",
    "t5x/optimizer.py": "what T5X's trainer calls: t5x/models_test.py",
}


def modules():
    """(path in the package, part, tree) of each file with code in it."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if text := file.read_text():
            path = file.relative_to(PACKAGE)
            yield str(path), path.parts[0].removesuffix(".py"), ast.parse(text)


def imported(nodes):
    """Full names of what nodes import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def libraries(nodes):
    return {name.split(".")[0] for name in imported(nodes)}


def own_imports(tree):
    """Names below prompt_tuning that a tree imports."""
    return {
        name.removeprefix("prompt_tuning.")
        for name in imported(ast.walk(tree))
        if name.startswith("prompt_tuning.")
    }


def rank(name):
    """The layer of a module or of a name in it: that of the longest prefix listed in LAYERS."""
    words = name.split(".")
    prefixes = (".".join(words[:end]) for end in range(len(words), 0, -1))
    return next((RANKS[prefix] for prefix in prefixes if prefix in RANKS), 0)


def test_a_module_imports_its_own_layer_or_a_lower_one():
    for path, part, tree in modules():
        name, imports = path.removesuffix(".py").replace("/", "."), own_imports(tree)
        assert {each for each in imports if rank(each) > rank(name)} == set(), path
        other, allowed = APART.get(part, ("", set()))
        assert {each for each in imports if each.split(".")[0] == other} <= allowed, path


def test_a_part_imports_its_libraries_only():
    for path, part, tree in modules():
        assert libraries(ast.walk(tree)) <= LIBRARIES[part] | ANYWHERE, path


def test_the_lower_layers_know_no_files():
    for path, _, tree in modules():
        name = path.removesuffix(".py").replace("/", ".")
        if rank(name) < RANKS["checkpoints"] and name != "assets.__init__":
            calls = {getattr(n.func, "id", "") for n in ast.walk(tree) if isinstance(n, ast.Call)}
            assert not libraries(ast.walk(tree)) & OF_FILES and "open" not in calls, path


def test_tensorflow_and_seqio_are_imported_late():
    at_once = {
        path
        for path, _, tree in modules()
        if {"tensorflow", "tensorflow_datasets", "seqio"} & libraries(tree.body)
    }
    assert at_once == TENSORFLOW_AT_ONCE


def test_t5x_is_imported_where_it_is_used():
    for path, _, tree in modules():
        assert not {"t5x", "clu"} & libraries(tree.body), path


def test_modules_are_imported_not_names():
    for path, _, tree in modules():
        if path == "__init__.py":
            continue  # Type checkers read there what the package offers.
        for name in imported(ast.walk(tree)):
            if name.startswith("prompt_tuning."):
                file = REPOSITORY / name.replace(".", "/")
                assert file.is_dir() or file.with_suffix(".py").exists(), (path, name)


def test_nothing_is_unpickled():
    for path, _, tree in modules():
        assert not libraries(ast.walk(tree)) & {"pickle", "dill", "cloudpickle"}, path
        assert "allow_pickle=True" not in (PACKAGE / path).read_text(), path


def test_files_are_short_and_say_what_they_are():
    for path, _, tree in modules():
        assert ast.get_docstring(tree), path
        assert len((PACKAGE / path).read_text().splitlines()) <= 400, path


def test_every_module_has_its_test_and_every_test_its_module():
    wanted = set()
    for path, _, _ in modules():
        if path not in TESTED_ELSEWHERE:
            wanted.add(path.replace("/__init__.py", ".py").replace(".py", "_test.py"))
    tests = {str(test.relative_to(TESTS)) for test in TESTS.rglob("*_test.py")}
    others = {
        f"{name}_test.py"
        for name in (
            "architecture",
            "bad_input",
            "docs",
            "end_to_end",
            "families",
            "gin",
            "processes",
            "resume",
            "t5x_dataset",
        )
    }
    others |= {f"{script.stem}_test.py" for script in (REPOSITORY / "scripts").glob("*.py")}
    others |= {f"{folder.name}_test.py" for folder in (REPOSITORY / "scripts").glob("*/")}
    assert wanted - tests == set()
    assert tests - wanted <= others


def test_most_of_the_package_does_without_tensorflow():
    names = ["prompt_tuning.distributed.describer"]
    for path, part, _ in modules():
        if part in ("__init__", "models", "methods", "checkpoints", "analysis", "api"):
            name = f"prompt_tuning/{path}".removesuffix(".py").removesuffix("/__init__")
            names.append(name.replace("/", "."))
    program = f"import sys, {', '.join(names)}; print(sorted(sys.modules))"
    line = [sys.executable, "-c", program]
    shown = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(shown.stdout))
    assert {"prompt_tuning.models.network", "prompt_tuning.analysis.neighbors"} <= loaded
    assert not loaded & {"tensorflow", "seqio", "gin", "torch"}


def test_files_are_read_without_tensorflow():
    program = """
import sys
import numpy as np
from prompt_tuning import assets
from prompt_tuning.data import pipeline, sources, vocabularies
from prompt_tuning.data.batches import soft_tokens
file = assets.path("reviews/train.tsv")
source = sources.TaskSource(train_file=file, eval_file=file, input_template="{sentence}")
lengths = {"inputs": 256, "targets": 16}
config = [pipeline.DatasetConfig(source, lengths, split, 4) for split in ("train", "validation")]
vocabulary = vocabularies.ByteVocabulary()
next(pipeline.TrainBatches(config[0], vocabulary, soft_tokens.SoftTokens(np.arange(300, 304))))
pipeline.evaluation_tasks(config[1], vocabulary, 8)[0].metrics(["good"] * 8, None)
print({"tensorflow", "seqio", "jax"} & sys.modules.keys())
"""
    line = [sys.executable, "-c", program]
    shown = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True)
    assert shown.stdout == "set()\n", shown.stderr
