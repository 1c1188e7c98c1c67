"""The original files of GLUE, read as TFDS has their examples: TSV, never quoted."""

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.data.files import lines, originals, tables

_SPLITS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
_ENTAILMENT = ("entailment", "not_entailment")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What the files of one data set look like.

    Attributes:
      folder: that GLUE unpacks to; TASK_DATA_DIR is it, or has it.
      texts: feature -> column.
      label: column; absent from test files, "" for a data set without labels.
      classes: names of the labels in order; none where the label is a number.
      files: split -> file.
    """

    folder: str
    texts: Mapping[str, str]
    label: str = "label"
    classes: Sequence[str] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=lambda: _SPLITS)

    @property
    def features(self) -> dict[str, str]:
        """Names and dtypes as in TFDS."""
        label = "int64" if self.classes else "float32"
        return {**dict.fromkeys(self.texts, "string"), "label": label, "idx": "int32"}


def _pair(first: str, second: str) -> dict[str, str]:
    return {first: first, second: second}


def _mnli(**split_files: str) -> DataSet:
    return DataSet(
        "MNLI",
        {"premise": "sentence1", "hypothesis": "sentence2"},
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        split_files,
    )


_SENTENCES = _pair("sentence1", "sentence2")
DATA_SETS: Mapping[str, DataSet] = {
    "cola": DataSet(
        "CoLA", {"sentence": "sentence"}, "is_acceptable", ("unacceptable", "acceptable")
    ),
    "sst2": DataSet("SST-2", {"sentence": "sentence"}, classes=("negative", "positive")),
    "mrpc": DataSet(
        "MRPC",
        {"sentence1": "#1 String", "sentence2": "#2 String"},
        "Quality",
        ("not_equivalent", "equivalent"),
    ),
    "qqp": DataSet(
        "QQP", _pair("question1", "question2"), "is_duplicate", ("not_duplicate", "duplicate")
    ),
    "stsb": DataSet("STS-B", _SENTENCES, "score"),
    "mnli": _mnli(
        train="train.tsv",
        validation_matched="dev_matched.tsv",
        validation_mismatched="dev_mismatched.tsv",
        test_matched="test_matched.tsv",
        test_mismatched="test_mismatched.tsv",
    ),
    "mnli_mismatched": _mnli(validation="dev_mismatched.tsv", test="test_mismatched.tsv"),
    "mnli_matched": _mnli(validation="dev_matched.tsv", test="test_matched.tsv"),
    "qnli": DataSet("QNLI", _pair("question", "sentence"), classes=_ENTAILMENT),
    "rte": DataSet("RTE", _SENTENCES, classes=_ENTAILMENT),
    "wnli": DataSet("WNLI", _SENTENCES, classes=("not_entailment", "entailment")),
    "ax": dataclasses.replace(_mnli(test="diagnostic.tsv"), folder="diagnostic", label=""),
}


def read(name: str, folder: epath.Path, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split of the GLUE data set `name`, from `folder` or its GLUE folder in it.

    Rows that lack a value are left out, as TFDS does. Two forms of other origin are read
    too: Microsoft's own text files of MRPC, with GLUE's list of which rows are for
    development, and JSON files {"0": {"text_a", "text_b", "label"}, ...} of pairs.

    Raises:
      FileNotFoundError, ValueError: naming TASK_DATA_DIR and the file.
    """
    data_set = DATA_SETS[name]
    names = [data_set.files[split]]
    if len(data_set.texts) == 2:
        names.append(names[0].replace(".tsv", ".json"))
    if name == "mrpc":
        names.append(f"msr_paraphrase_{'test' if split == 'test' else 'train'}.txt")
    file = originals.find_file(folder, *names, inside=data_set.folder)
    if file.name.removesuffix(".gz").endswith(".json"):
        rows = _json_rows(file, data_set)
    else:
        rows = _tsv_rows(file, data_set, has_header=name != "cola" or split == "test")
    if file.name.startswith("msr_") and split != "test":
        ids = originals.find_file(file.parent, "dev_ids.tsv", "mrpc_dev_ids.tsv")
        rows = _mrpc_part(rows, ids, split)
    for number, row in enumerate(rows):
        if row is None:
            continue
        example = {feature: row[column] for feature, column in data_set.texts.items()}
        # TFDS hides the labels of MRPC's test split, which Microsoft's file has.
        label = None if (name, split) == ("mrpc", "test") else row.get(data_set.label)
        location = f"{file}, row {number}"
        example["label"] = -1 if label is None else _label(label, data_set.classes, location)
        yield {**example, "idx": number}


def _label(value: str, classes: Sequence[str], location: str) -> float | int:
    if classes:
        numbers = [str(i) for i in range(len(classes))]
        return (
            numbers.index(value)
            if value in numbers
            else originals.class_id(value, classes, location)
        )
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(
            f"{originals.SETTING} {location}: label {value!r}; expected a number. {originals.FIX}"
        ) from error


def _tsv_rows(
    file: epath.Path, data_set: DataSet, has_header: bool
) -> Iterator[dict[str, str] | None]:
    """The rows of a file; None for one that lacks a value."""
    # newline=None: a carriage return within a row ends it, as for TFDS.
    text = io.StringIO(lines.read_text(str(file), originals.SETTING), newline=None)
    names = None if has_header else ["source", data_set.label, "mark", "sentence"]
    reader = csv.DictReader(text, names, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = reader.fieldnames or []
    columns = list(data_set.texts.values())
    originals.check_keys(header, columns, str(file))
    if data_set.label in header:
        columns.append(data_set.label)
    for row in reader:
        if not has_header and row["sentence"] is None:
            raise ValueError(
                f"{originals.SETTING} {file}, line {reader.line_num}: fewer than 4 columns; expected 4 "
                f"columns and no header. {originals.FIX}"
            )
        is_complete = all(row[column] is not None for column in columns)
        yield row if is_complete and row.get(data_set.label) != "" else None


def _json_rows(file: epath.Path, data_set: DataSet) -> Iterator[dict[str, str]]:
    text = lines.read_text(str(file), originals.SETTING)
    rows = tables.parse_json(text, f"{originals.SETTING} {file}")
    if not isinstance(rows, Mapping):
        raise ValueError(
            f"{originals.SETTING} {file}: {text[:40]}; expected a JSON object of rows. {originals.FIX}"
        )
    first, second = data_set.texts.values()
    for key, row in rows.items():
        originals.check_keys(row, ("text_a", "text_b", "label"), f"{file}, {key!r}")
        yield {first: row["text_a"], second: row["text_b"], data_set.label: str(row["label"])}


def _mrpc_part(
    rows: Iterator[dict[str, str] | None], ids_file: epath.Path, split: str
) -> Iterator[dict[str, str] | None]:
    """The rows of Microsoft's training file that GLUE takes for `split`; None for the others."""
    text = lines.read_text(str(ids_file), originals.SETTING)
    development = {tuple(line.split("\t")[:2]) for line in text.splitlines()}
    for row in rows:
        is_development = row is not None and (row["#1 ID"], row["#2 ID"]) in development
        yield row if is_development == (split == "validation") else None
