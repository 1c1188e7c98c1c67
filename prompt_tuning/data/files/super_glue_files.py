"""The original files of SuperGLUE, read as TFDS has their examples: an object a line."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.data.files import lines, originals, tables

Examples = Iterator[dict[str, Any]]
_ENTAILMENT = ("entailment", "not_entailment")
_YES_NO = ("False", "True")
_FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What the files of one data set look like.

    Attributes:
      folder: that SuperGLUE unpacks to; TASK_DATA_DIR is it, or has it.
      texts: features that are text.
      numbers: features that are numbers.
      classes: names of the labels, in order.
      files: split -> file.
    """

    folder: str
    texts: Sequence[str]
    classes: Sequence[str]
    numbers: Sequence[str] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=lambda: _FILES)

    @property
    def features(self) -> dict[str, Any]:
        """Names and dtypes as in TFDS."""
        return {
            **dict.fromkeys(self.texts, "string"),
            **dict.fromkeys(self.numbers, "int32"),
            "label": "int64",
            "idx": "int32",
        }


@dataclasses.dataclass(frozen=True)
class MultiRC(DataSet):
    """Paragraphs with questions with answers."""

    @property
    def features(self) -> dict[str, Any]:
        """Names and dtypes as in TFDS."""
        return {
            **super().features,
            "idx": dict.fromkeys(("paragraph", "question", "answer"), "int32"),
        }


@dataclasses.dataclass(frozen=True)
class ReCoRD(DataSet):
    """Passages with queries; entities of the passage may be answers."""

    @property
    def features(self) -> dict[str, Any]:
        """Names and dtypes as in TFDS."""
        return {
            **dict.fromkeys(self.texts, "string"),
            "entities": ["string"],
            "answers": ["string"],
            "idx": dict.fromkeys(("passage", "query"), "int32"),
        }


DATA_SETS: Mapping[str, DataSet] = {
    "boolq": DataSet("BoolQ", ("question", "passage"), _YES_NO),
    "cb": DataSet("CB", ("premise", "hypothesis"), ("entailment", "contradiction", "neutral")),
    "copa": DataSet("COPA", ("premise", "choice1", "choice2", "question"), ("choice1", "choice2")),
    "multirc": MultiRC("MultiRC", ("paragraph", "question", "answer"), _YES_NO),
    "record": ReCoRD("ReCoRD", ("passage", "query"), ()),
    "rte": DataSet("RTE", ("premise", "hypothesis"), _ENTAILMENT),
    "wic": DataSet(
        "WiC",
        ("word", "sentence1", "sentence2"),
        _YES_NO,
        numbers=("start1", "start2", "end1", "end2"),
    ),
    "wsc.fixed": DataSet(
        "WSC",
        ("text", "span1_text", "span2_text"),
        _YES_NO,
        numbers=("span1_index", "span2_index"),
    ),
    "axb": DataSet("AX-b", ("sentence1", "sentence2"), _ENTAILMENT, files={"test": "AX-b.jsonl"}),
    "axg": DataSet("AX-g", ("premise", "hypothesis"), _ENTAILMENT, files={"test": "AX-g.jsonl"}),
}


def read(name: str, folder: epath.Path, split: str) -> Examples:
    """The examples of a split of the SuperGLUE data set `name`, from `folder` or its folder in it.

    Raises:
      FileNotFoundError, ValueError: naming TASK_DATA_DIR and the file.
    """
    data_set = DATA_SETS[name]
    file = originals.find_file(folder, data_set.files[split], inside=data_set.folder)
    return _READERS.get(name, _flat)(file, data_set)


def _flat(file: epath.Path, data_set: DataSet) -> Examples:
    features = (*data_set.texts, *data_set.numbers)
    for location, row in originals.jsonl_rows(file, (*features, "idx")):
        yield {
            **{feature: row[feature] for feature in features},
            "label": _label(row, data_set.classes, location),
            "idx": row["idx"],
        }


def _label(row: tables.Row, classes: Sequence[str], location: str) -> int:
    """-1 in a test split; a file has a class by name, by number, or as true and false."""
    label = row.get("label")
    if label is None:
        return -1
    if not isinstance(label, str) and label in range(len(classes)):
        return int(label)
    return originals.class_id(str(label), classes, location)


def _multirc(file: epath.Path, data_set: DataSet) -> Examples:
    for location, row in originals.jsonl_rows(file, ("passage", "idx")):
        paragraph = row["passage"]
        originals.check_keys(paragraph, ("text", "questions"), location)
        for question in paragraph["questions"]:
            for answer in question["answers"]:
                yield {
                    "paragraph": paragraph["text"],
                    "question": question["question"],
                    "answer": answer["text"],
                    "label": _label(answer, data_set.classes, location),
                    "idx": {
                        "paragraph": row["idx"],
                        "question": question["idx"],
                        "answer": answer["idx"],
                    },
                }


def _record(file: epath.Path, data_set: DataSet) -> Examples:
    del data_set
    for location, row in originals.jsonl_rows(file, ("passage", "qas", "idx")):
        passage = row["passage"]
        originals.check_keys(passage, ("text", "entities"), location)
        text = passage["text"]
        # "end" is the position of the last character.
        entities = {text[entity["start"] : entity["end"] + 1] for entity in passage["entities"]}
        for query in row["qas"]:
            yield {
                "passage": text,
                "query": query["query"],
                "entities": sorted(entities),
                "answers": sorted({answer["text"] for answer in query.get("answers", ())}),
                "idx": {"passage": row["idx"], "query": query["idx"]},
            }


def _wsc(file: epath.Path, data_set: DataSet) -> Examples:
    spans = (*data_set.texts[1:], *data_set.numbers)
    for location, row in originals.jsonl_rows(file, ("text", "target", "idx")):
        originals.check_keys(row["target"], spans, location)
        example = {"text": row["text"], **{name: row["target"][name] for name in spans}}
        _mend_spans(example)
        yield {**example, "label": _label(row, data_set.classes, location), "idx": row["idx"]}


def _mend_spans(example: dict[str, Any]) -> None:
    """What TFDS calls wsc.fixed: spans that are not in the text as they stand are made to be.

    Case is taken from the text; a line break within a span, and a point behind it, are not
    in the text. Two spans are of names that the text has apart, and stay.
    """
    text = example["text"]
    for span in ("span1", "span2"):
        words = example[f"{span}_text"]
        if words in text or words in _APART:
            continue
        first = text.split()[example[f"{span}_index"]][0]
        if "theyscold" in words:
            # A space is missing in the text; its words are counted as if it were there.
            example["span2_index"] = 10
        start = words[0].lower() if first.islower() else words[0].upper()
        example[f"{span}_text"] = (start + words[1:]).rstrip(".").replace("\n", " ")


def read_definite_pronouns(folder: epath.Path, split: str) -> Examples:
    """Definite pronoun resolution (Rahman and Ng, 2012): five lines an example, the last empty.

    From train.c.txt and test.c.txt in `folder` or its folder DPR. Raises as `read`.
    """
    file = originals.find_file(folder, f"{split}.c.txt", inside="DPR")
    text = lines.read_text(str(file), originals.SETTING)
    stripped = [line.strip() for line in text.split("\n")]
    for start in range(0, len(stripped) - 3, 5):
        sentence, pronoun, candidates, correct = stripped[start : start + 4]
        names = [name.strip() for name in candidates.split(",")]
        location = f"{file}, line {start + 4}"
        if len(names) != 2:
            raise ValueError(
                f"{originals.SETTING} {file}, line {start + 3}: {candidates!r}; expected two names. "
                f"{originals.FIX}"
            )
        yield {
            "sentence": sentence,
            "pronoun": pronoun,
            "candidates": names,
            "label": originals.class_id(correct, names, location),
        }


DEFINITE_PRONOUN_FEATURES = {
    "sentence": "string",
    "pronoun": "string",
    "candidates": ["string"],
    "label": "int64",
}
_APART = ("Kamenev and Zinoviev", "Kamenev, Zinoviev, and Stalin")
_READERS = {"multirc": _multirc, "record": _record, "wsc.fixed": _wsc}
