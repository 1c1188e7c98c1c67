"""Encodings: byte order marks, line ends, and errors that suggest an encoding."""

import codecs
import gzip

import pytest

from prompt_tuning.data.files import encodings

TEXT = "naïve\tlabel\nso\t1\n"


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
    assert encodings.detect(head, encoding, "TRAIN_FILE a.tsv") == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_byte_order_mark_is_named(encoding):
    with pytest.raises(ValueError, match=f"a.tsv begins with .*Set FILE_ENCODING = '{encoding}'"):
        encodings.detect("text\n".encode(encoding), "utf-8", "TRAIN_FILE a.tsv")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_files_that_are_not_text_are_named(encoding):
    with pytest.raises(ValueError, match=r"a.csv is compressed with gzip.*Add \.gz to its name"):
        encodings.detect(gzip.compress(b"text\n"), encoding, "TRAIN_FILE a.csv")


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
    encodings.detect(head, encoding, "EVAL_FILE a.tsv")
    assert reads in caplog.text and "EVAL_FILE a.tsv: FILE_ENCODING = " in caplog.text


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac_roman", "utf-16-le", "utf-8-sig"])
def test_the_encoding_of_a_file_is_not_reported(caplog, encoding):
    encodings.detect("a\nso naïve, café\n".encode(encoding), encoding, "EVAL_FILE a.tsv")
    encodings.detect("a\nnaïve\n".encode(), "utf-8-sig", "EVAL_FILE a.tsv")
    encodings.detect("ï".encode("utf-8-sig"), encoding, "EVAL_FILE a.tsv")
    assert not caplog.text


def test_an_old_mac_file_gets_its_encoding():
    error = UnicodeDecodeError("utf-8", "text\rcafé\rb\r".encode("mac_roman"), 8, 9, "invalid")
    assert "Decoded as mac_roman, it reads 'café'" in encodings.describe_error(error, "utf-8", 14)


@pytest.mark.parametrize("encoding", ["utf8x", "hex", "rot13", 5])
def test_an_unknown_encoding_is_refused(encoding):
    with pytest.raises(ValueError, match=f"FILE_ENCODING is {encoding!r}.* Set it to e.g. 'utf-8'"):
        encodings.check_name(encoding)


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
        encodings.decode(line, 7, "TRAIN_FILE a.tsv")


def test_where_no_setting_applies_the_file_is_to_be_converted():
    with pytest.raises(ValueError, match="convert the file with `iconv -f cp1252 -t utf-8`"):
        encodings.decode(b"caf\xe9", 1, "TASK_DATA_DIR a.tsv", has_setting=False)


def test_a_byte_order_mark_is_dropped_from_the_first_line_only():
    data = "\ufefftext".encode()
    assert encodings.decode(data, 1, "a") == "text"
    assert encodings.decode(data, 2, "a") == "\ufefftext"
