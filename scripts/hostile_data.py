"""Readers of data files and original files of data sets, for scripts/hostile_files.py."""

import functools
import gzip
import json
import pathlib
from collections.abc import Callable
from typing import Any

from hostile_files import Target

from prompt_tuning.data.files import (
    examples,
    glue_files,
    originals,
    question_files,
    super_glue_files,
    text_files,
)


def _text(name: str, text: str) -> Callable[[pathlib.Path], None]:
    def write(folder: pathlib.Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        content = text.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    return write


def _table(name: str, text: str) -> Target:
    """Returns a target for a TRAIN_FILE."""

    def read(folder: pathlib.Path) -> None:
        examples.read_examples(
            str(folder / name),
            setting="TRAIN_FILE",
            input_template="a: {text}",
            target_column="label",
            prompt_column=None,
        )

    return Target(name, _text(name, text), read)


def _original(name: str, text: str, read: Callable, features: dict, split: str, **more: Any):
    """Returns a target for an original file of a data set, read as a task does."""

    def read_task(folder: pathlib.Path) -> None:
        source = originals.Source("glue/sst2:2.0.0", read=read, features=features, splits=[split])
        list(source.in_folder(folder).get_dataset(split, shuffle=False).take(3))

    return Target(name, _text(name, text), read_task, **more)


def _glue(name: str, file: str, text: str) -> Target:
    features = glue_files.DATA_SETS[name].features
    return _original(file, text, functools.partial(glue_files.read, name), features, "train")


def _super_glue(name: str, row: dict) -> Target:
    features = super_glue_files.DATA_SETS[name].features
    read = functools.partial(super_glue_files.read, name)
    return _original("train.jsonl", json.dumps(row) + "\n", read, features, "train")


_SPANS = {"span1_text": "Tom", "span1_index": 0, "span2_text": "his", "span2_index": 2}
_QUESTION = {"question": "who", "idx": 0, "answers": [{"text": "b", "idx": 0, "label": 1}]}
_ENTITIES = {"text": "Ann won", "entities": [{"start": 0, "end": 2}]}
_SQUAD = {"id": "1", "question": "q", "answers": [{"text": "a", "answer_start": 0}]}
_MRQA_QUESTION = {"qid": "1", "question": "q", "answers": ["a"]}
_MRQA = [
    {"header": {"dataset": "DuoRC", "split": "train"}},
    {"context": "c", "qas": [_MRQA_QUESTION]},
]

TARGETS = {
    "TSV": _table("a.tsv", "text\tlabel\nx y\tgood\n"),
    "quoted TSV": _table("a.tsv", 'text\tlabel\n"x ""y""\nz"\tgood\n"a\tb"\tbad\nc\tgood\n'),
    "CSV": _table("a.csv", 'text,label\n"x, y",good\n'),
    "JSONL": _table("a.jsonl", '{"text": "x", "label": 1}\n{"text": "é", "label": 2}\n'),
    "gzip": _table("a.tsv.gz", "text\tlabel\nx y\tgood\n"),
    "GLUE TSV": _glue("sst2", "train.tsv", "sentence\tlabel\na film\t1\n"),
    "GLUE score": _glue("stsb", "train.tsv", "sentence1\tsentence2\tscore\na\tb\t2.5\n"),
    "GLUE JSON": _glue(
        "rte", "train.json", '{"0": {"text_a": "a", "text_b": "b", "label": "entailment"}}'
    ),
    "SuperGLUE": _super_glue(
        "wic",
        {
            **{"word": "a", "sentence1": "a b", "sentence2": "a c", "idx": 0, "label": True},
            **{"start1": 0, "start2": 0, "end1": 1, "end2": 1},
        },
    ),
    "MultiRC": _super_glue(
        "multirc", {"idx": 0, "passage": {"text": "t", "questions": [_QUESTION]}}
    ),
    "ReCoRD": _super_glue(
        "record",
        {
            "idx": 0,
            "passage": _ENTITIES,
            "qas": [{"query": "q", "idx": 1, "answers": [{"text": "a"}]}],
        },
    ),
    "WSC": _super_glue(
        "wsc.fixed", {"text": "Tom lost his hat", "target": _SPANS, "idx": 0, "label": True}
    ),
    "definite pronouns": _original(
        "train.c.txt",
        "Ann saw Bea as she ran.\nshe\nAnn,Bea\nAnn\n\n",
        super_glue_files.read_definite_pronouns,
        super_glue_files.DEFINITE_PRONOUN_FEATURES,
        "train",
    ),
    "SQuAD": _original(
        "train-v1.1.json",
        json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": [_SQUAD]}]}]}),
        question_files.read_squad,
        {**dict.fromkeys(("id", "question", "context"), "string"), "answers": {"text": ["string"]}},
        "train",
    ),
    "MRQA": _original(
        "train/DuoRC.jsonl",
        "".join(json.dumps(row) + "\n" for row in _MRQA),
        functools.partial(question_files.read_mrqa, name="DuoRC"),
        {**dict.fromkeys(("qid", "question", "context"), "string"), "answers": ["string"]},
        "train",
    ),
    "C4": _original(
        "c4-train.00000.json.gz",
        '{"text": "a b", "url": "u"}\n{"text": "c"}\n',
        text_files.read_c4,
        {"text": "string"},
        "train",
        unpack=gzip.decompress,
        pack=gzip.compress,
    ),
    "columns": _original(
        "train.jsonl",
        '{"text": "a", "label": 1}\n',
        functools.partial(
            text_files.read_columns,
            columns={"text": "string", "label": "int64"},
            label_names=("no", "yes"),
        ),
        {"text": "string", "label": "int64"},
        "train",
    ),
}
