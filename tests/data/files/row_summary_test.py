"""Counts of a file's rows."""

import logging

import pytest

from prompt_tuning.data.files import row_summary


def summary(rows, target_column="label", allow=False):
    made = row_summary.RowSummary("TRAIN_FILE a.tsv", target_column, "text: ")
    for number, row in enumerate(rows, start=2):
        made.add(number, row and {"inputs": f"text: {row[0]}", "targets": row[1]})
    made.report(allow_empty_targets=allow)


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def test_one_line_says_what_was_read_and_skipped(log):
    summary([("a", "good"), None, ("b", "bad"), ("c", "good"), None])
    assert log.messages == [
        "TRAIN_FILE a.tsv: rows read: 3, 2 empty skipped (lines 3, 6); targets: 'good' 2, 'bad' 1"
    ]


def test_many_labels_are_not_all_shown(log):
    summary([("a", f"label {i % 12}") for i in range(30)])
    assert log.messages[0].count("'label") == 10 and log.messages[0].endswith(" and 2 more")
    log.clear()
    summary([("a", f"answer {i}") for i in range(1001)])
    assert log.messages == ["TRAIN_FILE a.tsv: rows read: 1001; over 1,000 distinct targets"]


def test_a_file_without_targets(log):
    summary([("a", ""), ("b", "")], target_column=None)
    assert log.messages == ["TRAIN_FILE a.tsv: rows read: 2"]


def test_empty_inputs_are_warned_of(log):
    summary([("", "good"), ("b", "bad")])
    assert log.records[1].levelname == "WARNING"
    assert "INPUT_TEMPLATE are empty in 1 of 2 rows (line 2), which are kept" in log.messages[1]


def test_empty_targets_are_refused_unless_allowed(log):
    rows = [("a", "good"), *[("b", "")] * 7]
    with pytest.raises(ValueError) as caught:
        summary(rows)
    for part in ("TRAIN_FILE a.tsv: column 'label' (TARGET_COLUMN)", "in 7 of 8 rows"):
        assert part in str(caught.value)
    assert "(lines 3, 4, 5, 6, 7, …)" in str(caught.value)
    assert "set ALLOW_EMPTY_TARGETS = True" in str(caught.value)
    summary(rows, allow=True)
    assert log.messages == ["TRAIN_FILE a.tsv: rows read: 8; targets: '' 7, 'good' 1"]


def test_nothing_but_empty_rows_is_refused():
    with pytest.raises(ValueError, match="no row of data, because all fields are empty"):
        summary([None, None])
