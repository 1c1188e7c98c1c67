"""What predictions depend on. By command: evaluator_test.py, inferencer_test.py, ensembling_test.py."""

import dataclasses

import numpy as np
import pytest

from prompt_tuning.data import pipeline, sources
from prompt_tuning.inference import predictor_config
from prompt_tuning.methods import initializers
from prompt_tuning.models import decoding


@pytest.fixture
def config(tiny):
    prompt = initializers.FromArray(np.ones((4, 16)))
    return predictor_config.PredictorConfig(
        tiny.model, tiny.vocabulary, tiny.checkpoint, prompt, {None: ["good"]}, num_partitions=4
    )


def open_tasks(config, tiny_job, free=(), batch_size=2, **settings):
    source = sources.TaskSource(eval_file=str(tiny_job.folder / "eval.tsv"))
    dataset = pipeline.DatasetConfig(source, None, "validation", batch_size)
    return config.open_with_settings(dataset, "A = 1\n", free, **settings)


def test_settings_have_data_prompt_and_weights(config, tiny_job):
    (task,), settings = open_tasks(config, tiny_job)
    names = {"EVAL_FILE", "VOCABULARY_FILE", "PROMPT_FILE", "INITIAL_CHECKPOINT_PATH"}
    assert settings.contents.keys() == names and settings.values["A"] == 1
    assert len(task.examples) == 30 and task.labels == {None: ["good"]}
    (task,), settings = open_tasks(config, tiny_job, ["PROMPT_FILE"], shard=slice(1, None, 4))
    assert settings.contents.keys() == names - {"PROMPT_FILE"} and len(task.examples) == 8


def test_batches_are_divided_among_devices(config, tiny_job):
    with pytest.raises(ValueError, match="BATCH_SIZE is 3; expected a multiple of the 2"):
        open_tasks(config, tiny_job, batch_size=3)


def test_label_rankings_name_their_labels(config, tiny_job):
    decoder = decoding.LabelRanking(("bad", "good"), normalization="calibration")
    model = dataclasses.replace(config.model, decoder=decoder)
    (task,), _ = open_tasks(dataclasses.replace(config, model=model), tiny_job)
    assert task.labels == {None: ["bad", "good", "good"]} and task.neutral_text == ""
    assert predictor_config.ranking_settings(config.model) == {}
