"""What is looked at, and told, before a run trains."""

import json

import pytest

from prompt_tuning import optimizers
from prompt_tuning.data import pipeline, sources
from prompt_tuning.runtime import run as run_lib
from prompt_tuning.runtime import trainer


@pytest.mark.parametrize(("split", "count"), [("validation", 0), ("train", 1)])
def test_a_task_without_validation_is_trained_on(vocabulary, tmp_path, caplog, split, count):
    target = {"span1_text": "the cat", "span1_index": 0, "span2_text": "it", "span2_index": 3}
    row = {"text": "the cat saw it", "target": target, "idx": 0, "label": True}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    source = sources.TaskSource("super_glue_wsc_v102_simple_train", data_dir=str(tmp_path))
    config = pipeline.DatasetConfig(source, {"inputs": 40, "targets": 10}, split, 1)
    assert len(trainer.evaluated(config, vocabulary)) == count
    told = "nothing is evaluated while training: super_glue_wsc_v102_simple_train has no split"
    assert (told in caplog.text) == (count == 0)


def test_nothing_is_evaluated_where_nothing_is_asked_for(vocabulary):
    assert trainer.evaluated(None, vocabulary) == []


@pytest.mark.parametrize(
    ("factors", "offset", "told"),
    [
        ("linear_decay", 0, True),
        # At its least at the start and from the 60th step on, but not in the middle.
        ("linear_decay", 1_100_000, False),
        ("constant", 0, False),
    ],
)
def test_a_schedule_that_is_over_before_the_run_is_told(factors, offset, told, caplog):
    schedule = run_lib.Schedule(1_100_100, 1_100_000)
    settings = {"warmup_steps": 10, "decay_factor": 0.02, "step_offset": offset}
    rate = optimizers.learning_rate_schedule(factors, **settings)
    trainer._tell_rate(rate, schedule)
    assert ("STEP_OFFSET: set it to 1100000" in caplog.text) == told
