"""Data sets of plain texts: IMDB's folders and C4's shards as they are given away, and rows.

Summaries and inference are given away in many forms. Of them this reads rows whose columns
are named as in TFDS, in files named after the split.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.data.files import lines, originals, records, tables

Example = Mapping[str, Any]
IMDB_LABELS = ("neg", "pos")
# Names of a split's file beside its own.
_STEMS = {"validation": ("dev", "val")}


def read_columns(
    folder: epath.Path, split: str, columns: Mapping[str, str], label_names: Sequence[str] = ()
) -> Iterator[Example]:
    """The rows of a split's file: SPLIT.jsonl, .csv or .tsv (.gz too); of validation, dev or val too.

    Args:
      folder: has the file.
      split: train, validation, test, or another of the data set.
      columns: name -> dtype, "string" or "int64" (a label), of what each row must have.
      label_names: a label may be one of these in place of its number; -1 is none.

    Raises FileNotFoundError, or ValueError where a row lacks a column or has another label.
    """
    stems = (split, *_STEMS.get(split, ()))
    names = [f"{stem}{end}" for stem in stems for end in (".jsonl", ".csv", ".tsv")]
    try:
        file = originals.find_file(folder, *names)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} Their rows have the columns {', '.join(columns)}."
        ) from error
    for number, row in records.read_rows(str(file), originals.SETTING):
        location = f"{file}, line {number}"
        originals.check_keys(row.keys(), columns, location)
        yield {
            name: str(row[name]) if dtype == "string" else _label(row[name], label_names, location)
            for name, dtype in columns.items()
        }


def _label(value: Any, names: Sequence[str], location: str) -> int:
    numbers = [str(number) for number in range(-1, len(names))]
    if str(value) in numbers:
        return int(value)
    return originals.class_id(str(value), names, location)


def read_imdb(folder: epath.Path, part: str) -> list[Example]:
    """The reviews of PART/neg/*.txt and PART/pos/*.txt of aclImdb: text, label 0 or 1.

    The two kinds alternate, so that a slice has both.
    """
    reviews = []
    for label, name in enumerate(IMDB_LABELS):
        files = [
            file
            for file in (folder / part / name).glob("*_*.txt")
            if file.name.partition("_")[0].isdecimal()
        ]
        if not files:
            raise FileNotFoundError(
                f"{originals.SETTING} {folder} has no {part}/{name}/*.txt. Set it to the folder aclImdb."
            )
        # A file's name is NUMBER_STARS.txt.
        reviews += [(int(file.name.partition("_")[0]), label, file) for file in files]
    return [
        {"text": lines.read_text(str(file), originals.SETTING).strip(), "label": label}
        for _, label, file in sorted(reviews)
    ]


def read_c4(folder: epath.Path, split: str) -> Iterator[Example]:
    """The documents of c4-SPLIT*.json.gz, one JSON object a line: text. Some shards will do."""
    shards = sorted(folder.glob(f"c4-{split}*.json*"))
    if not shards:
        raise FileNotFoundError(
            f"{originals.SETTING} {folder} has no c4-{split}*.json.gz. Set it to a folder with shards of C4."
        )
    for shard in shards:
        for number, line in enumerate(lines.read_lines(str(shard), originals.SETTING), start=1):
            if not line.strip():
                continue
            location = f"{shard}, line {number}"
            row = tables.parse_json(line, f"{originals.SETTING} {location}")
            originals.check_keys(row, ("text",), location)
            if not isinstance(row["text"], str):
                raise ValueError(
                    f"{originals.SETTING} {location}: text is {row['text']!r:.80}; expected a string. "
                    "Correct the row."
                )
            yield {"text": row["text"]}
