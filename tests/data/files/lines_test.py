"""Lines of files of other encodings; limits and packed files: records_test.py, hostile_files_test.py."""

import gzip
import io

import pytest

from prompt_tuning.data.files import encodings, lines


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
    coding = encodings.TextCoding(encoding, "\n")
    found = list(lines.read_lines(path, "TRAIN_FILE", copy, coding))
    assert found == [text.encode() for text in texts]
    assert copy.getvalue() == "".join(texts).encode()


def test_lines_of_old_macs(tmp_path):
    path = write(tmp_path, b"one\rtwo\rthree\nfour")
    found = lines.read_lines(path, "TRAIN_FILE", coding=encodings.TextCoding("utf-8", ""))
    assert list(found) == [b"one\r", b"two\r", b"three\n", b"four"]


@pytest.mark.parametrize("packed", [False, True])
def test_what_an_encoding_cannot_read_is_named_by_its_offset(tmp_path, packed):
    data = b"x" * 9_999 + b"\n" + b"caf\xe9 \x81\n"
    path = write(tmp_path, data, packed)
    found = lines.read_lines(path, "EVAL_FILE", coding=encodings.TextCoding("cp1252", "\n"))
    with pytest.raises(
        ValueError, match=r"EVAL_FILE .*not cp1252: byte 0x81 at offset 10,005 .*latin-1"
    ):
        list(found)


def test_a_file_of_utf16_that_is_cut(tmp_path):
    path = write(tmp_path, "text\nmore\n".encode("utf-16")[:-1])
    found = lines.read_lines(path, "EVAL_FILE", coding=encodings.TextCoding("utf-16", "\n"))
    with pytest.raises(ValueError, match=r"not utf-16: byte 0x0A at offset 20 .* incomplete"):
        list(found)


def test_utf16_needs_the_mark_that_it_has(tmp_path):
    path = write(tmp_path, b"text\nmore\n")
    found = lines.read_lines(path, "EVAL_FILE", coding=encodings.TextCoding("utf-16", "\n"))
    message = "EVAL_FILE .*not utf-16 .*BOM.* Set FILE_ENCODING = 'utf-8'"
    with pytest.raises(ValueError, match=message):
        list(found)


def test_the_head_is_unpacked(tmp_path):
    assert lines.read_head(write(tmp_path, b"text\n", packed=True), "TRAIN_FILE") == b"text\n"
    (tmp_path / "a.txt.gz").write_bytes(b"plain")
    with pytest.raises(ValueError, match="not a complete gzip file"):
        lines.read_head(str(tmp_path / "a.txt.gz"), "TRAIN_FILE")
