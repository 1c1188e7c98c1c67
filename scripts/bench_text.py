"""The text that scripts/bench.py reads: SST-2 as GLUE's TSV files hold it, `sentence<TAB>label`."""

import itertools

LABELS = {"0": "negative", "1": "positive"}


def read(path: str, number: int | None) -> list[tuple[str, str]]:
    """(sentence, label as a word) of the first lines, all for None.

    Raises ValueError where a line holds something else.
    """
    pairs = []
    with open(path, encoding="utf-8") as file:
        header = next(file, "").rstrip("\n")
        if header != "sentence\tlabel":
            raise ValueError(f"{path} begins with {header!r}; expected 'sentence<TAB>label'")
        for line in itertools.islice(file, number):
            sentence, _, label = line.rstrip("\n").rpartition("\t")
            if label not in LABELS:
                raise ValueError(f"{path} has the label {label!r}; expected {sorted(LABELS)}")
            pairs.append((sentence.strip(), LABELS[label]))
    return pairs
