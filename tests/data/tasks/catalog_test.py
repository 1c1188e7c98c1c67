"""Names, kinds, splits and metrics of registered tasks and mixtures."""

import functools

import pytest
import seqio

from prompt_tuning.data import seqio_tasks
from prompt_tuning.data.tasks import catalog, registry
from prompt_tuning.data.text import metrics

ROWS = [{"inputs": "a", "targets": "b"}]


def em(targets, predictions):
    """Another metric."""


TASKS = {
    "catalog_test_one": (("odd", "test", "train"), [metrics.accuracy]),
    "catalog_test_two": (("validation",), [functools.partial(metrics.accuracy), em]),
}


@pytest.fixture
def registered(clean):
    """Two tasks and a mixture of them."""
    for name, (splits, metric_fns) in TASKS.items():
        seqio.TaskRegistry.add(
            name,
            source=seqio_tasks.InMemory(dict.fromkeys(splits, ROWS)),
            output_features=seqio_tasks.text_features(),
            metric_fns=metric_fns,
        )
    seqio.MixtureRegistry.add("catalog_test_both", list(TASKS), default_rate=1.0)


def test_entries_have_kind_splits_and_metrics(registered):
    both, one, two = catalog.entries("catalog_test")
    assert both == catalog.Entry(
        "catalog_test_both",
        "mixture of 2",
        ["train", "validation", "test", "odd"],
        ["accuracy", "em"],
    )
    assert (one.kind, one.splits) == ("task", ["train", "test", "odd"])
    assert (two.splits, two.metrics) == (["validation"], ["accuracy", "em"])


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("log_test_o", ["catalog_test_one"]),
        ("catalog_test_*o*", ["catalog_test_both", "catalog_test_one", "catalog_test_two"]),
        ("catalog_test_o", ["catalog_test_one"]),
        ("catalog_test_o?e", ["catalog_test_one"]),
        ("catalog_test_[bt]*", ["catalog_test_both", "catalog_test_two"]),
        ("*log_test_one", ["catalog_test_one"]),
    ],
)
def test_patterns_match_parts_or_complete_names(registered, pattern, names):
    assert [entry.name for entry in catalog.entries(pattern)] == names


def test_no_pattern_lists_all_names(registered):
    names = {entry.name for entry in catalog.entries()}
    assert {
        "catalog_test_both",
        "squad_v010_allanswers_examples",
        "glue_sst2_v200_examples",
    } <= names


@pytest.mark.parametrize("pattern", ["catalog_tset_one", "catalog_test_one?"])
def test_an_unknown_name_suggests_the_closest(registered, pattern):
    with pytest.raises(ValueError, match=r"Did you mean: catalog_test_one.*MIXTURE_OR_TASK_MODULE"):
        catalog.entries(pattern)


def test_metrics_of_a_task_with_samples_keep_their_names(clean):
    source = seqio_tasks.InMemory({"train": ROWS})
    registry.add_task(
        "catalog_test_samples", source, [], metric_fns=[metrics.accuracy], samples_name="a"
    )
    (entry,) = catalog.entries("catalog_test_samples")
    assert entry.metrics == ["accuracy", "samples"]


def test_a_task_without_prepared_tfds_data_is_listed(clean):
    source = seqio.TfdsDataSource("imdb_reviews/plain_text:1.0.0", tfds_data_dir="none")
    seqio.TaskRegistry.add("catalog_test_tfds", source, seqio_tasks.text_features())
    (entry,) = catalog.entries("catalog_test_tfds")
    assert entry == catalog.Entry("catalog_test_tfds", "task", [], [])
