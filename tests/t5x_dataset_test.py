"""T5X saves the position in the data with `tf.train.Checkpoint`: every data set can be, and resumes."""

import ast
import functools
import gzip
import json
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf
from clu.data import dataset_iterator

import prompt_tuning
from prompt_tuning.data import seqio_tasks, sources
from prompt_tuning.data.batches import soft_tokens
from prompt_tuning.data.files import originals
from prompt_tuning.t5x import feature_converter
from prompt_tuning.t5x import models as t5x_models

LENGTHS = {"inputs": 40, "targets": 8}
BATCH_SIZE = 16
SENTENCE = "she liked the good film in the park"
TASKS = {
    "taskless_glue_sst2_v200_examples": LENGTHS,
    "glue_mnli_and_dev_v002": LENGTHS,
    "c4_v220_span_corruption": {"inputs": 40, "targets": 20},
    "c4_v220_prefix_lm": {"inputs": 40, "targets": 20},
}


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a test registers, or replaces, is as before afterwards."""
    sources.register_all()
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


@pytest.fixture
def model(tiny) -> t5x_models.Model:
    return t5x_models.Model(tiny.model, tiny.vocabulary)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Original files of SST-2, MNLI and C4: of it many more documents than seqio shuffles together."""
    folder = tmp_path_factory.mktemp("originals")
    rows = [f"{SENTENCE} {i}\t{i % 2}\n" for i in range(60)]
    (folder / "SST-2").mkdir()
    (folder / "SST-2" / "train.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    (folder / "MNLI").mkdir()
    names = ("entailment", "neutral", "contradiction")
    rows = [f"{i}\t{SENTENCE} {i}\t{SENTENCE}\t{names[i % 3]}\n" for i in range(60)]
    header = "index\tsentence1\tsentence2\tgold_label\n"
    for name in ("train", "dev_matched", "dev_mismatched"):
        (folder / "MNLI" / f"{name}.tsv").write_text(header + "".join(rows))
    documents = (json.dumps({"text": f"{SENTENCE} {i}"}) + "\n" for i in range(2500))
    shard = folder / "c4-train.00000-of-01024.json.gz"
    shard.write_bytes(gzip.compress("".join(documents).encode()))
    return folder


@pytest.fixture
def open_iterator(model, tiny_job, folder, monkeypatch):
    """(name, None for an own file; settings) -> the iterator that T5X's trainer makes."""
    monkeypatch.setattr(originals, "STREAM_SHUFFLE", 50)

    def make(name=None, pack=False, shuffle=True, lengths=LENGTHS):
        source = sources.TaskSource(train_file=str(tiny_job.folder / "train.tsv"))
        if name is not None:
            source = sources.TaskSource(name=name, data_dir=str(folder))
        dataset = seqio.get_dataset(
            seqio.get_mixture_or_task(t5x_models.task(source, "train", model.vocabulary)),
            lengths,
            dataset_split="train",
            shuffle=shuffle,
            num_epochs=None,
            feature_converter=model.FEATURE_CONVERTER_CLS(pack=pack, use_custom_packing_ops=False),
            shard_info=seqio.ShardInfo(0, 1),
            use_cached=False,
            seed=3,
            trim_output_features=True,
            batch_size=BATCH_SIZE,
        )
        return dataset_iterator.TfDatasetIterator(dataset, checkpoint=True)

    return make


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def check_resumes(open_iterator, path, steps):
    """After a restart the iterator gives what it would have given without."""
    iterator = open_iterator()
    take(iterator, steps)
    iterator.save(path)
    expected = take(iterator, 4)
    restarted = open_iterator()
    restarted.restore(path)
    for have, want in zip(take(restarted, 4), expected, strict=True):
        assert have.keys() == want.keys()
        for name, array in want.items():
            np.testing.assert_array_equal(have[name], array)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("steps", [1, 25])
def test_an_own_file_resumes_in_any_epoch(open_iterator, tmp_path, pack, shuffle, steps):
    # 162 examples: 25 batches of rows are two epochs and a half.
    make = functools.partial(open_iterator, pack=pack, shuffle=shuffle)
    check_resumes(make, str(tmp_path / "ds"), steps)


@pytest.mark.parametrize("name", TASKS)
def test_a_registered_task_resumes(open_iterator, tmp_path, name):
    make = functools.partial(open_iterator, name, lengths=TASKS[name])
    check_resumes(make, str(tmp_path / "ds"), 6)


def test_every_epoch_has_all_examples_in_an_order_of_its_own(open_iterator):
    batches = take(open_iterator(), 21)  # 162 = 10 * 16 + 2
    inputs = np.concatenate([batch["encoder_input_tokens"] for batch in batches])
    first, second = (list(map(bytes, inputs[start : start + 162])) for start in (0, 162))
    assert sorted(first) == sorted(second) and first != second
    again = take(open_iterator(), 21)
    assert all((a["encoder_input_tokens"] == b["encoder_input_tokens"]).all()
               for a, b in zip(again, batches, strict=True))  # fmt: skip


def test_inference_resumes(model, tiny_job, tmp_path):
    source = sources.TaskSource(infer_file=str(tiny_job.folder / "infer.jsonl"))
    task = seqio.get_mixture_or_task(t5x_models.task(source, "infer", model.vocabulary))

    def open_chunks():
        """The iterator that T5X's inferencer makes of a task, and its checkpoint."""
        dataset = task.get_dataset(LENGTHS, "infer", shuffle=False, num_epochs=1)
        converted = model.FEATURE_CONVERTER_CLS(pack=False)(dataset, task_feature_lengths=LENGTHS)
        chunks = tf.data.Dataset.zip((dataset, converted)).padded_batch(6).enumerate()
        iterator = iter(chunks.prefetch(tf.data.AUTOTUNE))
        return iterator, tf.train.Checkpoint(ds=iterator)

    def texts(iterator):
        return [(int(n), list(task["inputs_pretokenized"].numpy())) for n, (task, _) in iterator]

    iterator, checkpoint = open_chunks()
    next(iterator)
    path = checkpoint.write(str(tmp_path / "input.ckpt"))
    expected = texts(iterator)
    iterator, checkpoint = open_chunks()
    checkpoint.read(path).assert_consumed()
    assert texts(iterator) == expected
    assert [number for number, _ in expected] == [1, 2, 3]


def function_of(step):
    while isinstance(step, functools.partial):
        step = step.func
    return getattr(step, "__qualname__", type(step).__name__)


def tasks_with_every_step() -> list[seqio.Task]:
    """Registered tasks that have all preprocessors of all registered tasks among them."""
    sources.register_all()
    chosen, seen = [], set()
    for name in seqio.TaskRegistry.names():
        task = seqio.TaskRegistry.get(name)
        if steps := set(map(function_of, task.preprocessors)) - seen:
            chosen, seen = [*chosen, task], seen | steps
    return chosen


def one_example(features):
    """Of an original data set's features; no step is run on it."""
    if isinstance(features, dict):
        return {name: one_example(feature) for name, feature in features.items()}
    if isinstance(features, list):
        return [one_example(features[0])]
    return tf.constant("" if features == "string" else 0, features)


@pytest.mark.parametrize("task", tasks_with_every_step(), ids=lambda task: task.name)
def test_no_preprocessor_has_a_state_that_cannot_be_saved(task, vocabulary, tmp_path):
    dataset = tf.data.Dataset.from_tensors(one_example(task.source._features))
    split = min(task.splits)
    source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: dataset, [split])
    task = seqio_tasks.use_vocabulary(task, vocabulary).replace(source=source)
    converter = feature_converter.SoftTokenConverter(soft_tokens.SoftTokens(np.arange(4)))
    batches = seqio.get_dataset(task, LENGTHS, converter, split, shuffle=True, num_epochs=None)
    tf.train.Checkpoint(ds=iter(batches)).write(str(tmp_path / "ds"))


def test_no_python_function_in_a_pipeline_is_stateful():
    for file in pathlib.Path(prompt_tuning.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            name = getattr(getattr(call, "func", None), "attr", "")
            assert name not in ("py_function", "from_generator"), file
            if name == "numpy_function":
                stateful = next((k.value for k in call.keywords if k.arg == "stateful"), None)
                assert stateful is not None and stateful.value is False, file
