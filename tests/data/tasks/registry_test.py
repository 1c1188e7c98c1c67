"""Registration of tasks in seqio."""

import dataclasses

import pytest
import seqio

from prompt_tuning.data import seqio_tasks, sources
from prompt_tuning.data.tasks import registry
from prompt_tuning.data.text import metrics

ROWS = {"train": [{"inputs": "a", "targets": " b"}]}


def test_a_text_task_is_registered_once_and_tokenized(clean, vocabulary):
    for _ in range(2):
        registry.add_task("registry_test", seqio_tasks.InMemory(ROWS), [])
    task = seqio.TaskRegistry.get("registry_test")
    assert task.supports_caching, "CacheDatasetPlaceholder"
    assert task.postprocess_fn(" b ", example={}, is_target=False) == "b"
    with_vocabulary = task.replace(
        output_features=seqio_tasks.text_features(vocabulary.for_seqio())
    )
    (example,) = with_vocabulary.get_dataset(None, "train").as_numpy_iterator()
    assert example["targets"].tolist() == [*vocabulary.encode("b"), 1]
    assert example["targets_pretokenized"] == b" b"


def test_a_pretraining_task_is_registered_once_and_tokenized(clean, vocabulary):
    source = seqio_tasks.InMemory({"train": [{"text": "a b"}]})

    def double(dataset):
        return dataset.map(lambda e: {"inputs": e["targets"], **e})

    for _ in range(2):
        registry.add_pretraining_task("registry_test_text", source, [double])
    task = seqio.TaskRegistry.get("registry_test_text")
    with_vocabulary = task.replace(
        output_features=seqio_tasks.text_features(vocabulary.for_seqio())
    )
    (example,) = with_vocabulary.get_dataset(None, "train").as_numpy_iterator()
    ids = [*vocabulary.encode("a b"), 1]
    assert {name: value.tolist() for name, value in example.items()} == {
        "inputs": ids,
        "targets": ids,
    }


def test_samples_are_shown_under_their_name(clean, vocabulary):
    registry.add_task(
        "registry_test_samples",
        seqio_tasks.InMemory(ROWS),
        [],
        metric_fns=[metrics.accuracy],
        samples_name="letters",
    )
    task = seqio.TaskRegistry.get("registry_test_samples")
    example = {"inputs_pretokenized": b"a", "targets_pretokenized": b"b"}
    target = task.postprocess_fn("b", example=example, is_target=True)
    answer = task.postprocess_fn(" c", example=example, is_target=False)
    values = {}
    for metric in task.metric_fns:
        values |= metric([target, target], [answer, answer | {"prediction": "b"}])
    assert values.pop("accuracy") == 50.0
    assert values.keys() == {"letters samples", "letters negative samples"}
    # seqio's evaluator, which T5X uses, treats all other classes as scalars.
    assert all(isinstance(value, seqio.metrics.Text) for value in values.values())


def test_a_mixture_gets_the_vocabulary_of_the_model(clean, vocabulary):
    registry.add_task("registry_test_a", seqio_tasks.InMemory(ROWS), [])
    registry.add_task("registry_test_b", seqio_tasks.InMemory({"validation": ROWS["train"]}), [])
    rates = [("registry_test_a", 2), ("registry_test_b", 1)]
    seqio.MixtureRegistry.add("registry_test_both", rates)
    # A run registers the source once per split.
    for split in ("train", "validation"):
        source = sources.TaskSource("registry_test_both")
        name = registry.add_with_vocabulary(vocabulary, source, split)
        assert name == "registry_test_both"
    mixture = seqio.get_mixture_or_task(name)
    assert mixture.output_features["inputs"].vocabulary == vocabulary.for_seqio()
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == dict(rates)
    task = seqio.get_mixture_or_task("registry_test_a")
    (example,) = task.get_dataset({"inputs": 9, "targets": 9}, "train").as_numpy_iterator()
    assert example["targets"].tolist() == [*vocabulary.encode("b"), 1]


def test_a_file_is_registered_under_its_name(clean, vocabulary, tiny_job):
    source = sources.TaskSource(train_file=str(tiny_job.folder / "train.tsv"))
    name = registry.add_with_vocabulary(vocabulary, source, "train")
    task = seqio.get_mixture_or_task(name)
    assert name == "train" and task.output_features["inputs"].vocabulary == vocabulary.for_seqio()
    assert registry.add_with_vocabulary(vocabulary, source, "train") == "train", "registered again"
    other = dataclasses.replace(vocabulary, extra_ids=0)
    with pytest.raises(ValueError, match="VOCABULARY_FILE and EXTRA_IDS"):
        registry.add_with_vocabulary(other, sources.TaskSource(name), "train")


def test_files_with_equal_names_get_separate_tasks(clean, vocabulary, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.tsv").write_text(f"text\tlabel\n{folder}\tgood\n")
    source = sources.TaskSource(
        train_file=str(tmp_path / "a" / "rows.tsv"), eval_file=str(tmp_path / "b" / "rows.tsv")
    )
    for split, name, text in (("train", "rows", b"a"), ("validation", "rows_validation", b"b")):
        assert registry.add_with_vocabulary(vocabulary, source, split) == name
        task = seqio.get_mixture_or_task(name)
        (example,) = task.get_dataset({"inputs": 9, "targets": 9}, split).as_numpy_iterator()
        assert example["inputs_pretokenized"] == text
