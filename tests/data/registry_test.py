"""Registering once."""

import seqio

from prompt_tuning.data import features, in_memory, metrics, registry

ROWS = {"train": [{"inputs": "a", "targets": " b"}]}


def test_a_task_of_text(clean, vocabulary):
    for _ in range(2):
        registry.add_task("registry_test", in_memory.InMemory(ROWS), [])
    task = seqio.TaskRegistry.get("registry_test")
    assert task.supports_caching, "CacheDatasetPlaceholder"
    assert task.postprocess_fn(" b ", example={}, is_target=False) == "b"
    mine = task.replace(output_features=features.features(vocabulary.for_seqio()))
    (example,) = mine.get_dataset(None, "train").as_numpy_iterator()
    assert example["targets"].tolist() == [*vocabulary.encode("b"), 1]
    assert example["targets_pretokenized"] == b" b"


def test_a_task_of_running_text(clean, vocabulary):
    source = in_memory.InMemory({"train": [{"text": "a b"}]})

    def double(dataset):
        return dataset.map(lambda e: {"inputs": e["targets"], **e})

    for _ in range(2):
        registry.add_pretraining_task("registry_test_text", source, [double])
    task = seqio.TaskRegistry.get("registry_test_text")
    mine = task.replace(output_features=features.features(vocabulary.for_seqio()))
    (example,) = mine.get_dataset(None, "train").as_numpy_iterator()
    ids = [*vocabulary.encode("a b"), 1]
    assert {name: value.tolist() for name, value in example.items()} == {
        "inputs": ids,
        "targets": ids,
    }


def test_samples_are_shown_under_their_name(clean, vocabulary):
    registry.add_task(
        "registry_test_samples",
        in_memory.InMemory(ROWS),
        [],
        metric_fns=[metrics.accuracy],
        samples_name="these",
    )
    task = seqio.TaskRegistry.get("registry_test_samples")
    example = {"inputs_pretokenized": b"a", "targets_pretokenized": b"b"}
    target = task.postprocess_fn("b", example=example, is_target=True)
    answer = task.postprocess_fn(" c", example=example, is_target=False)
    values = {}
    for metric in task.metric_fns:
        values |= metric([target, target], [answer, answer | {"prediction": "b"}])
    assert values.pop("accuracy") == 50.0
    assert values.keys() == {"these samples", "these negative samples"}
