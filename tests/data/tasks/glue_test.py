"""GLUE's tasks: names, sources, examples as text and ids, metrics."""

import itertools
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import pipeline, seqio_tasks, sources
from prompt_tuning.data.batches import soft_tokens
from prompt_tuning.data.files import glue_files
from prompt_tuning.data.tasks import glue  # noqa: F401

NAMES = (
    "cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "mnli_mismatched", "mnli_matched", "qnli", "rte",
    "wnli", "ax",
)  # fmt: skip
VARIANTS = [
    (prefix, version, suffix)
    for prefix in ("", "taskless_", "task_index_")
    for version in ("v002", "v200")
    for suffix in ("", "_examples")
]
MNLI = "mnli hypothesis: h premise: p"
# Task -> inputs of an example of label 1, its target, the metrics, the index of the sentinel.
TASKS = {
    "cola": ("cola sentence: s", "acceptable", ["matthews_corrcoef"], 0),
    "sst2": ("sst2 sentence: s", "positive", ["accuracy"], 6),
    "mrpc": ("mrpc sentence1: a sentence2: b", "equivalent", ["f1", "accuracy"], 2),
    "qqp": ("qqp question1: c question2: d", "duplicate", ["f1", "accuracy"], 4),
    "stsb": (
        "stsb sentence1: a sentence2: b",
        "1.0",
        ["pearson_corrcoef", "spearman_corrcoef"],
        7,
    ),
    "mnli": (MNLI, "neutral", ["accuracy"], 1),
    "mnli_matched": (MNLI, "neutral", ["accuracy"], 1),
    "mnli_mismatched": (MNLI, "neutral", ["accuracy"], 1),
    "ax": (MNLI, "neutral", [], 1),
    "qnli": ("qnli question: q sentence: s", "not_entailment", ["accuracy"], 3),
    "rte": ("rte sentence1: a sentence2: b", "not_entailment", ["accuracy"], 5),
    "wnli": ("wnli sentence1: a sentence2: b", "entailment", ["accuracy"], 8),
}
VALUES = {
    "sentence": "s",
    "sentence1": "a",
    "sentence2": "b",
    "question": "q",
    "question1": "c",
    "question2": "d",
    "premise": "p",
    "hypothesis": "h",
    "idx": 0,
}


def test_all_names_of_the_reference_are_registered():
    names = {f"{p}glue_{n}_{v}{s}" for n, (p, v, s) in itertools.product(NAMES, VARIANTS)}
    assert len(names) == 120 + 24  # 24 are names of the t5 library
    assert names <= set(seqio.TaskRegistry.names())
    mixtures = {f"{p}glue_mnli_and_dev_{v}{s}" for p, v, s in VARIANTS}
    assert len(mixtures) == 6 + 6
    assert mixtures | {"glue_v002_proportional"} <= set(seqio.MixtureRegistry.names())
    assert set(TASKS) == set(NAMES) == set(glue_files.DATA_SETS)


@pytest.mark.parametrize("name", NAMES)
def test_sources_vocabularies_and_splits(name):
    for prefix, version, suffix in VARIANTS:
        task = seqio.TaskRegistry.get(f"{prefix}glue_{name}_{version}{suffix}")
        tfds_version = {"v002": "1.0.0", "v200": "2.0.0"}[version]
        assert task.source.name == f"glue/{name}:{tfds_version}"
        assert task.output_features["inputs"].vocabulary is seqio_tasks.MODEL_VOCABULARY
        assert task.supports_caching
    splits = {
        "mnli": [
            "train",
            *(f"{s}_{m}matched" for s in ("validation", "test") for m in ("", "mis")),
        ],
        "mnli_matched": ["validation", "test"],
        "mnli_mismatched": ["validation", "test"],
        "ax": ["test"],
    }
    assert list(task.splits) == splits.get(name, ["train", "validation", "test"])


@pytest.mark.parametrize("name", NAMES)
def test_text_ids_and_metrics_of_an_example(vocabulary, name):
    inputs, target, metrics, sentinel = TASKS[name]
    label = 1.0 if name == "stsb" else 1
    example = {feature: VALUES[feature] for feature in glue_files.DATA_SETS[name].texts}
    source = seqio_tasks.InMemory({"train": [{**example, "label": label, "idx": 0}]})
    taskless = inputs.partition(" ")[2]
    ids = vocabulary.encode(taskless)
    expected = {
        "": (inputs, vocabulary.encode(inputs)),
        "taskless_": (taskless, ids),
        "task_index_": (taskless, [vocabulary.size - 1 - sentinel, *ids]),
    }
    for prefix, (text, tokens) in expected.items():
        task = seqio.TaskRegistry.get(f"{prefix}glue_{name}_v200").replace(
            source=source, output_features=seqio_tasks.text_features(vocabulary.for_seqio())
        )
        [example] = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
        assert example["inputs_pretokenized"].decode() == text
        assert example["inputs"].tolist() == [*tokens, 1]
        assert example["targets"].tolist() == [*vocabulary.encode(target), 1]
    right = task.postprocess_fn(target, example=example, is_target=True)
    wrong = task.postprocess_fn("neither", example=example, is_target=False)
    assert (right, wrong) == (label, -1)
    names = [name for m in task.metric_fns for name in m([right, 0, 1], [right, wrong, 1])]
    assert names == metrics


@pytest.mark.parametrize(("prefix", "version", "suffix"), VARIANTS)
def test_the_mixture_of_mnli_has_tasks_of_its_variant(prefix, version, suffix):
    mixture = seqio.MixtureRegistry.get(f"{prefix}glue_mnli_and_dev_{version}{suffix}")
    names = ("mnli", "mnli_matched", "mnli_mismatched")
    expected = {f"{prefix}glue_{name}_{version}{suffix}": 1.0 for name in names}
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == expected


def test_the_proportional_mixture_has_sizes_as_rates():
    mixture = seqio.MixtureRegistry.get("glue_v002_proportional")
    sizes = {
        "cola": 8_551, "sst2": 67_349, "mrpc": 3_668, "qqp": 363_849, "stsb": 5_749, "mnli": 392_702,
        "qnli": 104_743, "rte": 2_490, "mnli_mismatched": 0, "mnli_matched": 0, "ax": 0,
    }  # fmt: skip
    expected = {f"glue_{name}_v002": rate for name, rate in sizes.items()}
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == expected


def test_a_cache_of_seqio_is_read(vocabulary, tmp_path, monkeypatch):
    """In the format of `seqio_cache_tasks`: examples without EOS, and metadata."""
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(tmp_path)])
    name = "taskless_glue_sst2_v200_examples"
    config = pipeline.DatasetConfig(
        sources.TaskSource(name), {"inputs": 40, "targets": 8}, "train", 1, use_cached=True
    )
    part = rf"no cache of {name} .*USE_CACHED_TASKS = False.*seqio_cache_tasks cannot cache"
    with pytest.raises(ValueError, match=part):
        pipeline.evaluation_tasks(config, vocabulary)
    ids = vocabulary.encode("sentence: a fine film")
    example = {"inputs": np.array(ids), "targets": np.array([5]), "inputs_pretokenized": b"film"}
    folder = tmp_path / name
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "train.tfrecord-00000-of-00001")) as writer:
        writer.write(seqio.utils.dict_to_tfexample(example).SerializeToString())
    features = {
        "inputs": {"shape": [None], "dtype": "int32"},
        "targets": {"shape": [None], "dtype": "int32"},
        "inputs_pretokenized": {"shape": [], "dtype": "string"},
    }
    info = {"num_shards": 1, "features": features, "seqio_version": seqio.__version__}
    (folder / "info.train.json").write_text(json.dumps(info))
    (folder / "stats.train.json").write_text(json.dumps({"examples": 1}))
    (folder / "COMPLETED").touch()
    [task] = pipeline.evaluation_tasks(config, vocabulary)
    [read] = task.examples
    assert (read["inputs"].tolist(), read["targets"].tolist()) == ([*ids, 1], [5, 1])
    assert task.text(read, "inputs") == "film"
    batches = pipeline.TrainBatches(config, vocabulary, soft_tokens.SoftTokens(np.array([300])))
    batch = next(batches)
    assert batch["encoder_input_tokens"][0, : len(ids) + 2].tolist() == [300, *ids, 1]
