"""Settings of a run: what counts as another one, and what a started or finished run says to it."""

import json
import pathlib
import types

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files, train_state
from prompt_tuning.cli import main as cli
from prompt_tuning.training import settings as settings_lib

STOPS = {"TRAIN_STEPS": 1002, "EVAL_PERIOD": 2, "EVALUATOR_NUM_EXAMPLES": 4, "BATCH_SIZE": 8}


def test_gin_is_read_as_values():
    text = r"""
from __gin__ import dynamic_registration

# A = 1
A = 1
B = \
    ('a long text '
     "it's")
C = @some/module.function()
D = {'inputs': 3, 1: (2, 3)}
E = {(1, 2): 3}
FREE = 4
module.function.a = %A
scope/module.function.b = [%A, 2]
train/assets.path.name = 'reviews/train.tsv'
"""
    assert settings_lib.parse(text, ["FREE"]) == {
        "A": 1,
        "B": "a long text it's",
        "C": "@some/module.function()",
        "D": {"inputs": 3, 1: (2, 3)},
        "E": "{(1, 2): 3}",
        "scope/module.function.b": "[%A, 2]",
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"A": 1}, {"A": 1.0}),
        ({"A": ("a", "b")}, {"A": ["a", "b"]}),
        ({"A": {"x": 1, "y": 2}}, {"A": {"y": 2, "x": 1}}),
        ({"A": {0: "a"}}, {"A": {"0": "a"}}),
        ({"A": np.int64(3)}, {"A": 3}),
    ],
)
def test_equal_values_may_be_written_differently(old, new):
    assert settings_lib.differences(settings_lib.Settings(old), settings_lib.Settings(new)) == []


def test_arguments_are_listed_with_the_macros_that_set_them():
    text = "A = 2\nmodule.f.a = %A\nmodule.f.long_name = \\\n    %A\nB = %A\n"
    macros = {"module.f.a": "A", "module.f.long_name": "A"}
    assert settings_lib.parse_macros(text) == macros
    kept = settings_lib.of_command(text, [])
    now = settings_lib.of_command("A = 2\nmodule.f.a = 3\neval/module.f.a = 4\n", [])
    assert settings_lib.differences(kept, now) == [
        "A (eval/module.f.a): not set -> 4",
        "A (module.f.a): 2 -> 3",
    ]
    assert settings_lib.differences(now, now) == []


def test_the_evaluation_data_are_listed_with_their_macro():
    kept, now = (
        settings_lib.of_command(f"trainer.train.eval_dataset = {value}\n", [])
        for value in ("@eval/pipeline.DatasetConfig()", "None")
    )
    assert settings_lib.differences(kept, now) == [
        "EVAL_FILE (trainer.train.eval_dataset): @eval/pipeline.DatasetConfig() -> None"
    ]


def test_a_line_for_each_difference():
    old = settings_lib.Settings({"A": 1, "B": "x", "F": "a"}, {"F": "a" * 16, "G": "c" * 16})
    new = settings_lib.Settings({"A": 2, "C": None, "F": "b"}, {"F": "b" * 16})
    assert settings_lib.differences(old, new) == [
        "A: 1 -> 2",
        "B: 'x' -> not set",
        "C: not set -> None",
        "F: 'a' -> 'b' (content aaaaaaaa -> bbbbbbbb)",
    ]
    moved = settings_lib.Settings({**old.values, "F": "elsewhere"}, old.contents)
    assert settings_lib.differences(old, moved) == []
    without = settings_lib.Settings({**old.values, "F": None}, {"G": "c" * 16})
    assert settings_lib.differences(old, without) == ["F: 'a' -> None"]


def test_of_another_version_only_what_both_know_is_compared():
    old = settings_lib.Settings({"A": 1, "OLD": 1}, version="0.0.1")
    new = settings_lib.Settings({"A": 2, "NEW": 1})
    assert settings_lib.differences(old, new) == ["A: 1 -> 2"]


def test_a_command_is_its_bindings_and_the_content_of_paths(tmp_path):
    data, base = tmp_path / "a.tsv", tmp_path / "base"
    base.mkdir()
    text = (
        f"TRAIN_FILE = '{data}'\nFILES = ['{data}', '{data}']\nBASE = '{base}'\nMODEL_DIR = 'x'\n"
    )
    found = []
    for content in ("a", "a", "b"):
        data.write_text(content)
        (base / "model").write_text(content)
        found.append(settings_lib.of_command(text, ["MODEL_DIR"]))
    assert found[0] == found[1] and found[0].values.keys() == {"TRAIN_FILE", "FILES", "BASE"}
    assert len(settings_lib.differences(found[0], found[2])) == 3


@pytest.fixture(scope="module")
def job(tiny_job, tmp_path_factory):
    """(other settings) -> a command line on files of its own."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("train.tsv", "eval.tsv"):
        (folder / name).write_text((tiny_job.folder / name).read_text())
    prompt_files.save(folder / "prompt.npy", np.ones((4, 16)), {})
    files = {"TRAIN_FILE": folder / "train.tsv", "EVAL_FILE": folder / "eval.tsv"}

    def command(gin_files=("prompts/from_file.gin", "runs/train.gin"), **settings):
        given = {**STOPS, **files, "PROMPT_FILE": folder / "prompt.npy", **settings}
        return tiny_job.command("train", *gin_files, **given)

    command.folder = folder
    return command


@pytest.fixture(scope="module")
def run(job):
    """A finished run."""
    cli.run(job(MODEL_DIR=job.folder / "run"))
    return job.folder / "run"


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def edited(path, tmp_path):
    """Another file of the same name, with a row less."""
    lines = path.read_text().splitlines(keepends=True)
    (tmp_path / path.name).write_text("".join(lines[:-1]))
    return tmp_path / path.name


@pytest.mark.parametrize(
    "changed",
    [
        {"BATCH_SIZE": 16},
        {"LEARNING_RATE": 0.1},
        {"RANDOM_SEED": 1},
        {"DROPOUT_RATE": 0.2},
        {"PACK": False},
        {"TASK_FEATURE_LENGTHS": {"inputs": 30, "targets": 8}},
        {"INPUT_TEMPLATE": "say: {text}"},
        {"LABEL_MAP": {"good": "bad", "bad": "good"}},
        {"WEIGHT_DECAY_RATE": 0.0},
        {"START_STEP": 500},
        {"EVALUATOR_NUM_EXAMPLES": 8, "Z_LOSS": 0.0},
    ],
    ids=lambda changed: ", ".join(changed),
)
@pytest.mark.parametrize("steps", [1002, 1004], ids=["finished", "started"])
def test_a_run_is_not_continued_with_other_settings(run, job, changed, steps, monkeypatch):
    before = snapshot(run)
    monkeypatch.setattr("prompt_tuning.training.state.load_model", None)  # it is an error before
    with pytest.raises(ValueError, match=r"MODEL_DIR .*run at step 1002 with other") as error:
        cli.run(job(MODEL_DIR=run, **{"TRAIN_STEPS": steps, **changed}))
    message = str(error.value).partition("\n  In call")[0].splitlines()
    assert [line.split(":")[0].strip() for line in message[1:-1]] == sorted(changed)
    assert message[-1].startswith("Expected the settings of that run. Set another MODEL_DIR for")
    assert "or ALLOW_CHANGED_SETTINGS=True to continue" in message[-1]
    assert snapshot(run) == before


@pytest.mark.parametrize("name", ["TRAIN_FILE", "EVAL_FILE", "PROMPT_FILE"])
@pytest.mark.parametrize("in_place", [False, True])
def test_data_and_prompts_are_compared_by_content(run, job, name, in_place, tmp_path, monkeypatch):
    path = job.folder / {"PROMPT_FILE": "prompt.npy"}.get(name, f"{name[:-5].lower()}.tsv")
    content = path.read_bytes()
    other = tmp_path / path.name
    if name == "PROMPT_FILE":
        prompt_files.save(other, np.full((4, 16), 2.0), {})
    else:
        other = edited(path, tmp_path)
    if in_place:
        path.write_bytes(other.read_bytes())
        other = path
    monkeypatch.setattr("prompt_tuning.training.state.load_model", None)
    try:
        with pytest.raises(ValueError, match=rf"\n  {name}: '.*' -> '.*' \(content \w+ -> \w+\)\n"):
            cli.run(job(MODEL_DIR=run, **{name: other}))
    finally:
        path.write_bytes(content)


def test_another_method_or_start_is_another_run(run, job):
    files = ("prompts/from_file.gin", "prompts/random_uniform.gin", "runs/train.gin")
    with pytest.raises(
        ValueError, match=r"PROMPT_INITIALIZER: @prompt_files.initializer\(\) -> @ini"
    ):
        cli.run(job(files, MODEL_DIR=run))


def test_what_is_the_same_is_complete(run, job, tmp_path, capsys):
    """Moved files of the same content, the settings that may change, and equal values."""
    before = snapshot(run / "prompts") | snapshot(run / "checkpoint_1002")
    moved = tmp_path / "moved.tsv"
    moved.write_bytes((job.folder / "train.tsv").read_bytes())
    free = {"EVAL_PERIOD": 1, "LOG_PERIOD": 3, "KEEP": 5, "NAN_TOLERANCE": 1, "EVAL_STEPS": 1}
    same = {
        "TRAIN_FILE": moved,
        "START_STEP": 1000,
        "TASK_FEATURE_LENGTHS": {"targets": 8, "inputs": 40},
    }
    result = cli.run(job(MODEL_DIR=run, **free, **same))
    shown = capsys.readouterr().err
    assert f"The run in {run} is complete at step 1002; nothing is trained" in shown
    assert f"prompt: {result['prompt_file']}" in shown
    assert snapshot(run / "prompts") | snapshot(run / "checkpoint_1002") == before
    # Nothing is trained, so config.gin is that of the training.
    assert "EVAL_PERIOD = 2" in (run / "config.gin").read_text()


def test_changed_settings_are_accepted_by_one_setting(job, tmp_path, capsys):
    folder = tmp_path / "run"
    cli.run(job(MODEL_DIR=folder))
    other = {"LEARNING_RATE": 0.1, "TRAIN_STEPS": 1004, "MODEL_DIR": folder}
    accept = {"ALLOW_CHANGED_SETTINGS": True}
    cli.run(job(**other | accept | {"TRAIN_STEPS": 1002}))  # complete: nothing is trained
    assert "LEARNING_RATE = 0.3" in (folder / "config.gin").read_text()
    assert not [*folder.glob("config_*")]
    capsys.readouterr()
    result = cli.run(job(**other, **accept))
    shown = capsys.readouterr().err
    assert (
        "run at step 1002 with other settings" in shown
        and "Steps after 1002 use" in shown
        and "LEARNING_RATE: 0.3 -> 0.1" in shown
    )
    # Metrics before may mean something else: the prompt was evaluated again.
    steps = [x["step"] for x in lines(folder / "inference_eval/eval-metrics.jsonl")]
    assert steps == [1000, 1002, 1004]
    best = train_state.read_metadata(folder, 1004)["best"]
    assert (best["evaluations"], best["untrained_metric"], result["step"]) == (2, None, 1004)
    assert "LEARNING_RATE = 0.3" in (folder / "config_1002.gin").read_text()
    assert "LEARNING_RATE = 0.1" in (folder / "config.gin").read_text()
    # From then on those are the settings of the run.
    cli.run(job(**other))
    with pytest.raises(ValueError, match=r"LEARNING_RATE: 0.1 -> 0.3"):
        cli.run(job(**other | {"LEARNING_RATE": 0.3}))


def test_seeds_are_runs_of_their_own(job, tmp_path):
    for seeds in ((1,), (1, 2)):  # one more is trained from the start
        results = cli.run(job(MODEL_DIR=tmp_path, RANDOM_SEED=seeds))
    assert [each["step"] for each in results] == [1002, 1002]
    cli.run(job(MODEL_DIR=tmp_path / "seed_2", RANDOM_SEED=2))
    with pytest.raises(ValueError, match="holds the runs seed_1, seed_2, and RANDOM_SEED=2 is a"):
        cli.run(job(MODEL_DIR=tmp_path, RANDOM_SEED=2))
    with pytest.raises(ValueError, match=r"seed_1 holds .*\n  BATCH_SIZE: 8 -> 16\n"):
        cli.run(job(MODEL_DIR=tmp_path, RANDOM_SEED=(1, 2), BATCH_SIZE=16))


def test_a_state_of_an_earlier_version_is_taken_with_a_warning(job, tmp_path, monkeypatch, capsys):
    save = train_state.save
    drop = lambda *a, **b: save(*a[:3], {k: v for k, v in a[3].items() if k != "settings"}, **b)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(train_state, "save", drop)
        cli.run(job(MODEL_DIR=tmp_path))
    cli.run(job(MODEL_DIR=tmp_path, BATCH_SIZE=16, TRAIN_STEPS=1004))
    assert "did not record settings: settings and base" in capsys.readouterr().err
    with pytest.raises(ValueError, match="BATCH_SIZE: 16 -> 8"):
        cli.run(job(MODEL_DIR=tmp_path, TRAIN_STEPS=1004))


def test_a_file_that_is_no_record_is_none(tmp_path):
    path = tmp_path / "a.settings.json"
    settings = settings_lib.Settings({"A": (1, 2)}, {"F": "x"})
    settings_lib.write(path, settings, prompts={"p": "d"})
    assert settings_lib.read_file(path) == {"settings": settings, "prompts": {"p": "d"}}
    path.write_text(path.read_text()[:20])
    assert settings_lib.read_file(path) == {} == settings_lib.read_file(tmp_path / "none")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_edited_file_of_a_tokenizer_folder_is_another_vocabulary(tiny, tmp_path):
    """Files of the folder that are not the tokenizer's, such as weights, are not compared."""
    vocabulary = types.SimpleNamespace(path=str(tmp_path))

    def content():
        read = settings_lib.read("", (), {}, vocabulary, None, tiny.model)
        return read.contents["VOCABULARY_FILE"]

    (tmp_path / "spiece.model").write_bytes(pathlib.Path(tiny.vocabulary.path).read_bytes())
    before = content()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert before is not None and content() == before
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert content() != before
