"""Files of plain texts: columns, IMDB's folders, C4's shards."""

import gzip
import json

import pytest
from etils import epath

from prompt_tuning.data.files import text_files

COLUMNS = {"text": "string", "label": "int64"}
LABELS = ("no", "maybe", "yes")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", '{"text": "a, b", "label": 1, "id": "x"}\n{"text": "c", "label": "0"}\n'),
        ("train.csv", 'id,text,label\nx,"a, b",1\ny,c,0\n'),
        ("train.tsv", "text\tlabel\na, b\t1\nc\t0\n"),
        ("train.tsv", "text\tlabel\na, b\tmaybe\nc\tno\n"),
    ],
)
def test_columns(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    rows = list(text_files.read_columns(epath.Path(tmp_path), "train", COLUMNS, LABELS))
    assert rows == [{"text": "a, b", "label": 1}, {"text": "c", "label": 0}]


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("validation", "validation"),
        ("dev", "validation"),
        ("val", "validation"),
        ("test", "test"),
        ("ca_test", "ca_test"),
    ],
)
def test_names_of_a_split(tmp_path, stem, split):
    (tmp_path / f"{stem}.csv").write_text("text,label\na,-1\n")
    rows = list(text_files.read_columns(epath.Path(tmp_path), split, COLUMNS, LABELS))
    assert rows == [{"text": "a", "label": -1}]


def test_a_folder_without_rows(tmp_path):
    (tmp_path / "train.txt").write_text("a")
    with pytest.raises(FileNotFoundError, match=r"none of train\.jsonl.*columns text, label"):
        list(text_files.read_columns(epath.Path(tmp_path), "train", COLUMNS, LABELS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}', r"TASK_DATA_DIR .*test\.jsonl, line 1: no label"),
        ('{"text": "a", "label": "YES"}', r"TASK_DATA_DIR .*line 1: label 'YES'; expected .*yes"),
        ('{"text": "a", "label": 3}', r"TASK_DATA_DIR .*line 1: label '3'; expected one of no, "),
    ],
)
def test_rows_of_another_task(tmp_path, content, message):
    (tmp_path / "test.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(text_files.read_columns(epath.Path(tmp_path), "test", COLUMNS, LABELS))


def test_imdb_takes_turns(tmp_path):
    for kind in ("neg", "pos"):
        (tmp_path / "test" / kind).mkdir(parents=True)
        for name in ("0_9", "2_1", "10_8"):
            (tmp_path / "test" / kind / f"{name}.txt").write_text(f"{kind} {name}\n")
    reviews = text_files.read_imdb(epath.Path(tmp_path), "test")
    assert [r["text"] for r in reviews] == [
        f"{kind} {name}" for name in ("0_9", "2_1", "10_8") for kind in ("neg", "pos")
    ]
    assert [r["label"] for r in reviews] == [0, 1] * 3
    with pytest.raises(FileNotFoundError, match=r"TASK_DATA_DIR .* no train/neg/\*\.txt"):
        text_files.read_imdb(epath.Path(tmp_path), "train")


def test_c4_shards_in_order(tmp_path):
    for i in (1, 0):
        lines = "".join(json.dumps({"text": f"{i}{j}", "url": "u"}) + "\n" for j in (0, 1))
        shard = tmp_path / f"c4-validation.0000{i}-of-00008.json.gz"
        shard.write_bytes(gzip.compress(lines.encode()))
    folder = epath.Path(tmp_path)
    rows = list(text_files.read_c4(folder, "validation"))
    assert rows == [{"text": text} for text in ("00", "01", "10", "11")]
    with pytest.raises(FileNotFoundError, match=r"TASK_DATA_DIR .* no c4-train"):
        list(text_files.read_c4(folder, "train"))


@pytest.mark.parametrize(
    ("line", "message"), [("text", "line 1: not JSON"), ('{"body": "x"}', "line 1: no text")]
)
def test_a_shard_of_something_else(tmp_path, line, message):
    (tmp_path / "c4-train.json").write_text(line)
    with pytest.raises(ValueError, match=message):
        list(text_files.read_c4(epath.Path(tmp_path), "train"))
