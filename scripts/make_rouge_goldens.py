"""Writes tests/testdata/rouge.json: summaries, and scores of the package rouge-score.

pip install rouge-score==0.1.2
python scripts/make_rouge_goldens.py tests/testdata/rouge.json
"""

import json
import random
import sys

from rouge_score import rouge_scorer

HAND_MADE = [
    ("The cat sat on the mat.", "the cat was on a mat"),
    ("Nothing in common", "at all"),
    ("", "some words"),
    ("some words", ""),
    ("...", "!!!"),
    ("It's 3.5 % more; co-operate!", "its 3 5 more cooperate"),
    ("Zürich café", "Zurich cafe"),
    ("Zürich café", "z rich caf_e"),
    ("a b c d", "d c b a"),
    ("one two three\nfour five", "four five\none two three"),
    ("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5"),
    ("a a a b", "a b a"),
    ("a\n\nb\n", "b\na"),
    ("one", "one"),
]
TYPES = ("rouge1", "rouge2", "rougeLsum")


def pairs():
    """Yields HAND_MADE, then random texts of few distinct words, which have many ties."""
    yield from HAND_MADE
    rng = random.Random(0)
    for _ in range(40):
        yield tuple(
            "\n".join(
                " ".join(rng.choices("abcdef", k=rng.randint(1, 8)))
                for _ in range(rng.randint(1, 4))
            )
            for _ in range(2)
        )


def main():
    """Writes [target, prediction, {type: F1}] of each pair."""
    scorer = rouge_scorer.RougeScorer(TYPES)
    rows = []
    for target, prediction in pairs():
        scores = scorer.score(target, prediction)
        rows.append([target, prediction, {name: scores[name].fmeasure for name in TYPES}])
    with open(sys.argv[1], "w") as file:
        file.write("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
