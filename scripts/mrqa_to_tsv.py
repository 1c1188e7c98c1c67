"""Makes a TSV file of a data set of the MRQA 2019 shared task (JSON lines, .gz too).

The columns are id, context, question, answer (to train on: the first that was found in the
context) and answers (to be scored against: all of them, with --delim between). TRAIN_FILE and
EVAL_FILE read it, with

    INPUT_TEMPLATE = "question: {question} context: {context}"
    TARGET_COLUMN = "answer"
"""

import argparse
import gzip
import json
import pathlib
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from prompt_tuning.checkpoints import atomic

COLUMNS = ("id", "context", "question", "answer", "answers")


def rows(lines: TextIO, header: int, delim: str, place: str) -> Iterator[Sequence[str]]:
    """The values of COLUMNS for each question.

    Args:
      lines: of the file.
      header: lines to leave out at its start; MRQA's files have one.
      delim: put between the answers of a question.
      place: the file's name, for messages.

    Raises:
      ValueError: a line that is not a paragraph of MRQA's with its questions, or an answer with
        `delim` in it.
    """
    for number, line in enumerate(lines, 1):
        if number <= header or not line.strip():
            continue
        try:
            paragraph = json.loads(line)
            found = [_row(paragraph["context"], question, delim) for question in paragraph["qas"]]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"{place}, line {number}: {type(error).__name__}: {error}; expected MRQA's "
                '{"context", "qas": [{"qid", "question", "answers", "detected_answers"}]}'
            ) from error
        yield from found


def _row(context: str, question: Mapping[str, Any], delim: str) -> Sequence[str]:
    answers = [_one_line(answer) for answer in question["answers"]]
    for answer in answers:
        if delim in answer:
            raise ValueError(f"the answer {answer!r} has --delim {delim!r} in it; set another one")
    detected = _one_line(question["detected_answers"][0]["text"])
    texts = (question["qid"], context, question["question"])
    return [*map(_one_line, texts), detected, delim.join(answers)]


def _one_line(text: str) -> str:
    """Without tabs and line ends, which end a value of a TSV file."""
    return " ".join(text.split())


def convert(source: pathlib.Path, target: pathlib.Path, header: int, delim: str) -> int:
    """Writes `target`, whole or not at all; returns the number of questions."""
    opened = gzip.open if source.suffix == ".gz" else open
    try:
        with opened(source, "rt", encoding="utf-8") as lines:
            found = list(rows(lines, header, delim, str(source)))
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{source} is damaged ({error}); copy it again") from error
    text = "".join("\t".join(row) + "\n" for row in (COLUMNS, *found))
    atomic.write(target, text.encode())
    return len(found)


def main(arguments: Sequence[str]) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jsonl", required=True, type=pathlib.Path, help="MRQA's file")
    parser.add_argument("--output", type=pathlib.Path, help="default: --jsonl's name with .tsv")
    parser.add_argument("--header", type=int, default=1, help="lines to leave out (1)")
    parser.add_argument("--delim", default="|||", help="between answers (|||)")
    options = parser.parse_args(arguments)
    name = options.jsonl.name.removesuffix(".gz")
    output = options.output or options.jsonl.with_name(name).with_suffix(".tsv")
    try:
        count = convert(options.jsonl, output, options.header, options.delim)
    except (OSError, ValueError) as error:
        sys.exit(f"mrqa_to_tsv: {error}")
    print(f"{count} questions: {output}")


if __name__ == "__main__":
    main(sys.argv[1:])
