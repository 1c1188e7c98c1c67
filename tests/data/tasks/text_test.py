"""Pre-training on text files: documents, objectives and mixtures."""

import gzip
import json

import numpy as np
import pytest

from prompt_tuning.data import pipeline, sources
from prompt_tuning.data.batches import soft_tokens
from prompt_tuning.data.tasks import text

LENGTHS = {"inputs": 32, "targets": 16}


@pytest.fixture
def corpus(tmp_path):
    """400 documents in three files."""
    (tmp_path / "a.txt").write_text("".join(f"film {i}\n\n" for i in range(100)))
    lines = "".join(json.dumps({"text": f"story {i}"}) + "\n" for i in range(200))
    (tmp_path / "b.jsonl").write_text(lines)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"song\n" * 100))
    return [str(tmp_path / "*.txt"), str(tmp_path / "b.jsonl"), str(tmp_path / "c.*")]


def texts(documents, split):
    dataset = documents.get_dataset(split, shuffle=False)
    return [e["targets"].decode() for e in dataset.as_numpy_iterator()]


def test_documents_are_in_order_with_every_200th_held_out(corpus):
    documents = text.read_documents(corpus)
    everything = (
        [f"film {i}" for i in range(100)] + [f"story {i}" for i in range(200)] + ["song"] * 100
    )
    assert texts(documents, "validation") == ["story 99", "song"]
    assert texts(documents, "train") == everything[:199] + everything[200:399]


def test_few_documents_have_no_validation(tmp_path):
    (tmp_path / "a.txt").write_text("film\n")
    assert text.read_documents([str(tmp_path / "a.txt")]).splits == ("train",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", "TEXT_FILES .* no text"),
        (
            "a.jsonl",
            '{"body": "x"}',
            r"TEXT_FILES .*a\.jsonl, line 1: no column 'text'.*Rename the column",
        ),
        ("a.pdf", "x", r"TEXT_FILES .*a\.pdf ends in '.pdf'"),
    ],
)
def test_text_files_without_text_column_or_known_suffix_are_refused(
    tmp_path, name, content, message
):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        text.read_documents([str(tmp_path / name)])


def test_text_files_are_read_in_another_encoding(tmp_path, vocabulary):
    (tmp_path / "a.txt").write_bytes("café\n\nnaïve\n".encode("cp1252"))
    (tmp_path / "b.txt").write_bytes("größe\n".encode("utf-16"))
    paths = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert texts(text.read_documents(paths, "cp1252"), "train") == ["café", "naïve", "größe"]
    with pytest.raises(ValueError, match=r"TEXT_FILES .*a.txt, line 1: .*FILE_ENCODING = 'cp1252'"):
        text.read_documents(paths)
    (tmp_path / "c.tsv").write_bytes("inputs\ttargets\ncafé\tbon\nthé\t\n".encode("cp1252"))
    settings = {"train_file": str(tmp_path / "c.tsv"), "file_encoding": "cp1252"}
    objectives = [("prefix_lm", 1.0)]
    with pytest.raises(ValueError, match="ALLOW_EMPTY_TARGETS"):
        sources.TextSource(paths, objectives, **settings).open(vocabulary, "train")
    allowed = sources.TextSource(paths, objectives, **settings, allow_empty_targets=True)
    assert len(allowed.open(vocabulary, "train").tasks) == 2


def test_a_pattern_without_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"TEXT_FILES .*\*\.txt matches no file"):
        text.read_documents([str(tmp_path / "*.txt")])


def test_text_files_must_be_a_list():
    with pytest.raises(ValueError, match=r"expected a list. Set TEXT_FILES = \['a\.txt'\]"):
        text.read_documents("a.txt")


def test_an_unknown_objective_is_refused(corpus, vocabulary):
    with pytest.raises(ValueError, match=r"'mlm'; expected one of span_corruption, prefix_lm"):
        text.text_task("mlm", text.read_documents(corpus), vocabulary.for_seqio())


@pytest.mark.parametrize("objective", text.OBJECTIVES)
def test_examples_fit_and_end_with_eos(corpus, vocabulary, objective):
    task = text.text_task(objective, text.read_documents(corpus), vocabulary.for_seqio())
    examples = list(task.get_dataset(LENGTHS, "train", seed=0).as_numpy_iterator())
    assert len(examples) > 50
    for example in examples:
        for name, length in LENGTHS.items():
            assert example[name][-1] == 1 and 1 < len(example[name]) <= length


def mixture(corpus, tmp_path, vocabulary):
    train_file = tmp_path / "train.jsonl"
    train_file.write_text('{"inputs": "good ?", "targets": "bad"}\n')
    return text.pretraining_mixture(
        vocabulary=vocabulary,
        text_files=corpus,
        objectives=[("span_corruption", 2.0), ("prefix_lm", 1.0)],
        train_file=str(train_file),
        train_file_rate=3.0,
    )


def test_a_mixture_repeats_and_keeps_its_rates(corpus, tmp_path, vocabulary):
    provider = mixture(corpus, tmp_path, vocabulary)
    dataset = provider.get_dataset(LENGTHS, "train", seed=0).take(3000)
    good = [*vocabulary.encode("good ?"), 1]
    first_sentinel = vocabulary.size - 1
    kinds = {"file": 0, "span": 0, "prefix": 0}
    for example in dataset.as_numpy_iterator():
        if example["inputs"].tolist() == good:
            kinds["file"] += 1
        else:
            kinds["span" if example["targets"][0] == first_sentinel else "prefix"] += 1
    assert abs(kinds["file"] - 1500) < 150
    assert abs(kinds["span"] - 1000) < 150


def test_batches_depend_only_on_the_seed(corpus, tmp_path, vocabulary, monkeypatch):
    # tf.data restarts the one-row file for each of its examples in the sample.
    monkeypatch.setattr(pipeline, "CHECKED_EXAMPLES", 256)
    mixture(corpus, tmp_path, vocabulary)

    def batches(seed):
        source = sources.TextSource(
            text_files=corpus,
            objectives=[("span_corruption", 1.0), ("prefix_lm", 1.0)],
            train_file=str(tmp_path / "train.jsonl"),
        )
        config = pipeline.DatasetConfig(source, LENGTHS, split="train", batch_size=64, seed=seed)
        opened = pipeline.TrainBatches(
            config, vocabulary, soft_tokens.SoftTokens(np.array([], int))
        )
        return [next(opened)["encoder_input_tokens"].tolist() for _ in range(4)]

    assert batches(3) == batches(3) != batches(4)
