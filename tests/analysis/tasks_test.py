"""The table of tasks, and their examples as the model receives them."""

import json

import pytest

from prompt_tuning.analysis import tasks
from prompt_tuning.cli import main as cli
from prompt_tuning.data.tasks import catalog

QUESTIONS = [
    {"id": str(i), "question": "Who?", "answers": [{"text": "Ann"}, {"text": "an Ann."}]}
    for i in range(3)
]
SQUAD = {"data": [{"paragraphs": [{"context": "Ann won.", "qas": QUESTIONS}]}]}
NAME = "squad_v010_allanswers_examples"


@pytest.fixture
def folder(tmp_path):
    """Returns the flag of a folder of SQuAD with three questions."""
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (tmp_path / name).write_text(json.dumps(SQUAD))
    return f"--gin.TASK_DATA_DIR='{tmp_path}'"


def test_table_has_aligned_columns_and_counts():
    entries = [
        catalog.Entry("a", "mixture of 12", ["train", "test"], []),
        catalog.Entry("long_name", "task", ["test"], ["em", "f1"]),
        catalog.Entry("b", "task", ["test"], ["em"]),
    ]
    assert tasks.table(entries).split("\n") == [
        "name       kind           splits      metrics",
        "a          mixture of 12  train test  -",
        "long_name  task           test        em f1",
        "b          task           test        em",
        "",
        "2 tasks, 1 mixture",
    ]


def test_command_lists_tasks_without_a_gin_file(capsys):
    entries = cli.run(["tasks", "squad_*"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-2]] == [entry.name for entry in entries]
    assert lines[0].split() == ["name", "kind", "splits", "metrics"]
    assert f"{NAME} " in "\n".join(lines) and lines[-1] == "1 task, 7 mixtures"


def test_command_shows_texts_and_ids(folder, tiny_job, vocabulary, capsys):
    command = tiny_job.command("tasks", "runs/tasks.gin", TRAIN_FILE=None, EVAL_FILE=None)
    arguments = [NAME, "--examples=2", "--split=validation", folder, "--gin.INFER_FILE=None"]
    cli.run([*command, *arguments])
    shown = capsys.readouterr().out.splitlines()
    ids = [*vocabulary.encode("question: Who ? context: Ann won . "), 1]
    answer = [*vocabulary.encode("Ann"), 1]
    assert shown[:8] == [
        f"{NAME}, validation, example 0",
        "  inputs   question: Who ? context: Ann won . ",
        f"           {len(ids)} ids: {' '.join(map(str, ids))}",
        "  targets  Ann",
        f"           {len(answer)} ids: {' '.join(map(str, answer))}",
        "  answers  ['Ann', 'an Ann . ']",
        "  id       0",
        "",
    ]
    assert shown[8] == f"{NAME}, validation, example 1" and len(shown) == 16


def test_default_vocabulary_is_that_of_t5_mini(folder, capsys):
    cli.run(["tasks", NAME, "--examples=1", folder])
    shown = capsys.readouterr().out
    assert shown.startswith(f"{NAME}, train, example 0")
    assert "ids: 919 98 " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["squad_v010_alanswers"],
            "no registered task or mixture .* Did you mean: squad_v010_allanswers_examples",
        ),
        (
            ["squad_v010", "--examples=1"],
            f"'squad_v010' is not the full name of a task; expected one, such as {NAME}",
        ),
        ([NAME, "--examples=-1"], "--examples is -1; expected a number of at least 0"),
        ([NAME, "--examples=1", "--split=tset"], "no split 'tset'; expected one of train, val"),
        (["squad_to_drop_examples", "--examples=1", "--split=validation"], r"dev/DROP\.jsonl"),
    ],
)
def test_invalid_arguments_are_refused(folder, arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        cli.run(["tasks", *arguments, folder])
