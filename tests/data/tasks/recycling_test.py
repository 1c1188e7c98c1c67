"""Tasks of prompt recycling: held-out validation, generated and ranked predictions."""

import json

import pytest
import seqio

from prompt_tuning.data import pipeline, sources
from prompt_tuning.data.tasks import recycling  # noqa: F401

IMDB = ("pr:imdb_v100_0_1_verbalizers", "pr:imdb_v100_negative_positive_verbalizers")
QQP = {
    f"pr:glue_qqp_v200_{words}_verbalizers": labels
    for words, labels in {
        "not_duplicate_duplicate": ("not_duplicate", "duplicate"),
        "0_1": ("0", "1"),
        "unique_duplicate": ("unique", "duplicate"),
        "not_spc_duplicate_duplicate": ("not duplicate", "duplicate"),
    }.items()
}
RECORD = "pr:super_glue_record_v102"
# Name -> suffixes of its tasks; the training task is first.
KINDS = {
    **dict.fromkeys((*IMDB, "pr:glue_sst2_v200"), ("train", "test", "test_rc")),
    **dict.fromkeys(QQP, ("training", "test", "rc", "rc_normed")),
    RECORD: ("training", "test", "rc"),
}


def opened(name, folder, vocabulary, split="validation"):
    config = pipeline.DatasetConfig(
        source=sources.TaskSource(name=name, data_dir=str(folder)),
        task_feature_lengths={"inputs": 128, "targets": 32},
        split=split,
        batch_size=2,
    )
    return pipeline.evaluation_tasks(config, vocabulary)


def texts(task, feature="inputs"):
    return [task.text(e, feature) for e in task.examples]


def test_all_names_of_the_reference_are_registered():
    names = {f"{name}_{kind}" for name, kinds in KINDS.items() for kind in kinds}
    assert len(names) == 28
    assert {n for n in seqio.TaskRegistry.names() if n.startswith("pr:")} == names


@pytest.mark.parametrize("name", KINDS)
def test_mixtures_contain_their_tasks(name):
    for mixture, kinds in ((name, KINDS[name]), (f"{name}_eval", KINDS[name][1:])):
        subtasks = seqio.get_subtasks(seqio.MixtureRegistry.get(mixture))
        assert {task.name for task in subtasks} == {f"{name}_{kind}" for kind in kinds}


@pytest.mark.parametrize(
    ("name", "tfds_name", "count", "test"),
    [
        *((name, "imdb_reviews/plain_text:1.0.0", 1000, "test") for name in IMDB),
        ("pr:glue_sst2_v200", "glue/sst2:2.0.0", 1000, "validation"),
        *((name, "glue/qqp:2.0.0", 10_000, "validation") for name in QQP),
        (RECORD, "super_glue/record:1.0.2", 10_000, "validation"),
    ],
)
def test_splits_of_the_data_set(name, tfds_name, count, test):
    train, *others = (seqio.TaskRegistry.get(f"{name}_{kind}").source for kind in KINDS[name])
    assert train.name == tfds_name
    splits = {split: train.tfds_dataset._map_split(split) for split in train.splits}
    assert splits == {"train": f"train[:-{count}]", "validation": f"train[-{count}:]"}
    for source in others:
        assert list(source.splits) == ["validation"]
        assert source.tfds_dataset._map_split("validation") == test


@pytest.fixture(scope="module")
def imdb(tmp_path_factory):
    """aclImdb with 3 test reviews per label, and 2 training reviews that are not held out."""
    folder = tmp_path_factory.mktemp("aclImdb")
    for part, count in (("train", 501), ("test", 3)):
        for kind in ("neg", "pos"):
            (folder / part / kind).mkdir(parents=True)
            for i in range(count):
                (folder / part / kind / f"{i}_5.txt").write_text(f"{part} {kind}  {i}")
    return folder


def test_validation_is_held_out_of_the_training_data(imdb, vocabulary):
    (train,) = opened(f"{IMDB[1]}_train", imdb, vocabulary, "train")
    (validation,) = opened(f"{IMDB[1]}_train", imdb, vocabulary)
    # White space stays as it is.
    assert texts(train) == ["train neg  0", "train pos  0"]
    assert texts(train, "targets") == ["negative", "positive"]
    assert len(validation.examples) == 1000 and texts(validation)[-1] == "train pos  500"
    assert train.metrics(["negative"] * 2, None) == {"accuracy": 50.0}


def test_labels_of_imdb_are_ranked(imdb, vocabulary):
    test, ranked = opened(f"{IMDB[0]}_eval", imdb, vocabulary)
    assert texts(test) == [f"test {kind}  {i}" for i in range(3) for kind in ("neg", "pos")]
    assert texts(ranked) == [text for text in texts(test) for _ in "01"]
    assert texts(ranked, "targets") == ["0", "1"] * 6
    assert ranked.needs_scores and not ranked.needs_answers
    assert test.needs_answers and not test.needs_scores
    # "0" is always likelier; 3 of 6 reviews are negative.
    metrics = ranked.metrics([""] * 12, [-1.0, -2.0] * 6)
    assert list(metrics) == [
        f"{prefix}{name}"
        for prefix in ("", "normed_")
        for name in ("accuracy", "f1", "auc-roc", "auc-pr")
    ]
    assert (metrics["accuracy"], metrics["normed_accuracy"], metrics["f1"]) == (50.0, 50.0, 0.0)


def test_sst2_has_the_format_of_t5_without_the_task_name(tmp_path, vocabulary):
    rows = "".join(f"film  {i} \t{i % 2}\n" for i in range(4))
    (tmp_path / "dev.tsv").write_text(f"sentence\tlabel\n{rows}")
    test, ranked = opened("pr:glue_sst2_v200_eval", tmp_path, vocabulary)
    assert texts(test) == [f"sentence: film  {i} " for i in range(4)]
    assert test.metrics(["negative", "positive", "neither", "positive"], None) == {"accuracy": 75.0}
    assert texts(ranked, "targets") == ["negative", "positive"] * 4
    metrics = ranked.metrics([""] * 8, [-1.0, -2.0, -2.0, -1.0] * 2)
    assert metrics == dict.fromkeys(("accuracy", "f1", "auc-roc", "auc-pr"), 100.0)


@pytest.mark.parametrize("name", QQP)
def test_qqp_with_each_verbalizer(tmp_path, vocabulary, name):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    (tmp_path / "dev.tsv").write_text(f"{header}1\t2\t3\ta ?\tb ?\t1\n4\t5\t6\tc ?\td ?\t0\n")
    ranked, normed, test = opened(f"{name}_eval", tmp_path, vocabulary)
    no, yes = QQP[name]
    assert texts(test) == ["question1: a ? question2: b ?", "question1: c ? question2: d ?"]
    assert texts(test, "targets") == [yes, no]
    assert test.metrics([yes, "?"], None) == pytest.approx({"f1": 200 / 3, "accuracy": 50.0})
    assert texts(ranked, "targets") == texts(normed, "targets") == [no, yes, no, yes]
    sizes = [len(example["targets"]) for example in normed.examples]
    # Per token "no" is slightly more likely, but not in total when it is longer.
    means = [-1.0, -1.01, -1.0, -1.01]
    assert normed.metrics(
        [""] * 4, [mean * size for mean, size in zip(means, sizes, strict=True)]
    ) == pytest.approx({"accuracy": 50.0, "f1": 0.0, "auc-roc": 50.0, "auc-pr": 50.0})
    assert ranked.metrics([""] * 4, [-2.0, -1.0, -1.0, -2.0])["accuracy"] == 100.0


def test_entities_of_record_are_ranked(tmp_path, vocabulary):
    text = "Ann saw Bob .\n@highlight\nBob left"
    spans = [{"start": 0, "end": 2}, {"start": 8, "end": 10}]
    question = {
        "query": "@placeholder won",
        "idx": 7,
        "answers": [{"text": "Ann"}, {"text": "Bob"}],
    }
    other = {"query": "@placeholder ran", "idx": 8, "answers": [{"text": "Bob"}]}
    passage = {"text": text, "entities": spans}
    row = {"idx": 4, "passage": passage, "qas": [question, other]}
    (tmp_path / "val.jsonl").write_text(json.dumps(row))
    ranked, test = opened(f"{RECORD}_eval", tmp_path, vocabulary)
    inputs = [
        f"query: @placeholder {verb} entities: Ann, Bob passage: Ann saw Bob . Bob left"
        for verb in ("won", "ran")
    ]
    assert texts(test) == [inputs[0], inputs[0], inputs[1]]
    assert test.metrics(["Ann", "wrong", "Bob"], None) == {"em": 100.0, "f1": 100.0}
    assert texts(ranked) == [text for text in inputs for _ in spans]
    assert texts(ranked, "targets") == ["Ann", "Bob"] * 2
    metrics = ranked.metrics([""] * 4, [-1.0, -9.0, -1.0, -9.0])
    assert metrics == {"accuracy": 50.0, "normed_accuracy": 50.0}
