"""XSum and CNN/DailyMail."""

import json

import pytest
import seqio

from prompt_tuning.data import pipeline, sources
from prompt_tuning.data.tasks import summarization  # noqa: F401


@pytest.mark.parametrize(
    ("name", "tfds_name", "columns"),
    [
        ("xsum_v110_examples", "xsum:1.1.0", ("document", "summary")),
        ("cnn_dailymail_v310_examples", "cnn_dailymail:3.1.0", ("article", "highlights")),
    ],
)
def test_text_and_metrics_of_an_example(tmp_path, vocabulary, name, tfds_name, columns):
    text, summary = columns
    row = {text: "A film.\n\nIt was long.", summary: "a long film\nit was"}
    (tmp_path / "validation.jsonl").write_text(json.dumps(row) + "\n")
    config = pipeline.DatasetConfig(
        source=sources.TaskSource(name=name, data_dir=str(tmp_path)),
        task_feature_lengths={"inputs": 64, "targets": 64},
        split="validation",
        batch_size=1,
    )
    (task,) = pipeline.evaluation_tasks(config, vocabulary)
    assert task.task.source.name == tfds_name
    assert task.text(task.examples[0], "inputs") == "summarize: A film.\n\nIt was long."
    metrics = task.metrics(["it was\na long film"], None)
    assert metrics["rouge1"] == metrics["rougeLsum"] == 100.0 and metrics["rouge2"] == 75.0
    samples = f"{name.partition('_v')[0]} samples"
    assert "prediction: it was\na long film" in metrics[samples]
    # No samples of wrong predictions: no summary equals its target.
    assert metrics.keys() == {"rouge1", "rouge2", "rougeLsum", samples}


def test_tasks_have_three_splits():
    for name in ("xsum_v110_examples", "cnn_dailymail_v310_examples"):
        assert tuple(seqio.TaskRegistry.get(name).splits) == ("train", "validation", "test")
