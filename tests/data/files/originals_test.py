"""A data set is read from TFDS or from its original files, and gives the same either way."""

import gzip

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from prompt_tuning.data import seqio_tasks
from prompt_tuning.data.files import originals

FEATURES = {
    "text": "string",
    "label": "int64",
    "idx": {"passage": "int32", "query": "int32"},
    "answers": ["string"],
    "starts": ["int32"],
}


def rows(count):
    return [
        {
            "text": f"Zo\u00eb {i}",
            "label": i % 2,
            "idx": {"passage": i, "query": 2 * i},
            "answers": ["a"] * (i % 3),
            "starts": list(range(i)),
        }
        for i in range(count)
    ]


def make_source(read=None, name="films/long:1.0.0", splits=("train", "validation")):
    """A source whose file holds how many examples there are."""

    def from_file(folder, split):
        return rows(int(originals.find_file(folder, f"{split}.txt").read_text()))

    return originals.Source(name, read=read or from_file, features=FEATURES, splits=splits)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.txt").write_text("20")
    (tmp_path / "validation.txt").write_text("0")
    return epath.Path(tmp_path)


def test_original_files_as_tensors(folder):
    dataset = make_source().in_folder(folder).get_dataset("train", shuffle=False)
    spec = dataset.element_spec
    assert (spec["text"].dtype, spec["label"].dtype) == (tf.string, tf.int64)
    assert spec["idx"]["query"].dtype == spec["starts"].dtype == tf.int32
    examples = list(dataset.as_numpy_iterator())
    assert len(examples) == 20
    for i, example in enumerate(examples):
        assert example["text"].decode() == f"Zo\u00eb {i}" and example["label"] == i % 2
        assert example["idx"] == {"passage": i, "query": 2 * i}
        assert example["answers"].tolist() == [b"a"] * (i % 3)
        assert example["starts"].tolist() == list(range(i))


def test_original_files_are_shuffled_as_a_whole_by_the_seed(folder):
    def order(seed):
        dataset = make_source().in_folder(folder).get_dataset("train", shuffle=True, seed=seed)
        return [int(example["idx"]["passage"]) for example in dataset]

    assert sorted(order(1)) == list(range(20))
    assert order(1) == order(1) != order(2)


def test_nothing_is_read_before_a_split_is(folder):
    def read(folder, split):
        seen.append((folder, split))
        return rows(3)

    seen = []
    source = make_source(read).in_folder(folder)
    assert source.splits == ("train", "validation")
    assert source.list_shards("train") == ["train"]
    assert source.num_input_examples("train") is None  # seqio would keep their first order
    assert seen == []
    list(source.get_dataset("validation"))
    assert seen == [(folder, "validation")]
    list(source.get_dataset("validation", seed=1))
    assert seen == [(folder, "validation")], "once"
    list(source.in_folder(folder / "more").get_dataset("validation"))
    assert seen[1:] == [(folder / "more", "validation")]


def test_what_memory_does_not_hold_is_read_as_it_is_asked_for():
    def read(folder, split):
        for i in range(30):
            seen.append(i)
            yield {"text": f"{split} {i}", "label": i}

    seen = []
    columns = {"text": "string", "label": "int64"}
    source = originals.Source(
        "c4/en:2.2.0", read=read, features=columns, splits=["train"], streams=True
    ).in_folder("folder")
    dataset = source.get_dataset("train", shuffle=False)
    assert [e["text"] for e in dataset.take(2).as_numpy_iterator()] == [b"train 0", b"train 1"]
    assert max(seen) < 29
    order = [e["label"] for e in source.get_dataset("train", seed=1).as_numpy_iterator()]
    assert sorted(order) == list(range(30)) != order
    with pytest.raises(ValueError, match="no example of split 'train' of c4/en"):
        source._read = lambda folder, split: iter([])
        source.in_folder("folder").get_dataset("train")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("train", range(20)),
        ("train[:-3]", range(17)),
        ("train[-3:]", range(17, 20)),
        ("train[2:5]", range(2, 5)),
    ],
)
def test_parts_of_a_split(folder, part, expected):
    source = make_source().with_parts({"held_out": part})
    assert source.tfds_dataset._map_split("held_out") == part
    dataset = source.in_folder(folder).get_dataset("held_out", shuffle=False)
    assert [int(e["idx"]["passage"]) for e in dataset] == list(expected)


def test_a_split_without_examples(folder):
    with pytest.raises(ValueError, match=r"TASK_DATA_DIR .* no example of split 'validation'"):
        make_source().in_folder(folder).get_dataset("validation")


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """The TFDS folder that is read, with the data set films/long:1.0.0."""
    text = tfds.features.Text()
    features_of_tfds = tfds.features.FeaturesDict(
        {
            "text": text,
            "label": tfds.features.ClassLabel(num_classes=2),
            "idx": {"passage": np.int32, "query": np.int32},
            "answers": tfds.features.Sequence(text),
            "starts": tfds.features.Sequence(np.int32),
        }
    )
    data_set = tmp_path / "tfds" / "films" / "long" / "1.0.0"
    data_set.mkdir(parents=True)
    serializer = tfds.core.ExampleSerializer(features_of_tfds.get_serialized_info())
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(data_set), dataset_name="films", filetype_suffix="tfrecord"
    )
    splits = []
    for split, count in (("train", 20), ("test", 3)):
        file = data_set / f"films-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(file)) as writer:
            for row in rows(count):
                encoded = features_of_tfds.encode_example(row)
                writer.write(serializer.serialize_example(encoded))
        splits.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=[count], num_bytes=0, filename_template=template
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=str(data_set),
        features=features_of_tfds,
        split_infos=splits,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def test_tfds_gives_the_same_examples(prepared, folder):
    def key(example):
        return str(example["idx"])

    source = make_source()
    assert source.num_input_examples("train") == 20
    of_tfds = source.get_dataset("train", shuffle=False)
    of_files = source.in_folder(folder).get_dataset("train", shuffle=False)
    assert {k: v.dtype for k, v in of_tfds.element_spec.items() if k != "idx"} == {
        k: v.dtype for k, v in of_files.element_spec.items() if k != "idx"
    }
    pairs = [sorted(d.as_numpy_iterator(), key=key) for d in (of_tfds, of_files)]
    for one, other in zip(*pairs, strict=True):
        np.testing.assert_equal(one, other)


def test_splits_may_be_others_of_tfds(prepared):
    source = make_source(splits={"validation": "test"})
    assert list(source.splits) == ["validation"]
    assert len(list(source.get_dataset("validation"))) == 3


@pytest.mark.parametrize("read", [list, len])
def test_tfds_data_that_is_not_there(tmp_path, monkeypatch, read):
    monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", str(tmp_path))
    source = make_source(name="films/short:1.2.0")
    with pytest.raises(ValueError) as caught:
        source.num_input_examples("train") if read is len else source.get_dataset("train")
    message = str(caught.value)
    assert f"films/short:1.2.0 does not exist in {tmp_path}/films/short/1.2.0" in message
    assert f"tfds build films/short:1.2.0 --data_dir={tmp_path}" in message
    assert f"--tfds_data_dir={tmp_path}" in message and "TASK_DATA_DIR" in message


def make_task(name, source):
    return seqio.Task(name, source=source, output_features=seqio_tasks.text_features())


def test_tasks_and_mixtures_in_a_folder(folder):
    short, long = make_task("short", make_source()), make_task("long", make_source())
    moved = originals.in_folder(short, str(folder))
    assert moved.name == "short" and moved.source.list_shards("train") == ["train"]
    mixture = seqio.Mixture("both", [(short, 3.0), (long, lambda task: 1.0)])
    moved = originals.in_folder(mixture, str(folder))
    assert {task.name: moved.get_rate(task) for task in moved.tasks} == {"short": 3.0, "long": 1.0}
    assert moved.name == "both"
    assert all(len(list(task.source.get_dataset("train"))) == 20 for task in moved.tasks)


def test_a_folder_for_a_task_that_reads_none(folder):
    task = make_task("mine", seqio_tasks.InMemory({"train": rows(1)}))
    with pytest.raises(ValueError, match=r"task mine reads InMemory.*Remove TASK_DATA_DIR"):
        originals.in_folder(task, str(folder))


def test_a_folder_that_is_none(folder):
    task = make_task("films", make_source())
    with pytest.raises(FileNotFoundError, match=r"TASK_DATA_DIR .*train.txt is not a folder"):
        originals.in_folder(task, str(folder / "train.txt"))


def test_files_are_found_by_one_of_their_names(folder):
    assert originals.find_file(folder, "a.txt", "train.txt").name == "train.txt"
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"a"))
    assert originals.find_file(folder, "a.txt", "train.txt").name == "a.txt.gz"
    assert originals.find_file(folder, "train.txt", inside="films") == folder / "train.txt"
    (folder / "films").mkdir()
    (folder / "films" / "train.txt").write_text("")
    assert originals.find_file(folder, "train.txt", inside="films") == folder / "films/train.txt"
    with pytest.raises(FileNotFoundError, match=r"/films has none of b\.txt\. Set TASK_DATA_DIR"):
        originals.find_file(folder, "b.txt", inside="films")
    with pytest.raises(FileNotFoundError, match=r"b\.txt, c\.txt, nor a folder books with one"):
        originals.find_file(folder, "b.txt", "c.txt", inside="books")


def test_rows_of_another_task(folder):
    (folder / "a.jsonl").write_text('{"a": 1, "b": 2}\n{"a": 3}')
    found = [row for _, row in originals.jsonl_rows(folder / "a.jsonl", ["a"])]
    assert found == [{"a": 1, "b": 2}, {"a": 3}]
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: no b in \['a'\]; expected"):
        list(originals.jsonl_rows(folder / "a.jsonl", ["a", "b"]))
    assert originals.class_id("no", ["yes", "no"], "here") == 1
    with pytest.raises(ValueError, match="TASK_DATA_DIR here: label 'maybe'; expected one of yes"):
        originals.class_id("maybe", ["yes", "no"], "here")
