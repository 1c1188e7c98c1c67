"""scripts/mrqa_to_tsv.py: MRQA's JSON lines become a TSV file that TRAIN_FILE reads."""

import gzip
import json

import pytest

from prompt_tuning.data.files import examples

HEADER = {"header": {"dataset": "Tiny", "split": "dev"}}
PARAGRAPHS = [
    {
        "context": 'She  wrote\n"Films"\tin 1995.',
        "qas": [
            {
                "qid": "a1",
                "question": "When\nwas it?",
                "answers": ["1995", "in 1995"],
                "detected_answers": [{"text": "in  1995"}, {"text": "1995"}],
            },
            {
                "qid": "a2",
                "question": "What?",
                "answers": ["Films"],
                "detected_answers": [{"text": "Films"}],
            },
        ],
    },
]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("mrqa_to_tsv")


def write(path, *objects):
    text = "".join(f"{json.dumps(value)}\n" for value in objects)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["dev.jsonl", "dev.jsonl.gz"])
def test_a_question_becomes_a_row(script, tmp_path, capsys, name):
    script.main(["--jsonl", str(write(tmp_path / name, HEADER, *PARAGRAPHS))])
    table = tmp_path / "dev.tsv"
    assert capsys.readouterr().out == f"2 questions: {table}\n"
    context = 'She wrote "Films" in 1995.'
    assert [line.split("\t") for line in table.read_text().splitlines()] == [
        ["id", "context", "question", "answer", "answers"],
        ["a1", context, "When was it?", "in 1995", "1995|||in 1995"],
        ["a2", context, "What?", "Films", "Films"],
    ]
    (first, second) = examples.read_examples(
        str(table),
        setting="TRAIN_FILE",
        input_template="question: {question} context: {context}",
        target_column="answer",
        label_map=None,
    )
    assert first["inputs"] == f"question: When was it? context: {context}"
    assert (first["targets"], second["targets"]) == ("in 1995", "Films")


def test_flags_set_output_header_and_separator(script, tmp_path):
    source = write(tmp_path / "a.jsonl", *PARAGRAPHS)
    target = tmp_path / "other.tsv"
    script.main([f"--jsonl={source}", f"--output={target}", "--header=0", "--delim= / "])
    assert target.read_text().splitlines()[1].endswith("\t1995 / in 1995")


@pytest.mark.parametrize(
    ("objects", "flags", "part"),
    [
        ([HEADER, HEADER], [], "line 2: KeyError: 'qas'; expected MRQA's"),
        ([*PARAGRAPHS, HEADER], ["--header=0"], "line 2: KeyError"),
        ([HEADER, {**PARAGRAPHS[0], "context": None}], [], "line 2: AttributeError"),
        ([HEADER, *PARAGRAPHS], ["--delim=9"], "'1995' contains --delim '9'; set another --delim"),
    ],
)
def test_a_file_of_another_format_is_refused_without_output(script, tmp_path, objects, flags, part):
    source = write(tmp_path / "a.jsonl", *objects)
    with pytest.raises(SystemExit) as caught:
        script.main([f"--jsonl={source}", *flags])
    assert part in str(caught.value) and str(source) in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: content[:12] + bytes(9)]
)
def test_a_damaged_archive_is_refused(script, tmp_path, damage):
    source = write(tmp_path / "a.jsonl.gz", HEADER, *PARAGRAPHS)
    source.write_bytes(damage(source.read_bytes()))
    with pytest.raises(SystemExit, match=r"a\.jsonl\.gz is damaged \(.*; copy it again"):
        script.main([f"--jsonl={source}"])
    assert list(tmp_path.iterdir()) == [source]
