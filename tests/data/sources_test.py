"""Which task a source opens, and what is wrong where it opens none."""

import sys

import pytest
import seqio

from prompt_tuning.data import pipeline, seqio_tasks, sources

MODULE = """
import seqio
from prompt_tuning.data import seqio_tasks, sources

seqio.TaskRegistry.add(
    "sources_test_films",
    source=seqio_tasks.InMemory({"train": [{"inputs": "a", "targets": "b"}]}),
    preprocessors=[],
    output_features=seqio_tasks.text_features(),
)
"""


@pytest.fixture
def registered(tmp_path, monkeypatch, clean):
    """The name of a module that registers a task."""
    (tmp_path / "films_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "films_module"
    sys.modules.pop("films_module", None)


def test_a_registered_task_by_name(registered, vocabulary):
    source = sources.TaskSource(name="sources_test_films", module=registered)
    assert source.open(vocabulary, "train").name == "sources_test_films"


def test_a_registered_mixture_by_name(clean, vocabulary):
    task = seqio.Task(
        "sources_test_one",
        source=seqio_tasks.InMemory({"train": [{"inputs": "a", "targets": "b"}]}),
        output_features=seqio_tasks.text_features(),
    )
    seqio.MixtureRegistry.add("sources_test_mixture", [(task, 1.0)])
    opened = sources.TaskSource(name="sources_test_mixture").open(vocabulary, "train")
    assert isinstance(opened, seqio.Mixture)


@pytest.fixture
def files(tmp_path):
    """Settings with one row in each file."""
    paths = {}
    for setting in ("train_file", "eval_file", "infer_file"):
        path = tmp_path / f"my-{setting}.tsv"
        path.write_text(f"text\tlabel\n{setting}\t1\n")
        paths[setting] = str(path)
    return paths


@pytest.mark.parametrize(
    ("split", "setting", "target"),
    [
        ("train", "train_file", b"yes"),
        ("validation", "eval_file", b"yes"),
        ("infer", "infer_file", b""),
    ],
)
def test_a_split_of_your_files_is_one_file(files, vocabulary, split, setting, target):
    for other in files.keys() - {setting}:  # is not even looked at
        files[other] += ".gone"
    source = sources.TaskSource(**files, input_template="film: {text}", label_map={"1": "yes"})
    task = source.open(vocabulary, split)
    assert (task.name, task.splits) == (f"my_{setting}", (split,))
    (example,) = task.get_dataset(None, split).as_numpy_iterator()
    assert example["inputs_pretokenized"] == f"film: {setting}".encode()
    assert example["targets_pretokenized"] == target


@pytest.mark.parametrize(
    ("settings", "split", "part"),
    [
        ({}, "train", "no data set is given. Set MIXTURE_OR_TASK_NAME"),
        (
            {"name": "a", "train_file": "b"},
            "train",
            r"both MIXTURE_OR_TASK_NAME \(a\) and \['TRAIN_FILE'\]",
        ),
        (
            {"name": "a", "truncate_field": "b"},
            "train",
            "TRUNCATE_FIELD is 'b', .* Remove TRUNCATE_FIELD",
        ),
        ({"train_file": "b"}, "validation", "EVAL_FILE"),
        ({"train_file": "b"}, "infer", "INFER_FILE"),
        (
            {"name": "a", "module": "no_such_module"},
            "train",
            "MIXTURE_OR_TASK_MODULE 'no_such_module'",
        ),
        (
            {"train_file": "b", "data_dir": "c"},
            "train",
            r"both TASK_DATA_DIR \(c\) and \['TRAIN_FILE'\] are set",
        ),
        (
            {"name": "no such task"},
            "train",
            "is not a registered task or mixture. For your own task, set MIXTURE_OR_TASK_M",
        ),
    ],
)
def test_what_is_wrong(vocabulary, settings, split, part):
    with pytest.raises(ValueError, match=part):
        sources.TaskSource(**settings).open(vocabulary, split)


def test_a_misspelt_name_gets_the_nearest(registered, vocabulary):
    source = sources.TaskSource(name="source_test_film", module=registered)
    with pytest.raises(ValueError, match="Did you mean: sources_test_films"):
        source.open(vocabulary, "train")


@pytest.mark.parametrize(
    "module", [None, "prompt_tuning.data.glue", "prompt_tuning.data.tasks", "t5.data.mixtures"]
)
@pytest.mark.parametrize("name", ["taskless_glue_sst2_v200_examples", "super_glue_cb_v102"])
def test_tasks_of_the_reference_by_name_and_by_its_modules(vocabulary, module, name):
    assert sources.TaskSource(name=name, module=module).open(vocabulary, "train").name == name


@pytest.mark.parametrize("prefix", ["mt5_", "byt5_"])
def test_a_name_of_another_vocabulary_is_that_of_the_model(vocabulary, prefix):
    name = "taskless_glue_sst2_v200_examples"
    assert sources.TaskSource(name=prefix + name).open(vocabulary, "train").name == name


def test_a_registered_name_keeps_its_prefix(clean, vocabulary):
    seqio.TaskRegistry.add(
        "mt5_glue_sst2_v200",
        source=seqio_tasks.InMemory({"train": [{"inputs": "a", "targets": "b"}]}),
        output_features=seqio_tasks.text_features(),
    )
    opened = sources.TaskSource(name="mt5_glue_sst2_v200").open(vocabulary, "train")
    assert opened.name == "mt5_glue_sst2_v200"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("prompt_tuning.recycling.data.qqp", "pr:glue_qqp_v200_0_1_verbalizers"),
        ("prompt_tuning.recycling.data.record", "pr:super_glue_record_v102_eval"),
        ("prompt_tuning.extended.perceptron.data.tasks", "glue_cola_v200_generation"),
    ],
)
def test_tasks_of_the_references_other_modules(vocabulary, module, name):
    assert sources.TaskSource(name=name, module=module).open(vocabulary, "train").name == name


def test_the_nearest_name_of_all_tasks(vocabulary):
    source = sources.TaskSource(name="taskless_glue_sst_v200_example")
    with pytest.raises(ValueError, match="Did you mean: taskless_glue_sst2_v200_examples"):
        source.open(vocabulary, "train")


def test_a_task_of_original_files(tmp_path, vocabulary):
    (tmp_path / "train.tsv").write_text("sentence\tlabel\na fine film \t1\n")
    source = sources.TaskSource(name="taskless_glue_sst2_v200", data_dir=str(tmp_path))
    config = pipeline.DatasetConfig(source, {"inputs": 40, "targets": 8}, "train", 1)
    [task] = pipeline.evaluation_tasks(config, vocabulary)
    [example] = task.examples
    assert task.text(example, "inputs") == "sentence: a fine film "
    assert example["targets"].tolist() == [*vocabulary.encode("positive"), 1]


def test_a_folder_of_original_files_that_is_not_there(vocabulary):
    source = sources.TaskSource(name="glue_sst2_v200", data_dir="none")
    with pytest.raises(FileNotFoundError, match="TASK_DATA_DIR none is not a folder"):
        source.open(vocabulary, "train")


def test_running_text_is_a_mixture_of_objectives(tmp_path, vocabulary):
    (tmp_path / "a.txt").write_text("she liked the good film .\n" * 300)
    source = sources.TextSource(
        [str(tmp_path / "*.txt")], [("span_corruption", 3.0), ("prefix_lm", 1.0)]
    )
    mixture = source.open(vocabulary, "train")
    rates = {task.name: mixture.get_rate(task) for task in seqio.get_subtasks(mixture)}
    assert rates == {"span_corruption": 3.0, "prefix_lm": 1.0}


def test_folder_of_tfds(monkeypatch):
    given = []
    monkeypatch.setattr(seqio, "set_tfds_data_dir_override", given.append)
    sources.set_tfds_data_dir("gs://data")
    assert given == ["gs://data"]


def test_folders_of_caches(monkeypatch):
    given = []
    monkeypatch.setattr(seqio, "add_global_cache_dirs", given.append)
    sources.add_cache_dirs(("a", "gs://b"))
    assert given == [["a", "gs://b"]]
