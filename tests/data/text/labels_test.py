"""Labels among targets, and labels that a vocabulary cannot represent or distinguish."""

import numpy as np
import pytest

from prompt_tuning.data import pipeline, sources, vocabularies
from prompt_tuning.data.files import records
from prompt_tuning.data.text import labels


@pytest.mark.parametrize(
    ("targets", "counts"),
    [
        (["good", "bad", "good"], {"good": 2, "bad": 1}),
        ([f"intent {i}" for i in range(77)] * 2, {f"intent {i}": 2 for i in range(77)}),
        ([f"answer {i}" for i in range(77)], {}),
        ([*(f"answer {i}" for i in range(77)), *["yes"] * 80], {}),
        (["", " ", "<unk>", "good"], {"good": 1}),
    ],
)
def test_targets_are_labels_if_they_are_few_or_recur(targets, counts):
    assert labels.find_labels(targets) == counts


def test_a_file_is_read_completely_only_if_a_sample_has_labels(monkeypatch):
    monkeypatch.setattr(labels, "SAMPLED", 10)
    read = []
    rows = records.Lazy(
        lambda i: read.append(i) or {"targets": "rare" if i == 3 else "often"}, range(50)
    )
    assert labels.find_file_labels(rows) == {"often": 49, "rare": 1}
    read.clear()
    monkeypatch.setattr(labels, "FEW_TARGETS", 2)
    assert labels.find_file_labels(rows.map(lambda row: {"targets": str(read[-1])})) == {}
    assert len(read) == 10


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (["C++", "good", "C#"], r"'C\+\+' and 'C#' have the same tokens"),
        (["good", "good "], "'good' and 'good ' have the same tokens, 'good'"),
        (["good", "👍"], "'👍' has only unknown tokens"),
        (["👍", "👎"], "'👍' and '👎' have the same tokens"),
        (["good", " "], "' ' has only unknown tokens"),
        ([f"good{' ' * i}" for i in range(12)], "and 4 more"),
    ],
)
def test_labels_that_cannot_be_distinguished_are_refused(vocabulary, caplog, texts, fault):
    with pytest.raises(ValueError, match=fault) as error:
        labels.check_labels(texts, vocabulary, "TRAIN_FILE a.tsv: targets")
    assert "TRAIN_FILE a.tsv: targets: the vocabulary" in str(error.value)
    assert (
        "Expected labels with known tokens that differ from label to label. Set LABEL_MAP"
        in str(error.value)
    )
    labels.warn_of_labels(texts, vocabulary, "task")
    assert caplog.records[0].levelname == "WARNING" and str(error.value)[-80:] in caplog.text
    with pytest.raises(
        ValueError, match=r"LABELS: the vocabulary .* cannot represent or distinguish"
    ):
        labels.label_ids(texts, vocabulary)


def test_labels_that_differ_are_accepted(vocabulary, caplog):
    labels.check_labels(["a++", "a", "Good", "good", "not_good", "good"], vocabulary, "x")
    labels.warn_of_labels([], vocabulary, "x")
    labels.check_labels(["C++", "C#", "👍", "👎"], vocabularies.ByteVocabulary(), "x")
    assert not caplog.messages


def test_decoded_text_maps_to_the_first_label(vocabulary):
    written = vocabulary.decode(vocabulary.encode("not_good"))
    assert labels.written_labels(["not_good", "not-good", "bad"], vocabulary) == {
        written: "not_good",
        "bad": "bad",
    }


def test_ids_of_labels_are_padded(vocabulary):
    short, long = vocabulary.encode("good"), vocabulary.encode("a bad film")
    ids = labels.label_ids(["good", "a bad film"], vocabulary)
    zeros = [0] * (len(long) - len(short))
    np.testing.assert_array_equal(ids, [[*short, 1, *zeros], [*long, 1]])
    assert ids.dtype == np.int32


@pytest.fixture
def evaluation(vocabulary, tmp_path):
    """(LABEL_MAP, other settings) -> evaluation task of a file whose only label is "0"."""

    def evaluation_task(label_map, **settings):
        file = tmp_path / "eval.tsv"
        file.write_text("text\tlabel\n" + "she liked the film\t0\n" * 3)
        source = sources.TaskSource(eval_file=str(file), label_map=label_map)
        config = pipeline.DatasetConfig(source, {"inputs": 40, "targets": 20}, "validation", 8)
        (task,) = pipeline.evaluation_tasks(config, vocabulary, **settings)
        return task

    return evaluation_task


def test_labels_of_settings_are_checked_even_if_no_example_has_them(evaluation):
    with pytest.raises(
        ValueError, match=r"LABEL_MAP: .*\n  'c\+' and 'c\+\+' have the same tokens"
    ):
        evaluation({"0": "good", "1": "c+", "2": "c++"})
    with pytest.raises(ValueError, match=r"LABELS: .*\n  'c\+' and 'c\+\+' have the same tokens"):
        evaluation({"0": "good"}, ranked_labels=["c+", "c++"])


def test_predictions_are_restored_to_labels_of_settings_and_cards(evaluation, vocabulary, caplog):
    """The vocabulary has neither capitals nor "_"."""
    cards = {None: ["Of_Card"]}
    task = evaluation({"0": "good", "1": "Mapped"}, ranked_labels=["Ranked"], known_labels=cards)
    for label in ("Mapped", "Ranked", "Of_Card"):
        ids = vocabulary.encode(label)
        assert vocabulary.decode(ids) != label == task.detokenize(np.array(ids))
    assert "that are not in LABELS, so they are never predicted: 'good' (3 examples)" in caplog.text
