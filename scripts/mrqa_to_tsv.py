"""Converts a data set of the MRQA 2019 shared task (JSON lines, .gz too) to a TSV file.

The columns are id, context, question, answer (the first that was detected in the context, to train
on) and answers (all of them, separated by --delim, to score against). TRAIN_FILE and EVAL_FILE read
it with

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


def rows(lines: TextIO, header: int, delim: str, file_name: str) -> Iterator[Sequence[str]]:
    """Yields the values of COLUMNS for each question.

    Args:
      lines: lines of the file.
      header: number of lines to skip at the start; MRQA's files have one.
      delim: separator of the answers to a question.
      file_name: name of the file, for messages.

    Raises:
      ValueError: a line is not a paragraph of MRQA with its questions, or an answer contains
        `delim`.
    """
    for number, line in enumerate(lines, 1):
        if number <= header or not line.strip():
            continue
        try:
            paragraph = json.loads(line)
            values = [_row(paragraph["context"], question, delim) for question in paragraph["qas"]]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file_name}, line {number}: {type(error).__name__}: {error}; expected MRQA's "
                '{"context", "qas": [{"qid", "question", "answers", "detected_answers"}]}'
            ) from error
        yield from values


def _row(context: str, question: Mapping[str, Any], delim: str) -> Sequence[str]:
    answers = [_one_line(answer) for answer in question["answers"]]
    for answer in answers:
        if delim in answer:
            raise ValueError(
                f"the answer {answer!r} contains --delim {delim!r}; set another --delim"
            )
    detected = _one_line(question["detected_answers"][0]["text"])
    texts = (question["qid"], context, question["question"])
    return [*map(_one_line, texts), detected, delim.join(answers)]


def _one_line(text: str) -> str:
    """Replaces tabs and line breaks, which separate values in a TSV file."""
    return " ".join(text.split())


def convert(source: pathlib.Path, target: pathlib.Path, header: int, delim: str) -> int:
    """Writes `target` atomically and returns the number of questions."""
    opened = gzip.open if source.suffix == ".gz" else open
    try:
        with opened(source, "rt", encoding="utf-8") as lines:
            values = list(rows(lines, header, delim, str(source)))
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{source} is damaged ({error}); copy it again") from error
    text = "".join("\t".join(row) + "\n" for row in (COLUMNS, *values))
    atomic.write(target, text.encode())
    return len(values)


def main(arguments: Sequence[str]) -> None:
    """Converts the file of --jsonl."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jsonl", required=True, type=pathlib.Path, help="file of MRQA")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="TSV file to write (default: the name of --jsonl with .tsv)",
    )
    parser.add_argument("--header", type=int, default=1, help="lines to skip (default: 1)")
    parser.add_argument("--delim", default="|||", help="separator of answers (default: |||)")
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
