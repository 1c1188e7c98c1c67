"""The files of SQuAD v1.1 and of MRQA 2019, as those who made them give them away.

Examples are as TFDS has them. MRQA: 12 sets in one format; the folder is that of the
shared task's download scripts, train/ and dev/ below it if both are wanted.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from prompt_tuning.data.files import lines, originals, records, tables

Example = Mapping[str, Any]

# The folder's names of what TFDS calls train and validation; sets out of domain have a dev file only.
_PARTS = {"train": "train", "validation": "dev"}


def read_squad(folder: epath.Path, split: str) -> Iterator[Example]:
    """The questions of train-v1.1.json or dev-v1.1.json (.gz too): id, question, context, answers.

    Raises FileNotFoundError, or ValueError where the file is not SQuAD v1.1.
    """
    stem = f"{_PARTS[split]}-v1.1"
    variants = sorted(file.name for file in folder.glob(f"{stem}*.json*"))
    file = originals.find_file(folder, f"{stem}.json", *variants)
    try:
        text = lines.read_text(str(file), originals.SETTING)
        for article in tables.parse_json(text, f"{originals.SETTING} {file}")["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    yield _squad_example(asked, paragraph["context"], file)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{originals.SETTING} {file} is not SQuAD v1.1 ({error!r}); expected {{'data': "
            "[{'paragraphs': [{'context', 'qas': [{'id', 'question', 'answers'}]}]}]}. "
            f"{originals.FIX}"
        ) from error


def _squad_example(asked: Mapping[str, Any], context: str, file: epath.Path) -> Example:
    texts = [answer["text"] for answer in asked["answers"]]
    if not texts:
        raise ValueError(
            f"{originals.SETTING} {file}: question {asked['id']} has no answer, as in SQuAD v2.0; expected "
            f"SQuAD v1.1. Set {originals.SETTING} to the folder of SQuAD v1.1."
        )
    return {
        "id": asked["id"],
        "question": asked["question"],
        "context": context,
        "answers": {"text": texts},
    }


def read_mrqa(folder: epath.Path, split: str, name: str) -> Iterator[Example]:
    """The questions of NAME.jsonl (.gz too) of MRQA: qid, question, context, answers.

    Args:
      folder: has NAME*.jsonl, or the folders train and dev with it.
      split: train or validation.
      name: of the set, e.g. "DuoRC"; the file's may be longer, as in DuoRC.ParaphraseRC.jsonl.

    Raises FileNotFoundError, or ValueError where the file is not that of this set.
    """
    below = folder / _PARTS[split]
    variants = [*below.glob(f"{name}*.jsonl*")]
    if split == "validation":
        variants += folder.glob(f"{name}*.jsonl*")
    names = sorted(str(file.relative_to(folder)) for file in variants)
    file = originals.find_file(folder, f"{_PARTS[split]}/{name}.jsonl", *names)
    rows = records.read_rows(str(file), originals.SETTING)
    _check_header(next(rows)[1], name, split, file)
    for number, paragraph in rows:
        location = f"{file}, line {number}"
        originals.check_keys(paragraph, ("context", "qas"), location)
        for asked in paragraph["qas"]:
            originals.check_keys(asked, ("qid", "question", "answers"), location)
            if not asked["answers"]:
                raise ValueError(
                    f"{originals.SETTING} {location}: question {asked['qid']} has no answer; expected at "
                    "least one. Add an answer, or remove the question."
                )
            yield {
                "qid": asked["qid"],
                "question": asked["question"].strip(),
                "context": paragraph["context"].strip(),
                "answers": asked["answers"],
            }


def _check_header(row: tables.Row, name: str, split: str, file: epath.Path) -> None:
    """The first line of a file has its set, and as a rule its split: train, dev or test."""
    header = row.get("header")
    if not isinstance(header, Mapping) or "dataset" not in header:
        raise ValueError(
            f"{originals.SETTING} {file}, line 1: no header; expected "
            f"{{'header': {{'dataset': '{name}', …}}}}, as in the files of MRQA. {originals.FIX}"
        )
    dataset = re.sub(r"\W", "", str(header["dataset"])).lower()
    if not dataset.startswith(name.lower()):
        raise ValueError(
            f"{originals.SETTING} {file} has the data set {header['dataset']}; expected {name}. Set "
            f"{originals.SETTING} to the folder of {name}, or choose another task."
        )
    of_file = header.get("split")
    if of_file is not None and (of_file == "train") != (split == "train"):
        raise ValueError(
            f"{originals.SETTING} {file} has the split {of_file!r} of {name}; expected "
            f"{_PARTS[split]!r}. Set {originals.SETTING} to a folder with train/ and dev/."
        )
