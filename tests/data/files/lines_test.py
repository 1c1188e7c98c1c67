"""Encodings, byte order marks and lines of files; limits and packed files: records_test.py, hostile_files_test.py."""

import codecs
import gzip
import io

import pytest

from prompt_tuning.data.files import lines

TEXT = "naïve\tlabel\nso\t1\n"


def write(folder, data, packed=False):
    path = folder / ("a.txt.gz" if packed else "a.txt")
    path.write_bytes(gzip.compress(data) if packed else data)
    return str(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "cp1252", "latin-1", "utf-16", "utf-32", "utf-16-be"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_are_utf8(tmp_path, encoding, newline, packed):
    texts = ["naïve" + newline, newline, "so\x85on" if encoding != "cp1252" else "so on"]
    path = write(tmp_path, "".join(texts).encode(encoding), packed)
    copy = io.BytesIO()
    coding = lines.TextCoding(encoding, "\n")
    found = list(lines.read_lines(path, "TRAIN_FILE", copy, coding))
    assert found == [text.encode() for text in texts]
    assert copy.getvalue() == "".join(texts).encode()


def test_lines_of_old_macs(tmp_path):
    path = write(tmp_path, b"one\rtwo\rthree\nfour")
    found = lines.read_lines(path, "TRAIN_FILE", coding=lines.TextCoding("utf-8", ""))
    assert list(found) == [b"one\r", b"two\r", b"three\n", b"four"]


@pytest.mark.parametrize("packed", [False, True])
def test_what_an_encoding_cannot_read_is_named_by_its_offset(tmp_path, packed):
    data = b"x" * 9_999 + b"\n" + b"caf\xe9 \x81\n"
    path = write(tmp_path, data, packed)
    found = lines.read_lines(path, "EVAL_FILE", coding=lines.TextCoding("cp1252", "\n"))
    with pytest.raises(
        ValueError, match=r"EVAL_FILE .*not cp1252: byte 0x81 at offset 10,005 .*latin-1"
    ):
        list(found)


def test_a_file_of_utf16_that_is_cut(tmp_path):
    path = write(tmp_path, "text\nmore\n".encode("utf-16")[:-1])
    found = lines.read_lines(path, "EVAL_FILE", coding=lines.TextCoding("utf-16", "\n"))
    with pytest.raises(ValueError, match=r"not utf-16: byte 0x0A at offset 20 .* incomplete"):
        list(found)


def test_utf16_needs_the_mark_that_it_has(tmp_path):
    path = write(tmp_path, b"text\nmore\n")
    found = lines.read_lines(path, "EVAL_FILE", coding=lines.TextCoding("utf-16", "\n"))
    message = "EVAL_FILE .*not utf-16 .*BOM.* Set FILE_ENCODING = 'utf-8'"
    with pytest.raises(ValueError, match=message):
        list(found)


def test_the_head_is_unpacked(tmp_path):
    assert lines.read_head(write(tmp_path, b"text\n", packed=True), "TRAIN_FILE") == b"text\n"
    (tmp_path / "a.txt.gz").write_bytes(b"plain")
    with pytest.raises(ValueError, match="not a complete gzip file"):
        lines.read_head(str(tmp_path / "a.txt.gz"), "TRAIN_FILE")


@pytest.mark.parametrize(
    ("head", "encoding", "expected"),
    [
        (TEXT.encode(), "utf-8", ("utf-8", "\n")),
        (TEXT.encode(), "UTF8", ("utf-8", "\n")),
        (TEXT.encode("utf-16"), "utf-8", ("utf-16", "\n")),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "cp1252", ("utf-16", "\n")),
        (TEXT.encode("utf-32"), "utf-8", ("utf-32", "\n")),
        (TEXT.encode("utf-8-sig"), "cp1252", ("utf-8", "\n")),
        (TEXT.encode("cp1252"), "cp1252", ("cp1252", "\n")),
        (TEXT.encode("utf-16-le"), "utf-16-le", ("utf-16-le", "\n")),
        (TEXT.replace("\n", "\r").encode(), "utf-8", ("utf-8", "")),
        (TEXT.replace("\n", "\r\n").encode(), "utf-8", ("utf-8", "\n")),
        (b"text\tlabel\r", "utf-8", ("utf-8", "\n")),
        (b"", "utf-8", ("utf-8", "\n")),
        (b"a\nb\rc\n", "utf-8", ("utf-8", "\n")),
    ],
)
def test_detection(head, encoding, expected):
    assert lines.detect_coding(head, encoding, "TRAIN_FILE a.tsv") == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_byte_order_mark_is_named(encoding):
    with pytest.raises(ValueError, match=f"a.tsv begins with .*Set FILE_ENCODING = '{encoding}'"):
        lines.detect_coding("text\n".encode(encoding), "utf-8", "TRAIN_FILE a.tsv")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_files_that_are_not_text_are_named(encoding):
    with pytest.raises(ValueError, match=r"a.csv is compressed with gzip.*Add \.gz to its name"):
        lines.detect_coding(gzip.compress(b"text\n"), encoding, "TRAIN_FILE a.csv")


@pytest.mark.parametrize(
    ("head", "encoding", "reads"),
    [
        (
            "a\nso naïve café\n".encode(),
            "cp1252",
            "'so naÃ¯ve cafÃ©', but utf-8 decodes to 'so naïve café'",
        ),
        (
            "a\nd’accord\n".encode("cp1252"),
            "latin-1",
            "'d\\x92accord', but cp1252 decodes to 'd’accord'",
        ),
    ],
)
def test_a_likely_encoding_other_than_the_setting_is_reported(caplog, head, encoding, reads):
    lines.detect_coding(head, encoding, "EVAL_FILE a.tsv")
    assert reads in caplog.text and "EVAL_FILE a.tsv: FILE_ENCODING = " in caplog.text


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac_roman", "utf-16-le", "utf-8-sig"])
def test_the_encoding_of_a_file_is_not_reported(caplog, encoding):
    lines.detect_coding("a\nso naïve, café\n".encode(encoding), encoding, "EVAL_FILE a.tsv")
    lines.detect_coding("a\nnaïve\n".encode(), "utf-8-sig", "EVAL_FILE a.tsv")
    lines.detect_coding("ï".encode("utf-8-sig"), encoding, "EVAL_FILE a.tsv")
    assert not caplog.text


def test_an_old_mac_file_gets_its_encoding():
    error = UnicodeDecodeError("utf-8", "text\rcafé\rb\r".encode("mac_roman"), 8, 9, "invalid")
    assert "Decoded as mac_roman, it reads 'café'" in lines._describe_error(error, "utf-8", 14)


@pytest.mark.parametrize("encoding", ["utf8x", "hex", "rot13", 5])
def test_an_unknown_encoding_is_refused(encoding):
    with pytest.raises(ValueError, match=f"FILE_ENCODING is {encoding!r}.* Set it to e.g. 'utf-8'"):
        lines.check_encoding(encoding)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "first\nna\u00efve café\n".encode("cp1252"),
            r"line 8: not UTF-8: byte 0xEF .*Decoded as cp1252, it reads 'naïve café'.*FILE_ENCODING = 'cp1252'",
        ),
        (
            b"a \x81 caf\xe9\n",
            r"line 7: .*Decoded as latin-1, it reads 'a \\x81 café'.*= 'latin-1'",
        ),
    ],
)
def test_an_error_suggests_an_encoding(line, message):
    with pytest.raises(ValueError, match=message):
        lines.decode(line, 7, "TRAIN_FILE a.tsv")


def test_where_no_setting_applies_the_file_is_to_be_converted():
    with pytest.raises(ValueError, match="convert the file with `iconv -f cp1252 -t utf-8`"):
        lines.decode(b"caf\xe9", 1, "TASK_DATA_DIR a.tsv", has_setting=False)


def test_a_byte_order_mark_is_dropped_from_the_first_line_only():
    data = "\ufefftext".encode()
    assert lines.decode(data, 1, "a") == "text"
    assert lines.decode(data, 2, "a") == "\ufefftext"
