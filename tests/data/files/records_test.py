"""Rows by number of files of any size; what is in them: files_test.py."""

import functools
import gzip
import itertools
import json
import logging
import tracemalloc

import pytest

from prompt_tuning.data.files import lines, records, tables

TEXTS = ["one", "naïve", "x" * 200, "so\u2028on", "last"]
CSV_TEXTS = ["one", "two\nlines", 'a "quote", too', "\r\n", "last"]
CSV = "text\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in CSV_TEXTS)
CONTENTS = {
    "a.jsonl": ("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in TEXTS), TEXTS),
    "a.tsv": ("text\n" + "".join(f"{text}\r\n" for text in TEXTS), TEXTS),
    "a.csv": (CSV, CSV_TEXTS),
    "mac.csv": (CSV.replace('"\n', '"\r').replace("text\n", "text\r"), CSV_TEXTS),
}


def texts(path, suffixes=tables.SUFFIXES):
    return records.by_number(
        str(path), "TRAIN_FILE", lambda row, number, place: (number, row["text"]), suffixes
    )


@pytest.mark.parametrize("kept", [0, 10**6], ids=["on disk", "in memory"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", CONTENTS)
def test_rows_in_any_order(tmp_path, monkeypatch, name, mark, packed, kept):
    monkeypatch.setattr(records, "IN_MEMORY", kept)
    content, expected = CONTENTS[name]
    path, data = tmp_path / name, (mark + content + "\r\n\n").encode()
    if packed:
        path, data = path.with_name(f"{name}.gz"), gzip.compress(data)
    path.write_bytes(data)
    found = texts(path)
    assert len(found) == 5
    for number in (4, 0, 2, 3, 1, 1):
        assert found[number] == (number, expected[number])


@pytest.mark.parametrize("kept", [0, 10**6], ids=["on disk", "in memory"])
@pytest.mark.parametrize(
    ("encoding", "newline"), [("utf-16", "\n"), ("cp1252", "\r\n"), ("utf-8", "\r")]
)
def test_rows_of_other_encodings_and_line_ends(tmp_path, monkeypatch, encoding, newline, kept):
    monkeypatch.setattr(records, "IN_MEMORY", kept)
    path = tmp_path / "a.tsv"
    path.write_bytes(newline.join(["text", "one", "naïve", "", "last", ""]).encode(encoding))
    seen = []
    found = records.by_number(
        str(path),
        "TRAIN_FILE",
        lambda row, number, place: (number, row["text"]),
        encoding=encoding,
        observe=lambda number, item: seen.append((number, item)),
    )
    assert [found[number] for number in (2, 0, 1)] == [(2, "last"), (0, "one"), (1, "naïve")]
    assert seen == [(2, (0, "one")), (3, (1, "naïve")), (4, None), (5, (2, "last"))]


def test_lines_of_text_without_empty_ones(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n")
    found = records.by_number(
        str(path), "TEXT_FILES", lambda row, *_: row["text"].strip() or None, tables.TEXT_SUFFIXES
    )
    assert list(found) == ["one", "two"]
    with pytest.raises(ValueError, match=r"ends in '.txt'; expected one of .tsv, .csv, .jsonl"):
        texts(path)
    path.write_text("")
    assert len(texts(path, tables.TEXT_SUFFIXES)) == 0


@pytest.mark.parametrize(
    ("name", "begin", "line"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "', 2),
        ("a.jsonl.gz", '{"text": "a"}\n{"text": "', 2),
        ("a.tsv", "text\na\n", 3),
        ("a.csv", 'text\na\n"', 3),
    ],
)
def test_a_line_of_100_mb_is_refused_without_reading_it(tmp_path, name, begin, line):
    path = tmp_path / name
    with gzip.open(path, "wb", 1) if name.endswith(".gz") else path.open("wb") as out:
        out.write(begin.encode())
        for _ in range(100):
            out.write(b"x" * 10**6)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{name}, line {line}: longer than 16,777,216 bytes"):
            for _ in records.read_rows(str(path), "TRAIN_FILE"):
                pass
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_an_open_quote_does_not_take_the_rest_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LINE_LIMIT", 1000)
    path = tmp_path / "a.csv"
    path.write_text('text\na\n"open\n' + "and so on\n" * 500)
    with pytest.raises(ValueError, match="line 3: longer than 1,000 bytes"):
        texts(path)


def test_memory_does_not_grow_with_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "IN_MEMORY", 1000)
    path = tmp_path / "a.jsonl"
    peaks = []
    for rows in (200, 20_000):
        path.write_text((json.dumps({"text": "long " * 100}) + "\n") * rows)
        tracemalloc.start()
        found = texts(path)
        assert found[rows - 1][0] == rows - 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 16 bytes a row, where a row has 500.
    assert peaks[1] < peaks[0] + 20 * 20_000 + 50_000


def test_a_large_file_must_not_change_a_small_one_may(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text(CONTENTS["a.jsonl"][0])
    small = texts(path)
    monkeypatch.setattr(records, "IN_MEMORY", 100)
    large = texts(path)
    assert large[1] == small[1] == (1, "naïve")
    path.write_text("{}\n")
    assert small[1] == (1, "naïve")
    with pytest.raises(OSError, match=r"TRAIN_FILE .*a\.jsonl has changed while it was in use"):
        large[1]


def test_a_disk_without_room_for_what_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "IN_MEMORY", 10)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(CONTENTS["a.jsonl"][0].encode()))
    full = functools.partial(open, "/dev/full", "wb", 0)
    monkeypatch.setattr(records.tempfile, "SpooledTemporaryFile", lambda _: full())
    with pytest.raises(
        OSError, match=r"TRAIN_FILE .* cannot be copied to .*Set TMPDIR to a folder with"
    ):
        texts(path)


def test_long_reading_is_told(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(records, "TELL_EVERY", -1)
    (tmp_path / "a.tsv").write_text("text\nx\n")
    texts(tmp_path / "a.tsv")
    assert caplog.messages == [f"TRAIN_FILE {tmp_path / 'a.tsv'}: 1 rows read, 0.0 GB"]


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"a": ' * 100_000, "9" * 5000], ids=["lists", "objects", "number"]
)
def test_json_that_python_cannot_read(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: not JSON"):
        texts(path)


def test_items_are_made_anew_and_slices_are_lazy():
    made = []

    def make(number):
        made.append(number)
        return 10 * number

    items = records.Lazy(make, range(10))
    part = items[3::3]
    assert len(part) == 3 and made == []
    assert list(part) == [30, 60, 90] and part[-1] == 90 and made == [3, 6, 9, 9]
    assert list(part.map(str)[1:]) == ["60", "90"]


def test_every_so_many_left_out():
    items = records.Lazy(lambda number: number, range(10))
    assert list(items.without_every(4)) == [0, 1, 2, 4, 5, 6, 8, 9]
    assert list(items[3::4]) == [3, 7]


def test_one_after_the_other():
    items = records.chain(["ab", "", "cde"])
    assert "".join(items) == "abcde" and "".join(items[1:4]) == "bcd"


def test_a_stream_is_read_on_and_begun_again_only_for_what_is_behind():
    begun, taken = [], []

    def stream():
        begun.append(1)
        for number in range(8):
            taken.append(number)
            yield number

    items = records.of_stream(stream)
    assert len(items) == 8 and len(begun) == 1
    taken.clear()
    assert list(itertools.chain(items[1:3], items[4:6])) == [1, 2, 4, 5]
    assert len(begun) == 2 and taken == [0, 1, 2, 3, 4, 5]
    assert items[0] == 0 and items[0] == 0 and items[7] == 7 and len(begun) == 4


def test_passes_at_once_have_a_reader_each():
    begun = []

    def stream():
        begun.append(1)
        yield from range(8)

    get = records.read_in_order(stream)
    # As tf.data zips a data set with one that is made of it, and the next epoch with them.
    passes = [[get(number), get(number), get(max(number - 3, 0))] for number in range(9)]
    assert passes[:4] == [[0, 0, 0], [1, 1, 0], [2, 2, 0], [3, 3, 0]]
    assert passes[-2:] == [[7, 7, 4], [None, None, 5]]
    assert len(begun) == 6  # The last pass begins four times.


def test_an_error_of_a_stream_is_not_its_end():
    def stream():
        yield 0
        raise ValueError("line 2")

    get = records.read_in_order(stream)
    assert get(0) == 0
    for _ in range(2):
        with pytest.raises(ValueError, match="line 2"):
            get(1)


def test_a_sample_is_of_the_complete_sequence():
    ordered = list(range(1, 101))
    assert records.sample(ordered, 200) == ordered
    sample = records.sample(ordered, 20)
    assert len(sample) == len(set(sample)) == 20 and 35 < sum(sample) / 20 < 65
    assert sample == sorted(sample) == records.sample(ordered, 20)
