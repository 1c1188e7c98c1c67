"""Tasks of seqio: those of files."""

import numpy as np
import pytest

from prompt_tuning.data import sources, vocabularies
from prompt_tuning.data.batches import batching


@pytest.fixture
def task(tmp_path, vocabulary):
    lines = "".join(f"film {i}\t{i % 2}\n" for i in range(50))
    (tmp_path / "my-dev.tsv").write_text("text\tlabel\n" + lines)
    source = sources.TaskSource(
        train_file=str(tmp_path / "my-dev.tsv"), label_map={"0": "bad", "1": "good"}
    )
    return source.open(vocabulary, "train")


def read(task, split, **options):
    return list(task.get_dataset(None, split, **options).as_numpy_iterator())


def test_task_tokenises_in_order(task, vocabulary):
    assert task.name == "my_dev" and task.splits == ("train",)
    got = read(task, "train", shuffle=False)
    assert [e["row"] for e in got] == list(range(50))
    assert got[3]["inputs_pretokenized"] == b"film 3"
    assert got[3]["inputs"].tolist() == [*vocabulary.encode("film 3"), 1]
    assert got[3]["targets"].tolist() == [*vocabulary.encode("good"), 1]


def test_task_without_targets(tmp_path, vocabulary):
    (tmp_path / "a.tsv").write_text("text\nx\ny\n")
    source = sources.TaskSource(infer_file=str(tmp_path / "a.tsv"))
    examples = read(source.open(vocabulary, "infer"), "infer", shuffle=False)
    assert [example["targets"].tolist() for example in examples] == [[1]] * 2


@pytest.mark.parametrize("lengths", [None, {"inputs": 4, "targets": 2}])
def test_tokens_are_those_of_batches_in_numpy(task, vocabulary, lengths):
    examples = list(task.get_dataset(lengths, "train", shuffle=False).as_numpy_iterator())
    for i, example in enumerate(examples):
        texts = {"inputs": f"film {i}", "targets": ("bad", "good")[i % 2], "row": i}
        expected = vocabularies.tokenize(texts, vocabulary)
        if lengths is not None:
            expected = batching.MaxLengths.from_features(lengths).trim(expected)
            assert len(example["inputs"]) == 4 and example["inputs"][-1] == 1
        assert example.keys() == expected.keys()
        for name in ("inputs", "targets", "row"):
            np.testing.assert_array_equal(example[name], expected[name])
            assert example[name].dtype == np.int32


def test_task_shuffles_by_seed(task):
    first, again, other = (
        [int(e["row"]) for e in read(task, "train", seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(other) == list(range(50)) != first


def test_each_repeat_has_its_own_order(task):
    rows = [int(e["row"]) for e in read(task, "train", seed=1, num_epochs=2)]
    assert sorted(rows[:50]) == sorted(rows[50:]) and rows[:50] != rows[50:]
