"""Checks and warnings of a run before it trains."""

import json
import re

import pytest

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.cli import main as cli
from prompt_tuning.data import pipeline, sources
from prompt_tuning.training import optimizers, trainer
from prompt_tuning.training import run as run_lib


@pytest.mark.parametrize(("split", "count"), [("validation", 0), ("train", 1)])
def test_a_task_without_validation_is_trained_on(vocabulary, tmp_path, caplog, split, count):
    target = {"span1_text": "the cat", "span1_index": 0, "span2_text": "it", "span2_index": 3}
    row = {"text": "the cat saw it", "target": target, "idx": 0, "label": True}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    source = sources.TaskSource("super_glue_wsc_v102_simple_train", data_dir=str(tmp_path))
    config = pipeline.DatasetConfig(source, {"inputs": 40, "targets": 10}, split, 1)
    assert len(trainer.evaluation_tasks(config, vocabulary)) == count
    warning = "Training without evaluation: super_glue_wsc_v102_simple_train has no split"
    assert (warning in caplog.text) == (count == 0)


def test_no_task_is_evaluated_without_an_eval_dataset(vocabulary):
    assert trainer.evaluation_tasks(None, vocabulary) == []


@pytest.mark.parametrize(
    ("factors", "offset", "warns"),
    [
        ("linear_decay", 0, True),
        # At its least at the start and from the 60th step on, but not in the middle.
        ("linear_decay", 1_100_000, False),
        ("constant", 0, False),
    ],
)
def test_warns_if_the_learning_rate_is_zero_for_all_steps(factors, offset, warns, caplog):
    schedule = run_lib.TrainConfig(1_100_100, 1_100_000)
    settings = {"warmup_steps": 10, "decay_factor": 0.02, "step_offset": offset}
    rate = optimizers.learning_rate_schedule(factors, **settings)
    trainer._warn_of_zero_learning_rate(rate, schedule)
    assert ("STEP_OFFSET=1100000" in caplog.text) == warns


@pytest.fixture
def labelled(tmp_path):
    """(labels of the training file, labels of the evaluation file) -> the settings."""

    def write(train, evaluation):
        settings = {"MODEL_DIR": tmp_path / "run", "TRAIN_STEPS": 1001, "BATCH_SIZE": 8}
        for name, labels in (("train", train), ("eval", evaluation)):
            file = tmp_path / f"{name}.tsv"
            rows = [f"she saw film {i}\t{label}\n" for i, label in enumerate(labels)]
            file.write_text("text\tlabel\n" + "".join(rows))
            settings[f"{name.upper()}_FILE"] = file
        return settings

    return write


def test_labels_are_kept_in_the_card_and_compared(tiny_job, labelled, capsys):
    settings = labelled(["Good", "bad"] * 4, ["Good", "bad", "fine", "Bad"])
    result = cli.run(tiny_job.command("train", **settings))
    card = prompt_files.read_card(result["prompt_file"])
    assert card["labels"] == ["Good", "bad"]
    assert prompt_files.labels(result["prompt_file"]) == {None: ("Good", "bad")}
    warning = "eval has labels that are not in TRAIN_FILE .*train.tsv, so the prompt does not learn"
    lines = capsys.readouterr().err.splitlines()
    [message] = [line for line in lines if "labels that are not in" in line]
    assert re.search(warning, message) and "'fine' (1 examples), 'Bad' (1 examples)" in message


@pytest.mark.parametrize("count", [2, 30])
@pytest.mark.parametrize("split", ["TRAIN", "EVAL"])
def test_labels_with_the_same_tokens_are_refused(
    tiny_job, labelled, tmp_path, monkeypatch, count, split
):
    """For any number of labels, before the weights are used."""
    monkeypatch.setattr(run_lib, "Run", None)
    others = [f"{one} {other}" for one in "abcdefg" for other in "adef"]
    alike = ["c+", "c++", *others[: count - 2]]
    settings = labelled(*([alike * 2, ["good"]] if split == "TRAIN" else [["good"] * 8, alike * 2]))
    with pytest.raises(ValueError, match=r"'c\+' and 'c\+\+' have the same tokens") as error:
        cli.run(tiny_job.command("train", **settings))
    assert f"{split}_FILE {tmp_path}" in str(error.value) and "LABEL_MAP" in str(error.value)


def test_a_label_loss_scores_all_labels(tiny_job, labelled):
    files = ["runs/train.gin", "optimizers/perceptron.gin"]
    settings = labelled(["good", "bad", "fine"] * 3, ["good"])
    with pytest.raises(ValueError, match=r"train.tsv has labels that are not in LABELS: 'fine'"):
        cli.run(tiny_job.command("train", *files, LABELS=["good", "bad"], **settings))


def test_text_of_another_script_is_refused(tiny_job, labelled, tmp_path):
    settings = labelled(["good", "bad"] * 4, ["good"])
    rows = "".join(f"{text}\tgood\n" for text in ("\u4eca\u5929", "\u7535\u5f71", "\u559c\u6b22"))
    (tmp_path / "train.tsv").write_text(f"text\tlabel\n{rows}")
    with pytest.raises(ValueError, match=r"TRAIN_FILE .*train.tsv: inputs: .* unknown"):
        cli.run(tiny_job.command("train", **settings))
