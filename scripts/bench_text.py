"""Reads SST-2 from GLUE's TSV files for scripts/bench.py: `sentence<TAB>label`."""

import itertools

LABELS = {"0": "negative", "1": "positive"}


def read(path: str, number: int | None) -> list[tuple[str, str]]:
    """Reads (sentence, name of the label) of the first rows, or of all for None.

    Raises ValueError if a row has another format.
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
