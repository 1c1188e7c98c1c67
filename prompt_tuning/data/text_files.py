"""Data sets of plain texts, from files that hold them as they are given away.

Rows with columns (summaries, inference), IMDB's folders of reviews, C4's shards.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from prompt_tuning.data import files, originals

Example = Mapping[str, Any]
IMDB_LABELS = ("neg", "pos")


def read_columns(folder: epath.Path, split: str, columns: Mapping[str, str]) -> Iterator[Example]:
    """The rows of train, validation or test, as .jsonl, .csv or .tsv (.gz too).

    Args:
      folder: has the file.
      split: the file's name.
      columns: name -> dtype, "string" or "int64", of what each row must have.
    """
    file = originals.find_file(folder, *(f"{split}{end}" for end in (".jsonl", ".csv", ".tsv")))
    for number, row in files.read_rows(str(file), originals.SETTING):
        place = f"{file}, line {number}"
        originals.check_keys(row.keys(), columns, place)
        yield {name: _value(row[name], dtype, place) for name, dtype in columns.items()}


def _value(value: Any, dtype: str, place: str) -> str | int:
    if dtype == "string":
        return str(value)
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{originals.SETTING} {place}: {value!r}; expected a number, that of a label"
        ) from error


def read_imdb(folder: epath.Path, part: str) -> list[Example]:
    """The reviews of PART/neg/*.txt and PART/pos/*.txt of aclImdb: text, label 0 or 1.

    The two kinds take turns, so that a slice has both.
    """
    reviews = []
    for label, name in enumerate(IMDB_LABELS):
        found = [*(folder / part / name).glob("*_*.txt")]
        if not found:
            raise FileNotFoundError(
                f"{originals.SETTING} {folder} has no {part}/{name}/*.txt; set it to the folder aclImdb"
            )
        # A file's name is NUMBER_STARS.txt.
        reviews += [(int(file.name.partition("_")[0]), label, file) for file in found]
    return [
        {"text": files.read_text(str(file), originals.SETTING).strip(), "label": label}
        for _, label, file in sorted(reviews)
    ]


def read_c4(folder: epath.Path, split: str) -> Iterator[Example]:
    """The documents of c4-SPLIT*.json.gz, one JSON object a line: text. Some shards will do."""
    shards = sorted(folder.glob(f"c4-{split}*.json*"))
    if not shards:
        raise FileNotFoundError(
            f"{originals.SETTING} {folder} has no c4-{split}*.json.gz; set it to a folder with shards of C4"
        )
    for shard in shards:
        text = files.read_text(str(shard), originals.SETTING)
        for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
            place = f"{shard}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{originals.SETTING} {place}: not JSON ({error})") from error
            originals.check_keys(row, ("text",), place)
            yield {"text": row["text"]}
