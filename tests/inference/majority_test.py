"""Warnings of evaluations that are no better than a constant prediction."""

import json
import types

import numpy as np
import pytest

from prompt_tuning.cli import main as cli
from prompt_tuning.data import evaluation_task
from prompt_tuning.data.batches import batching
from prompt_tuning.data.text import postprocessors
from prompt_tuning.inference import majority


def task_of(vocabulary, targets):
    """A task with these targets, without seqio's reading."""
    examples = [{"targets": np.array([1]), "targets_pretokenized": text} for text in targets]
    task = types.SimpleNamespace(postprocess_fn=None, predict_metric_fns=[])
    return evaluation_task.EvaluationTask(
        "films", examples, batching.MaxLengths(8, 8), task, vocabulary
    )


LABELS = ["good"] * 6 + ["bad"] * 2


def test_a_constant_prediction_scores_the_share_of_the_most_common_target(vocabulary):
    assert majority.share(task_of(vocabulary, ["good", "bad", "bad"])) == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("targets", "warns"),
    [
        (["good"] * 3, True),
        ([postprocessors.UNKNOWN] * 3, False),
        (LABELS, False),
        (["good"], False),
        ([], False),
    ],
)
def test_a_single_label_is_reported(vocabulary, caplog, targets, warns):
    majority.warn_of_single_label([task_of(vocabulary, targets)])
    assert ("films: all 3 targets are 'good'" in caplog.text) == warns == bool(caplog.records)


@pytest.mark.parametrize(
    ("targets", "accuracies", "warns"),
    [
        (LABELS, {0: 90.0, 5: 50.0, 10: 75.0}, True),  # at step 0 nothing is learned yet
        (LABELS, {0: 0.0, 5: 76.0, 10: 75.0}, False),
        (["good"] * 8, {0: 0.0, 5: 100.0}, False),  # reported as a single label
        (["a text", "another", "and one", "more"], {0: 0.0, 5: 0.0}, False),
        (LABELS, {}, False),
        (["good", "bad"], {5: 0.0}, False),  # too few to be labels
    ],
)
def test_an_accuracy_of_labels_below_the_majority_is_reported(
    vocabulary, caplog, tmp_path, targets, accuracies, warns
):
    lines = [json.dumps({"step": step, "accuracy": x}) for step, x in accuracies.items()]
    (tmp_path / "films-metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    majority.warn_of_majority([task_of(vocabulary, targets)], tmp_path, after_step=0)
    expected = (
        "films: accuracy 75.00 % is not above 75.00 %, the accuracy of always predicting 'good' (6 of "
        "8 examples). Try in this order: "
    )
    assert (expected in caplog.text) == warns == bool(caplog.records)


def test_the_first_of_several_processes_reports(vocabulary, caplog, tmp_path, monkeypatch):
    (tmp_path / "films-metrics.jsonl").write_text('{"step": 5, "accuracy": 0.0}\n')
    monkeypatch.setattr(majority.atomic, "is_writer", lambda: False)
    majority.warn_of_majority([task_of(vocabulary, LABELS)], tmp_path, after_step=0)
    assert not caplog.records


def test_labels_that_occur_twice_are_compared(vocabulary, caplog, tmp_path):
    (tmp_path / "films-metrics.jsonl").write_text('{"step": 5, "accuracy": 50.0}\n')
    task = task_of(vocabulary, ["good", "good", "bad", "bad"])
    majority.warn_of_majority([task], tmp_path, after_step=0)
    assert "accuracy 50.00 % is not above 50.00 %" in caplog.text


def test_other_metrics_are_not_compared(vocabulary, caplog, tmp_path):
    (tmp_path / "films-metrics.jsonl").write_text('{"step": 5, "rouge1": 1.0}\n')
    majority.warn_of_majority([task_of(vocabulary, LABELS)], tmp_path, after_step=0)
    majority.warn_of_majority([task_of(vocabulary, LABELS)], tmp_path / "none", after_step=0)
    assert not caplog.records


def test_commands_warn_once(tiny_job, capsys, tmp_path):
    """A prompt of one step has learned nothing; the dev set of `eval` has one label."""
    rows = (tiny_job.folder / "eval.tsv").read_text().splitlines(keepends=True)
    bad = [row for row in rows if row.endswith("\tbad\n")]
    (tmp_path / "one.tsv").write_text("".join([rows[0], *bad]))
    run = {"MODEL_DIR": tmp_path / "run", "TRAIN_STEPS_RELATIVE": 1, "BATCH_SIZE": 8}
    result = cli.run(tiny_job.command("train", **run))
    shown = capsys.readouterr().err
    assert result["step"] == 1001
    assert shown.count(" %, the accuracy of always predicting ") == 1
    assert "targets are" not in shown
    assert (
        cli.run(tiny_job.command("train", **run))["step"] == 1001
    )  # a rerun ends at the same step
    capsys.readouterr()
    evaluation = {"PROMPT_FILE": result["prompt_file"], "EVAL_OUTPUT_DIR": tmp_path / "scores"}
    evaluation |= {"EVAL_FILE": tmp_path / "one.tsv", "BATCH_SIZE": 8}
    cli.run(tiny_job.command("eval", **evaluation))
    shown = capsys.readouterr().err
    assert shown.count("targets are 'bad', so the metrics cannot show") == 1
    assert " %, the accuracy of always predicting " not in shown
