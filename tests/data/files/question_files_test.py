"""The files of SQuAD and MRQA, and files that are not."""

import gzip
import json

import pytest
from etils import epath

from prompt_tuning.data.files import question_files


def squad(*questions, context="Ann won."):
    asked = [
        {"id": i, "question": q, "answers": [{"text": a, "answer_start": 0} for a in answers]}
        for i, (q, *answers) in enumerate(questions)
    ]
    return json.dumps(
        {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": asked}]}]}
    )


def mrqa(dataset, *questions, split="dev", context=" Ann won. "):
    asked = [
        {"qid": str(i), "question": f" {q} ", "answers": answers, "detected_answers": []}
        for i, (q, *answers) in enumerate(questions)
    ]
    rows = [{"header": {"dataset": dataset, "split": split}}, {"context": context, "qas": asked}]
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return epath.Path(folder)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-v1.1.json", "train"),
        ("dev-v1.1.json", "validation"),
        ("dev-v1.1.json.gz", "validation"),
        ("dev-v1.1.mine.json.gz", "validation"),
    ],
)
def test_squad(tmp_path, name, split):
    folder = write(tmp_path, name, squad(("Who?", "Ann", "she"), ("What?", "won")))
    assert list(question_files.read_squad(folder, split)) == [
        {"id": 0, "question": "Who?", "context": "Ann won.", "answers": {"text": ["Ann", "she"]}},
        {"id": 1, "question": "What?", "context": "Ann won.", "answers": {"text": ["won"]}},
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"data": ', ["dev-v1.1.json: not JSON"]),
        ('[{"question": "q"}]', ["dev-v1.1.json is not SQuAD v1.1", "'qas'"]),
        ('{"data": [{"text": "q"}]}', ["not SQuAD v1.1 (KeyError('paragraphs'))"]),
        (squad(("Who?", "Ann"), ("Why?",)), ["question 1 has no answer", "v2.0"]),
    ],
)
def test_a_file_that_is_not_squad(tmp_path, text, parts):
    folder = write(tmp_path, "dev-v1.1.json", text)
    with pytest.raises(ValueError) as caught:
        list(question_files.read_squad(folder, "validation"))
    assert all(part in str(caught.value) for part in ["TASK_DATA_DIR", *parts]), caught.value


def test_no_squad(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"TASK_DATA_DIR .*train-v1\.1\.json"):
        list(question_files.read_squad(epath.Path(tmp_path), "train"))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train/DuoRC.jsonl.gz", "train"),
        ("dev/DuoRC.jsonl", "validation"),
        ("DuoRC.ParaphraseRC.jsonl.gz", "validation"),
    ],
)
def test_mrqa(tmp_path, name, split):
    of_file = "train" if split == "train" else "dev"
    text = mrqa("DuoRC.ParaphraseRC", ("Who?", "Ann", "she"), split=of_file)
    folder = write(tmp_path, name, text)
    assert list(question_files.read_mrqa(folder, split, "DuoRC")) == [
        {"qid": "0", "question": "Who?", "context": "Ann won.", "answers": ["Ann", "she"]}
    ]


@pytest.mark.parametrize(
    ("name", "of_file", "split"),
    [
        ("DROP.jsonl", "train", "validation"),
        ("dev/DROP.jsonl", "train", "validation"),
        ("train/DROP.jsonl", "dev", "train"),
        ("train/DROP.jsonl", "test", "train"),
    ],
)
def test_a_file_of_another_split(tmp_path, name, of_file, split):
    folder = write(tmp_path, name, mrqa("DROP", ("Who?", "Ann"), split=of_file))
    part = rf"DROP\.jsonl has the split '{of_file}' of DROP; expected"
    with pytest.raises(ValueError, match=part):
        list(question_files.read_mrqa(folder, split, "DROP"))


@pytest.mark.parametrize("of_file", ["test", None])
def test_a_header_may_call_the_split_otherwise(tmp_path, of_file):
    folder = write(tmp_path, "DROP.jsonl", mrqa("DROP", ("Who?", "Ann"), split=of_file))
    assert len(list(question_files.read_mrqa(folder, "validation", "DROP"))) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            mrqa("DROP", ("Who?", "Ann")).split("\n", 1)[1],
            ["DROP.jsonl, line 1: no header", "'dataset': 'DROP'"],
        ),
        (mrqa("RACE", ("Who?", "Ann")), ["has the data set RACE; expected DROP"]),
        (mrqa("DROP", ("Who?",)), ["line 2: question 0 has no answer"]),
        (mrqa("DROP") + '{"text": "x"}\n', ["line 3: no context, qas", "['text']"]),
        ("not JSON\n", ["line 1: not JSON"]),
    ],
)
def test_a_file_that_is_not_of_the_set(tmp_path, text, parts):
    folder = write(tmp_path, "DROP.jsonl", text)
    with pytest.raises(ValueError) as caught:
        list(question_files.read_mrqa(folder, "validation", "DROP"))
    assert all(part in str(caught.value) for part in ["TASK_DATA_DIR", *parts]), caught.value


def test_no_mrqa(tmp_path):
    write(tmp_path, "DROP.jsonl", mrqa("DROP", ("Who?", "Ann")))
    with pytest.raises(FileNotFoundError, match=r"TASK_DATA_DIR .*train/DROP\.jsonl"):
        list(question_files.read_mrqa(epath.Path(tmp_path), "train", "DROP"))
