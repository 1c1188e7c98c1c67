import gzip
import json

import pytest

from prompt_tuning.data import files

# Quotes, a line separator that is no line break here, a letter outside ASCII, a comma.
ROWS = [("a fine film", "1"), ('so\u2028"bad"', "0"), ("naïve, not dull", "1")]
TSV = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS)
CSV = 'text,label\na fine film,1\n"so\u2028""bad""",0\n"naïve, not dull",1\n'
JSONL = "".join(
    json.dumps({"text": text, "label": int(label)}, ensure_ascii=False) + "\n"
    for text, label in ROWS
)


def write(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def read(path, **settings):
    defaults = {"setting": "TRAIN_FILE", "input_template": "{text}", "target_column": "label"}
    return list(files.read_examples(path, **(defaults | settings)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", TSV),
        ("a.tsv.gz", TSV),
        ("a.tsv", "\ufeff" + TSV),
        ("a.tsv", TSV.rstrip("\n")),
        ("a.tsv", TSV + "\n"),
        ("a.tsv", TSV.replace("\n", "\r\n")),
        ("a.csv", CSV),
        ("a.csv.gz", CSV),
        ("a.csv", CSV.replace("\n", "\r\n")),
        ("a.jsonl", JSONL),
        ("a.jsonl.gz", JSONL),
        ("a.jsonl", JSONL + "\n"),
    ],
)
def test_every_format_gives_the_same_examples(tmp_path, name, content):
    assert read(write(tmp_path, name, content)) == [
        {"inputs": text, "targets": label, "row": i} for i, (text, label) in enumerate(ROWS)
    ]


def test_template_and_label_map(tmp_path):
    path = write(tmp_path, "a.tsv", "label\tone\ttwo\n0\t x \ty\n")
    template = "task one: {one} {{two}}: {two}."
    examples = read(path, input_template=template, label_map={0: "no", 1: "yes"})
    assert examples == [{"inputs": "task one: x {two}: y.", "targets": "no", "row": 0}]


def test_a_file_to_answer_needs_no_target(tmp_path):
    path = write(tmp_path, "a.tsv", "text\nx\n")
    examples = read(path, target_column=None, label_map={"1": "yes"})
    assert examples == [{"inputs": "x", "targets": "", "row": 0}]


def test_quoted_line_break_counts_in_the_line_number(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"two\nlines",1\nx,7\n')
    with pytest.raises(ValueError, match="line 4: label '7'"):
        read(path, label_map={"1": "yes"})


BAD_FILES = {
    "empty": ("a.tsv", "", ["no row of data"]),
    "empty csv": ("a.csv", "", ["no row of data"]),
    "empty jsonl": ("a.jsonl", "\n", ["no row of data"]),
    "header only": ("a.tsv", "text\tlabel\n", ["no row of data"]),
    "truncated gzip": ("a.tsv.gz", None, ["no whole gzip file"]),
    "not gzip": ("a.tsv.gz", b"plain", ["no whole gzip file"]),
    "not UTF-8": ("a.tsv", b"text\tlabel\nna\xefve\t1\n", ["line 2", "not UTF-8"]),
    "lacks input": (
        "a.tsv",
        "word\tlabel\nx\t1\n",
        ["'text'", "['word', 'label']", "INPUT_TEMPLATE"],
    ),
    "lacks target": (
        "a.tsv",
        "text\tgold\nx\t1\n",
        ["'label'", "['text', 'gold']", "TARGET_COLUMN"],
    ),
    "null": ("a.jsonl", '{"text": "x", "label": null}', ["line 1", "'label'", "TARGET_COLUMN"]),
    "ragged": ("a.tsv", TSV + "x\n", ["line 5", "1 fields", "2 of the header"]),
    "blank line": ("a.tsv", "text\tlabel\n\nx\t1\n", ["line 2", "1 fields"]),
    "open quote": ("a.csv", 'text,label\nx,1\n"x,1\n', ["line 3", "not CSV"]),
    "bad JSON": ("a.jsonl", JSONL + "{'text': 1}\n", ["line 4", "not JSON"]),
    "no object": ("a.jsonl", '["x", 1]\n', ["line 1", "JSON object"]),
    "label": ("a.tsv", TSV + "x\t2\n", ["line 5", "'2'", "['0', '1']", "LABEL_MAP"]),
    "half a character": ("a.jsonl", '{"text": "\\ud800"}', ["line 1", "not JSON"]),
    "suffix": ("a.xlsx", TSV, ["'.xlsx'", ".tsv, .csv, .jsonl"]),
    "no suffix": ("a", TSV, ["no suffix"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_its_setting(tmp_path, case):
    name, content, parts = BAD_FILES[case]
    path = tmp_path / name
    if content is None:
        path.write_bytes(gzip.compress(TSV.encode())[:-12])
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:
        read(str(path), setting="EVAL_FILE", label_map={"0": "no", "1": "yes"})
    for part in [f"EVAL_FILE {path}", *parts]:
        assert part in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"TRAIN_FILE .*none\.tsv does not exist"):
        read(str(tmp_path / "none.tsv"))


@pytest.mark.parametrize("template", ["{text", "text", "{}"])
def test_bad_template(tmp_path, template):
    with pytest.raises(ValueError, match="INPUT_TEMPLATE"):
        read(write(tmp_path, "a.tsv", TSV), input_template=template)


@pytest.fixture
def path(tmp_path):
    lines = "".join(f"film {i}\t{i % 2}\n" for i in range(50))
    return write(tmp_path, "my-dev.tsv", "text\tlabel\n" + lines)


@pytest.fixture
def task(path, vocabulary):
    return files.file_task(
        path,
        split="train",
        setting="TRAIN_FILE",
        vocabulary=vocabulary.for_seqio(),
        input_template="{text}",
        target_column="label",
        label_map={"0": "bad", "1": "good"},
    )


def examples(task, split, **options):
    return list(task.get_dataset(None, split, **options).as_numpy_iterator())


def test_task_tokenises_in_order(task, vocabulary):
    assert task.name == "my_dev" and task.splits == ("train",)
    got = examples(task, "train", shuffle=False)
    assert [e["row"] for e in got] == list(range(50))
    assert got[3]["inputs_pretokenized"] == b"film 3"
    assert got[3]["inputs"].tolist() == [*vocabulary.encode("film 3"), 1]
    assert got[3]["targets"].tolist() == [*vocabulary.encode("good"), 1]


def test_task_without_targets(path, vocabulary):
    task = files.file_task(
        path,
        split="infer",
        setting="INFER_FILE",
        vocabulary=vocabulary.for_seqio(),
        input_template="{text}",
        target_column=None,
    )
    got = examples(task, "infer", shuffle=False)
    assert [e["targets"].tolist() for e in got] == [[1]] * 50


def test_task_shuffles_by_seed(task):
    first, again, other = (
        [int(e["row"]) for e in examples(task, "train", seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(other) == list(range(50)) != first


def test_each_repeat_has_its_own_order(task):
    rows = [int(e["row"]) for e in examples(task, "train", seed=1, num_epochs=2)]
    assert sorted(rows[:50]) == sorted(rows[50:]) and rows[:50] != rows[50:]


def test_a_csv_field_may_be_a_whole_document(tmp_path):
    text = "a fine film " * 20_000
    [example] = read(write(tmp_path, "a.csv", f'text,label\n"{text}",1\n'))
    assert example["inputs"] == text.strip()
