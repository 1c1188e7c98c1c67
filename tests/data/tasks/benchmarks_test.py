"""Sources, postprocessors and metrics of a benchmark's tasks."""

import types

import pytest

from prompt_tuning.data.tasks import benchmarks
from prompt_tuning.data.text import metrics, postprocessors

DATA_SET = types.SimpleNamespace(
    classes=("no", "yes"),
    features={"text": "string", "label": "int64"},
    files={"train": "a.tsv", "validation": "b.tsv"},
)


def read(name, folder, split):
    return [{"text": f"{name} {split}", "label": 1}]


@pytest.fixture
def benchmark():
    """A benchmark of two tasks, one with its own metrics and postprocessor."""
    return benchmarks.Benchmark(
        name="films",
        data_sets={"long": DATA_SET, "short": DATA_SET},
        read=read,
        text_steps=lambda name: (),
        metrics={"short": ()},
        postprocessors={"short": postprocessors.number},
    )


def test_source_reads_the_splits_of_a_version(benchmark, tmp_path):
    source = benchmark.source("long", "1.2.0")
    assert (source.name, source.splits) == ("films/long:1.2.0", ("train", "validation"))
    [example] = source.in_folder(tmp_path).get_dataset("train").as_numpy_iterator()
    assert example == {"text": b"long train", "label": 1}
    assert benchmark.source("long", "1.2.0", ["validation"]).splits == ("validation",)


def test_tasks_predict_labels_unless_they_have_another_postprocessor(benchmark):
    assert benchmark.postprocess("long")("yes", example={}, is_target=False) == 1
    assert benchmark.postprocess("short")("2.5", example={}, is_target=False) == 2.5
    assert list(benchmark.metrics_of("long")) == [metrics.accuracy]
    assert list(benchmark.metrics_of("short")) == []
