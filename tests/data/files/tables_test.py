"""Rows of tables with other separators, quotes and line ends; rows by number: records_test.py."""

import json
import logging

import pytest

from prompt_tuning.data.files import tables

ROWS = [
    {"text": "a lovely, bright day", "label": "positive"},
    {"text": "bleak", "label": "negative"},
]


def read(path, **settings):
    """The rows as they are scanned, which are those that their bytes give again."""
    table = tables.Table(str(path), "TRAIN_FILE", **settings)
    data = path.read_bytes()
    rows = []
    for number, start, end, row in table.scan():
        if table.coding.is_utf8_lines:
            assert table.row(data[start:end], number) == row
        rows.append(row)
    return rows


def write(folder, name, content, encoding="utf-8"):
    path = folder / name
    path.write_bytes(content.encode(encoding))
    return path


SEMICOLONS = "text;label\na lovely, bright day;positive\nbleak;negative\n"
TABS = "text\tlabel\na lovely, bright day\tpositive\nbleak\tnegative\n"
COMMAS = 'text,label\n"a lovely, bright day",positive\nbleak,negative\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", SEMICOLONS),
        ("A.CSV", SEMICOLONS),
        ("a.csv", "\ufeff\r\n" + COMMAS),
        ("a.csv", "sep=;\r\n" + SEMICOLONS),
        ("a.csv", '"sep=;"\n' + SEMICOLONS),
        ("a.tsv", "sep=;\n" + SEMICOLONS),
        ("a.csv", "\ufeffSEP=,\n" + COMMAS),
        ("a.tsv", "sep=\t\n" + TABS),
        ("a.csv", TABS),
        ("a.csv", TABS.replace("\t", "|")),
        ("a.csv", COMMAS.replace("text,", '"text\u00a0", ')),
        ("a.tsv", TABS.replace("text", "\ufefftext ")),
        (
            "a.tsv",
            '\ufeff"text"\t"label"\n"a lovely, bright day"\t"positive"\n"bleak"\t"negative"\n',
        ),
        ("a.tsv", TABS.replace("\n", "\r")),
        ("a.tsv", TABS.replace("\n", "\r\r\n")),
        ("a.csv", COMMAS.replace("\n", "\r")),
        ("a.tsv", COMMAS.replace(",p", "\tp").replace(",n", "\tn").replace("t,", "t\t")),
        ("a.tsv", "\n" + TABS.replace("\n", "\n \n\n")),
        ("a.csv", "\n" + COMMAS.replace("\n", "\n\n")),
        ("a.json", "".join(json.dumps(row) + "\n\n" for row in ROWS)),
        ("a.jsonl", "".join(json.dumps(row) + "\r" for row in ROWS)),
    ],
)
def test_rows_of_every_table(tmp_path, name, content):
    rows = read(write(tmp_path, name, content))
    assert [row for row in rows if row is not None] == ROWS


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_blank_lines_are_none_and_empty_rows_are_rows(tmp_path, name):
    separator = {"a.tsv": "\t", "a.csv": ","}[name]
    path = write(tmp_path, name, f"text{separator}label\n\nx{separator}y\n  \n{separator}\n")
    assert read(path) == [None, {"text": "x", "label": "y"}, None, {"text": "", "label": ""}]
    path = write(tmp_path, name, "text\n\nx\n")
    assert read(path) == [None, {"text": "x"}]


def test_an_empty_text_of_a_single_column_is_a_row(tmp_path):
    assert read(write(tmp_path, "a.csv", 'text\nx\n""\n')) == [{"text": "x"}, {"text": ""}]


def test_separators_and_quoting_are_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    read(write(tmp_path, "a.csv", SEMICOLONS))
    read(write(tmp_path, "b.tsv", 'text\tlabel\n"say ""no"""\tpositive\n'))
    assert caplog.messages == [
        f"TRAIN_FILE {tmp_path / 'a.csv'}: fields are separated by ';'",
        f"TRAIN_FILE {tmp_path / 'b.tsv'}: fields are quoted and are read as in CSV",
    ]
    caplog.clear()
    read(write(tmp_path, "c.tsv", 'text\tlabel\n"say ""no"""\tpositive\na 5" disk\tpositive\n'))
    assert "c.tsv: quotation marks are read as text, because" in caplog.text
    assert "those of line 3 do not" in caplog.text


BAD = {
    "a column twice": ("a.csv", "text,label,text\nx,y,z\n", ["'text' occurs 2 times", "Rename"]),
    "a key twice": (
        "a.jsonl",
        '{"text": 1, "text": 2}\n',
        ["line 1", "'text' occurs more than once"],
    ),
    "objects of several lines": (
        "a.jsonl",
        '{\n"text": "x"\n}\n',
        ["line 1: not JSON", "expected one JSON object per line", "lines=True"],
    ),
    "row names": (
        "a.tsv",
        '"text"\t"label"\n"1"\t"bleak"\t"negative"\n',
        ["line 2: 3 fields", "If '1' is the row name", "row.names=FALSE"],
    ),
    "a workbook": (
        "a.csv",
        "PK\x03\x04\x14\x00",
        ["a ZIP archive", "Save the table as 'CSV UTF-8'"],
    ),
    "a list": ("a.json", '[{"text": "x"}]', ["not JSON Lines but a JSON list", "jq -c '.[]'"]),
    "a long list": ("a.json", '[\n{"text": "x"}\n]', ["not JSON Lines but a JSON list"]),
    "a break in a TSV": (
        "a.tsv",
        'text\tlabel\na\nb"\ty\n',
        ["line 2: 1 fields", "save the file as CSV (.csv)"],
    ),
    "a break in a quoted TSV": (
        "a.tsv",
        'text\tlabel\n"a ""b"""\tx\n"one\ntwo"\ty\na\nb\tz\n',
        ["line 5: 1 fields", "save the file as CSV (.csv)"],
    ),
    "a stray quote in a quoted TSV": (
        "a.tsv",
        'text\tlabel\n"a ""b"""\tx\n"one\ntwo"\ty\n"a" b\tz\n',
        [
            "line 3: 1 fields",
            "because those of line 5 do not follow CSV",
            "save the file as CSV",
        ],
    ),
    "an open quote": ("a.csv", 'text,label\na,"b\nc"\n"x,1\ny,2\n', ["line 4: not CSV", "Close"]),
    "an open quote behind a break": ("a.csv", 'text,label\n"a\nb","x\ny,2\n', ["line 3: not CSV"]),
    "a quote that is not doubled": (
        "a.csv",
        'text,label\n"a "b" c",x\n',
        ["line 2: not CSV", "double"],
    ),
    "semicolons in a TSV": (
        "a.tsv",
        "text;label\nx;y\tz\n",
        ["2 fields; expected 1,", "If the ';' in the header separates", "sep=;"],
    ),
    "lines of text": ("a.txt", "x\n", ["'.txt'; expected one of .tsv, .csv", "first line"]),
    "UTF-16 without a mark": ("a.tsv", "t\0e\0", ["FILE_ENCODING = 'utf-16-le'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(tmp_path, case):
    name, content, parts = BAD[case]
    with pytest.raises(ValueError) as caught:
        read(write(tmp_path, name, content))
    for part in [f"TRAIN_FILE {tmp_path / name}", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize("row", ['{"text": "\\ud83d"}', '{"text": 1, "text": 2}'])
def test_an_object_on_one_line_gets_no_advice_on_lines(tmp_path, row):
    with pytest.raises(ValueError, match=r"line 1: not JSON \(.*\)\. Correct it"):
        read(write(tmp_path, "a.jsonl", row))


def test_a_space_before_a_quotation_mark_is_reported_once(tmp_path, caplog):
    rows = read(write(tmp_path, "a.csv", 'text, label\n"a", "x"\n"b, ""c""", "y"\n'))
    assert rows == [{"text": "a", "label": ' "x"'}, {"text": 'b, "c"', "label": ' "y"'}]
    assert caplog.text.count("a.csv, line 2: a space before a quotation mark") == 1
    caplog.clear()
    read(write(tmp_path, "a.csv", 'text,label\n"so, ""she"" said",x\n'))
    assert not caplog.text


def test_empty_names_may_recur(tmp_path):
    """Excel writes columns that were deleted."""
    assert read(write(tmp_path, "a.csv", "text,,\nx,,\n")) == [{"text": "x", "": ""}]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "latin-1"])
def test_other_encodings(tmp_path, encoding):
    path = write(tmp_path, "a.csv", "text,label\nnaïve,x\n", encoding)
    assert read(path, encoding=encoding) == [{"text": "naïve", "label": "x"}]


@pytest.mark.parametrize("encoding", ["utf9", ""])
def test_an_unknown_encoding_is_refused(tmp_path, encoding):
    path = write(tmp_path, "a.csv", "text\nx\n")
    message = f"FILE_ENCODING is {encoding!r}; expected a text encoding of Python. Set it to"
    with pytest.raises(ValueError, match=message):
        read(path, encoding=encoding)


@pytest.mark.parametrize("text", ['{"a": "\\ud83d\\ude00"}', b'{"a": "\\ud83d\\ude00"}'])
def test_json_with_a_surrogate_pair_is_parsed(text):
    assert tables.parse_json(text, "a.json") == {"a": "\N{GRINNING FACE}"}


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 100_000, '{"a": "\\ud83d"}', b'{"a": "\\uD83D"}', b"\xff", "1" * 5000],
    ids=["open", "deep", "half a pair", "half a pair in bytes", "no UTF-8", "a long number"],
)
def test_invalid_json_is_named(text):
    with pytest.raises(ValueError, match=r"^TRAIN_FILE a.jsonl, line 3: not JSON \("):
        tables.parse_json(text, "TRAIN_FILE a.jsonl, line 3")
