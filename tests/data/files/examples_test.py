import gzip
import json
import logging

import pytest

from prompt_tuning.data.files import examples

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
    return list(examples.read_examples(path, **(defaults | settings)))


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
    "truncated gzip": ("a.tsv.gz", None, ["not a complete gzip file"]),
    "not gzip": ("a.tsv.gz", b"plain", ["not a complete gzip file"]),
    "not UTF-8": ("a.tsv", b"text\tlabel\nna\xefve\t1\n", ["line 2", "not UTF-8"]),
    "lacks input": (
        "a.tsv",
        "word\tlabel\nx\t1\n",
        [
            "'text'",
            "['word', 'label']",
            "Use exactly these names in INPUT_TEMPLATE",
        ],
    ),
    "lacks target": (
        "a.tsv",
        "text\tgold\nx\t1\n",
        ["'label'", "['text', 'gold']", "TARGET_COLUMN"],
    ),
    "null": (
        "a.jsonl",
        '{"text": "x", "label": null}',
        ["'label' (TARGET_COLUMN) is empty", "1 of 1 rows (line 1)", "ALLOW_EMPTY_TARGETS = True"],
    ),
    "NaN": ("a.jsonl", JSONL + '{"text": "x", "label": NaN}', ["1 of 4 rows (line 4)"]),
    "blank targets": ("a.tsv", TSV + "x\t\ny\t \n", ["2 of 5 rows (lines 5, 6)"]),
    "empty rows": ("a.csv", "text,label\n,\n,\n", ["no row of data, because all fields are empty"]),
    "a list": (
        "a.jsonl",
        '{"text": ["x", "y"], "label": 1}',
        ["line 1", "column 'text' is a list", "Join its items to one text"],
    ),
    "an object": (
        "a.jsonl",
        '{"text": "x", "label": {"id": 1}}',
        ["'label' is an object", "line 1"],
    ),
    "semicolons in a TSV": (
        "a.tsv",
        "text;label\nx;1\n",
        ["'text'", "separates fields", "sep=;"],
    ),
    "semicolons and commas": ("a.csv", "text;label, of\nx;1,2\n", ["no column 'text'", "sep=;"]),
    "ragged": ("a.tsv", TSV + "x\n", ["line 5", "1 fields", "expected 2, as in the header"]),
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


def test_words_for_missing_values_are_words(tmp_path):
    words = ["None", "NA", "null", "nan", "NaN", "n/a"]
    for name, separator in (("a.tsv", "\t"), ("a.csv", ",")):
        rows = "".join(f"{word}{separator}{word}\n" for word in words)
        found = read(write(tmp_path, name, f"text{separator}label\n{rows}"))
        assert [(e["inputs"], e["targets"]) for e in found] == [(word, word) for word in words]


def test_values_of_json_are_text_as_json_writes_them(tmp_path):
    rows = [(True, False), (3, 2.5), (None, "x"), (float("nan"), -1), ("null", 1e25)]
    lines = "".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows)
    found = [(e["inputs"], e["targets"]) for e in read(write(tmp_path, "a.jsonl", lines))]
    assert found == [("true", "false"), ("3", "2.5"), ("", "x"), ("", "-1"), ("null", "1e+25")]


@pytest.mark.parametrize(
    ("label_map", "values", "expected"),
    [
        ({"0": "no", "1": "yes"}, ["1.0", "0.0", "1"], ["yes", "no", "yes"]),
        ({1.0: "yes", -1: "no"}, ["1", "-1.0", "1.00"], ["yes", "no", "yes"]),
        ({True: "yes", False: "no"}, ["true", "False", "TRUE"], ["yes", "no", "yes"]),
        ({"1": "one", "1.0": "float"}, ["1.0", "1"], ["float", "one"]),
        ({"": "none", "1": "one"}, ["", "1"], ["none", "one"]),
    ],
)
def test_labels_are_those_that_the_map_means(tmp_path, label_map, values, expected):
    path = write(tmp_path, "a.tsv", "text\tlabel\n" + "".join(f"x\t{v}\n" for v in values))
    assert [e["targets"] for e in read(path, label_map=label_map)] == expected


def test_a_label_that_could_be_either_of_two_is_refused(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\nx\t1.00\n")
    with pytest.raises(ValueError, match=r"label '1\.00' is not in LABEL_MAP"):
        read(path, label_map={"1": "one", "1.0": "float"})


EMPTY = {
    "a.tsv": "id\ttext\tlabel\n1\tx\ty\n\n\t\t\n2\t\ty\n \t\t \n",
    "a.csv": 'id,text,label\n1,x,y\n\n,,\n2,,y\n" ",,\n',
    "a.jsonl": '{"id": 1, "text": "x", "label": "y"}\n\n{"id": null, "text": "", "label": NaN}\n'
    '{"id": 2, "text": null, "label": "y"}\n{"id": " ", "text": "", "label": null}\n',
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_rows_are_skipped_and_counted(tmp_path, name, caplog):
    caplog.set_level("INFO")
    path = write(tmp_path, name, EMPTY[name])
    found = read(path, input_template="text: {text}")
    assert [(e["inputs"], e["targets"], e["row"]) for e in found] == [
        ("text: x", "y", 0),
        ("text: ", "y", 1),
    ]
    skipped, blank = ("2, 3, 5", 4) if name == "a.jsonl" else ("3, 4, 6", 5)
    assert caplog.messages == [
        f"TRAIN_FILE {path}: rows read: 2, 3 empty skipped (lines {skipped}); targets: 'y' 2",
        f"TRAIN_FILE {path}: the fields of INPUT_TEMPLATE are empty in 1 of 2 rows (line {blank}), "
        "which are kept. Correct or delete these rows.",
    ]


@pytest.mark.parametrize("name", EMPTY)
def test_a_file_to_answer_keeps_the_rows_that_pandas_reads(tmp_path, name):
    """pandas.read_csv skips blank lines, and keeps rows whose fields are empty."""
    found = read(write(tmp_path, name, EMPTY[name]), target_column=None)
    assert [e["inputs"] for e in found] == ["x", "", "", ""]


def test_empty_targets_may_be_allowed(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tlabel\nx\t\ny\t1\n\t\n")
    found = read(path, allow_empty_targets=True, label_map={"1": "yes"})
    assert [e["targets"] for e in found] == ["", "yes"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_files_of_other_encodings(tmp_path, name, packed):
    content = {"a.tsv": TSV, "a.csv": CSV, "a.jsonl": JSONL}[name]
    expected = read(write(tmp_path, name, content))
    for encoding in ("utf-16", "utf-8-sig"):  # each has its byte order mark
        path = write(tmp_path, name + ".gz" * packed, content.encode(encoding))
        assert read(path) == read(path, encoding="cp1252") == expected
    path = write(tmp_path, name, content.replace("\u2028", " ").encode("cp1252"))
    plain = [{**e, "inputs": e["inputs"].replace("\u2028", " ")} for e in expected]
    assert read(path, encoding="cp1252") == plain


def test_a_field_to_shorten_is_in_the_template(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tq\tlabel\nso long\twhat ?\t1\n")
    template = "{q} text: {text} question: {q}"
    (example,) = read(path, input_template=template, truncate_field="q")
    places = [example["inputs"][start:end] for start, end in example["truncate_spans"]]
    assert places == ["what ?", "what ?"] and example["truncate_spans"][0, 0] == 0
    with pytest.raises(
        ValueError, match=r"TRUNCATE_FIELD is 'label'.*Set it to one of \['q', 'text'"
    ):
        read(path, input_template=template, truncate_field="label")


def test_a_csv_field_may_be_a_whole_document(tmp_path):
    text = "a fine film " * 20_000
    [example] = read(write(tmp_path, "a.csv", f'text,label\n"{text}",1\n'))
    assert example["inputs"] == text.strip()


def summary(rows, target_column="label", allow=False):
    made = examples.RowSummary("TRAIN_FILE a.tsv", target_column, "text: ")
    for number, row in enumerate(rows, start=2):
        made.add(number, row and {"inputs": f"text: {row[0]}", "targets": row[1]})
    made.report(allow_empty_targets=allow)


@pytest.fixture
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
