"""IMDB and SST-2 with held-out validation and ranked labels."""

import pytest
import seqio

from prompt_tuning.data import pipeline, sources
from prompt_tuning.data.tasks import sentiment

NAMES = ("pr:imdb_v100_0_1_verbalizers", "pr:imdb_v100_negative_positive_verbalizers")
LENGTHS = {"inputs": 32, "targets": 16}


@pytest.fixture
def imdb(tmp_path, monkeypatch):
    """aclImdb with 3 reviews of each kind; 2 of 6 are held out."""
    monkeypatch.setattr(sentiment, "HELD_OUT", 2)
    for part in ("train", "test"):
        for kind in ("neg", "pos"):
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(3):
                (tmp_path / part / kind / f"{i}_5.txt").write_text(f"{part} {kind} {i}")
    return str(tmp_path)


def opened(name, folder, vocabulary, split="validation"):
    config = pipeline.DatasetConfig(
        source=sources.TaskSource(name=name, data_dir=folder),
        task_feature_lengths=LENGTHS,
        split=split,
        batch_size=2,
    )
    return pipeline.evaluation_tasks(config, vocabulary)


def texts(task):
    return [task.text(e, "inputs") for e in task.examples]


def test_names():
    tasks = {n for n in seqio.TaskRegistry.names() if n.startswith(("pr:imdb", "pr:glue_sst2"))}
    names = (*NAMES, "pr:glue_sst2_v200")
    assert tasks == {f"{name}_{kind}" for name in names for kind in ("train", "test", "test_rc")}
    for name in names:
        for mixture, kinds in ((name, 3), (f"{name}_eval", 2)):
            subtasks = seqio.get_subtasks(seqio.MixtureRegistry.get(mixture))
            found = sorted(task.name for task in subtasks)
            assert found == [f"{name}_{kind}" for kind in ("test", "test_rc", "train")[:kinds]]


def test_splits_of_tfds():
    source = seqio.TaskRegistry.get("pr:imdb_v100_0_1_verbalizers_train").source
    assert source.name == "imdb_reviews/plain_text:1.0.0"
    splits = {split: source.tfds_dataset._map_split(split) for split in source.splits}
    assert splits == {"train": "train[:-1000]", "validation": "train[-1000:]"}
    source = seqio.TaskRegistry.get("pr:glue_sst2_v200_test_rc").source
    assert source.tfds_dataset._map_split("validation") == "validation"


def test_validation_is_held_out_of_train(imdb, vocabulary):
    name = f"{NAMES[1]}_train"
    (train,) = opened(name, imdb, vocabulary, "train")
    (validation,) = opened(name, imdb, vocabulary)
    assert texts(train) == [f"train {kind} {i}" for i in (0, 1) for kind in ("neg", "pos")]
    assert texts(validation) == ["train neg 2", "train pos 2"]
    assert [train.text(e, "targets") for e in train.examples] == ["negative", "positive"] * 2
    assert train.metrics(["negative"] * 4, None) == {"accuracy": 50.0}


def test_labels_are_ranked(imdb, vocabulary):
    test, ranked = opened(f"{NAMES[0]}_eval", imdb, vocabulary)
    assert texts(test) == [f"test {kind} {i}" for i in range(3) for kind in ("neg", "pos")]
    assert texts(ranked) == [text for text in texts(test) for _ in "01"]
    assert [ranked.text(e, "targets") for e in ranked.examples] == ["0", "1"] * 6
    assert ranked.needs_scores and not test.needs_scores
    # "0" is always likelier; 3 of 6 reviews are negative.
    metrics = ranked.metrics([""] * 12, [-1.0, -2.0] * 6)
    assert metrics == {"accuracy": 50.0, "normed_accuracy": 50.0}


def test_sst2(tmp_path, vocabulary):
    rows = "".join(f"film {i}\t{i % 2}\n" for i in range(4))
    (tmp_path / "dev.tsv").write_text(f"sentence\tlabel\n{rows}")
    test, ranked = opened("pr:glue_sst2_v200_eval", str(tmp_path), vocabulary)
    assert texts(test) == [f"sentence: film {i}" for i in range(4)]
    assert [ranked.text(e, "targets") for e in ranked.examples] == ["negative", "positive"] * 4
    assert ranked.metrics([""] * 8, [-1.0, -2.0, -2.0, -1.0] * 2) == {"accuracy": 100.0}
