"""Digests follow the content, wherever it lies; a file that changes while it is read is an error."""

import shutil

import numpy as np
import pytest

from prompt_tuning.data.files import fingerprints, records


def test_a_file_is_its_content(tmp_path):
    first, moved, other = (tmp_path / name for name in ("a.tsv", "sub/b.tsv", "c.tsv"))
    first.write_text("text\tlabel\na\tb\n")
    moved.parent.mkdir()
    shutil.copy(first, moved)
    other.write_text("text\tlabel\na\tc\n")
    digests = [fingerprints.of_files([path]) for path in (first, moved, other)]
    assert digests[0] == digests[1] != digests[2]
    assert fingerprints.of_files([first, other]) != fingerprints.of_files([other, first])
    # Whoever reads it says what is wrong.
    assert fingerprints.of_files([tmp_path / "none"]) is fingerprints.of_files([tmp_path]) is None


def test_arrays_have_names_shapes_dtypes_and_values():
    ones = np.ones((2, 3), np.float32)
    kinds = [
        {"a": ones},
        {"b": ones},
        {"a": ones.T},
        {"a": ones.astype(np.float16)},
        {"a": ones + 1},
        {"a": ones, "card": "prefix"},
        {"a": ones, "card": "suffix"},
    ]
    assert len({fingerprints.of_arrays(each) for each in kinds}) == len(kinds)
    assert fingerprints.of_arrays({"a": ones}) == fingerprints.of_arrays({"a": ones.copy()})


def test_examples_are_compared_as_far_as_they_are_read():
    def examples(count, last=5, text=b"a"):
        ids = [np.array([1, 2, 3]) for _ in range(count - 1)] + [np.array([1, 2, last])]
        answers = np.array([b"x", b"y"], object)  # as seqio gives several texts
        return [{"inputs": x, "inputs_pretokenized": text, "answers": answers} for x in ids]

    one = fingerprints.of_examples(examples(4))
    others = [examples(5), examples(4, last=6), examples(4, text=b"b")]
    assert len({one, *map(fingerprints.of_examples, others)}) == 4
    assert fingerprints.of_examples(records.of_stream(lambda: iter(examples(4)))) == one
    few = [fingerprints.of_examples(examples(4, last=last), 2) for last in (5, 6)]
    assert few[0] == few[1]


@pytest.mark.parametrize("size", [10, 3 * fingerprints.CHUNK])
def test_a_folder_is_its_names_and_the_ends_of_its_files(tmp_path, size):
    def digest(name, files):
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return fingerprints.of_folder(str(tmp_path / name))

    content = bytes(size)
    one = digest("a", {"state/x": content, "index": b""})
    assert digest("b", {"state/x": content, "index": b""}) == one
    assert digest("c", {"state/y": content, "index": b""}) != one
    assert digest("d", {"state/x": content[:-1] + b"x", "index": b""}) != one
    assert digest("e", {"state/x": b"x" + content[1:], "index": b""}) != one


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\na\tb\n")
    files = {"TRAIN_FILE": [str(path)], "EVAL_FILE": [str(tmp_path / "none")]}
    with fingerprints.unchanged(files):
        path.read_text()
    expected = r"TRAIN_FILE .*train.tsv changed while it was read; .* again"
    with pytest.raises(OSError, match=expected), fingerprints.unchanged(files):
        path.write_text("text\tlabel\na\tc, and more\n")
