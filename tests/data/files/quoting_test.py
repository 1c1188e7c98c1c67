"""Whether a TSV file is quoted: what writers of CSV make of rows, and what others have."""

import csv
import io

import pytest

from prompt_tuning.data.files import lines, quoting

ROWS = [
    ("text", "label"),
    ('she said "never" and left', "0"),
    ("a warm, tender song", "1"),
    ('"Splendid!" wrote the paper', "1"),
    ("plain", "0"),
]
LONG = [("a first half ,\nand a second half", "1"), ("a tab\tinside", "0")]
PLAIN = "text\tlabel\n"


def write(rows, **style):
    out = io.StringIO()
    csv.writer(out, delimiter="\t", **{"lineterminator": "\n"} | style).writerows(rows)
    return out.getvalue()


def detect(content):
    return quoting.detect_quoting(content.encode().splitlines(keepends=True), "TRAIN_FILE a.tsv")


def write_as_excel(rows):
    """Excel quotes fields with a comma in files that are separated by tabs."""
    fields = [
        ['"' + x.replace('"', '""') + '"' if set(x) & set(',"\n\t') else x for x in row]
        for row in rows
    ]
    return "".join("\t".join(row) + "\r\n" for row in fields)


QUOTED = {
    "minimal": write(ROWS),
    "minimal, Windows": write(ROWS, lineterminator="\r\n"),
    "all": write(ROWS, quoting=csv.QUOTE_ALL),
    "all, without a quotation mark inside": write(
        [ROWS[0], ROWS[2], ROWS[4]], quoting=csv.QUOTE_ALL
    ),
    "texts": write(
        [ROWS[0], *((text, int(n)) for text, n in ROWS[1:])], quoting=csv.QUOTE_NONNUMERIC
    ),
    "line breaks": write([*ROWS, *LONG]),
    "line breaks alone": write([ROWS[0], LONG[0]]),
    "a tab alone": write([ROWS[0], LONG[1]]),
    "a tab beside needless quotes": PLAIN + '"a\tb"\t1\n"plain"\t0\nplain\t1\n',
    "Excel": write_as_excel([*ROWS, ("yes, no", "1")]),
    "Excel, commas alone": write_as_excel([ROWS[0], ROWS[2], ROWS[4]]),
    "header of its own": PLAIN + write(ROWS[1:], quoting=csv.QUOTE_ALL),
    "a column": PLAIN + '"a"\t1\n"b"\t0\n',
    "an empty text": '"text"\t"label"\n""\t"1"\n',
    "no end of line": write(ROWS).rstrip("\n"),
    "a broken row": write([*ROWS, *LONG]) + "one\ttwo\tthree\n",
}
NOT_QUOTED = {
    "no quotes": PLAIN + "a\t1\n",
    "an open one": PLAIN + '"opening only\t1\nplain\t0\nclever "middle" quote\t1\n',
    "an open one at the end": PLAIN + 'plain\t0\n"opening only\t1\n',
    "inches": PLAIN + 'a 5" disk\t1\n',
    "one quoted sentence": PLAIN + '"Splendid !"\t1\nplain\t0\n',
    "one quoted sentence with a comma": PLAIN + '"Splendid , yes !"\t1\nplain , no\t0\n',
    "one row": PLAIN + '"Splendid !"\t1\n',
    "opened here, closed there": PLAIN + '"one\t1\ntwo\t0\nthree"\t1\n',
    "behind a space": PLAIN + 'a "b" c\t1\n "d"\t0\n',
    "quotes of GLUE": PLAIN + '" a film " that is `` good \'\'\t1\n"\t0\n',
    "letters behind a quote": PLAIN + '"a" b\t1\n',
}


@pytest.mark.parametrize("name", QUOTED)
def test_quoted_files(name):
    assert detect(QUOTED[name]).is_quoted


@pytest.mark.parametrize("name", NOT_QUOTED)
def test_files_that_are_not_quoted(name):
    detected = detect(NOT_QUOTED[name])
    assert not detected.is_quoted and not detected.is_mixed


def test_a_quoted_file_with_a_stray_quotation_mark():
    detected = detect(write(ROWS) + 'a 5" disk\t1\n')
    assert detected == quoting.Quoting(False, broken_line=6, is_mixed=True)


def test_a_quoted_header_is_no_accident():
    content = write(ROWS, quoting=csv.QUOTE_ALL) + '"she said \\"no\\""\t"1"\n'
    with pytest.raises(
        ValueError, match=r"TRAIN_FILE a.tsv, line 6: .* doubled .* as CSV \(.csv\)"
    ):
        detect(content)


def test_an_open_quote_takes_no_more_than_the_limit(monkeypatch):
    monkeypatch.setattr(lines, "LINE_LIMIT", 100)
    read = []

    def rows():
        for line in [PLAIN, '"open\t1\n', *["more\t1\n"] * 1000]:
            read.append(line)
            yield line.encode()

    assert not quoting.detect_quoting(rows(), "a").is_quoted
    assert len(read) < 30


def test_a_field_of_many_lines_is_read_in_linear_time():
    content = PLAIN + '"' + 'he said ""no""\n' * 100_000 + '"\t1\n'
    assert detect(content).is_quoted
