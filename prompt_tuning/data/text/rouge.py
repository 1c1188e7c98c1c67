"""ROUGE of summaries (Lin, 2004): F1 of words, of pairs of words, of longest common subsequences.

Written here rather than required: the package rouge-score needs all of NLTK for a stemmer that
T5 does not use. tests/testdata/rouge.json has that package's values.
"""

import collections
import itertools
import re
from collections.abc import Sequence


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """ "rouge1", "rouge2" and "rougeLsum", means in percent, as a seqio metric.

    A sentence ends at a line break or at " . ", as in T5. (T5 gives the median of the mean
    over random samples of the examples; this is the mean of all.)

    Args:
      targets: a summary of each text.
      predictions: another one.
    """
    sums = collections.Counter()
    for target, prediction in zip(targets, predictions, strict=True):
        sums["rouge1"] += rouge_n(target, prediction, 1)
        sums["rouge2"] += rouge_n(target, prediction, 2)
        sums["rougeLsum"] += rouge_lsum(_break_lines(target), _break_lines(prediction))
    return {name: 100.0 * sums[name] / len(targets) for name in ("rouge1", "rouge2", "rougeLsum")}


def _break_lines(text: str) -> str:
    return text.replace(" . ", " .\n")


def words(text: str) -> list[str]:
    """Runs of ASCII letters and digits, in lower case, not stemmed."""
    return re.findall("[a-z0-9]+", text.lower())


def rouge_n(target: str, prediction: str, n: int) -> float:
    """F1, 0 to 1, of the runs of `n` words, each as often as it occurs in both."""
    wanted, given = (_runs(words(text), n) for text in (target, prediction))
    return _f1((wanted & given).total(), wanted.total(), given.total())


def _runs(tokens: list[str], n: int) -> collections.Counter:
    return collections.Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def rouge_lsum(target: str, prediction: str) -> float:
    """F1, 0 to 1, of the words that the target's lines have in common, in order, with any line.

    For each line of the target the longest common subsequences with all lines of the
    prediction are joined; a word counts at most as often as either text has it (Lin, 2004,
    section 3.2).
    """
    wanted, given = ([words(line) for line in text.split("\n")] for text in (target, prediction))
    left_wanted, left_given = (
        collections.Counter(itertools.chain(*lines)) for lines in (wanted, given)
    )
    totals = left_wanted.total(), left_given.total()
    shared = 0
    for line in wanted:
        for position in sorted(set().union(*(_common(line, other) for other in given))):
            word = line[position]
            if left_wanted[word] and left_given[word]:
                shared += 1
                left_wanted[word] -= 1
                left_given[word] -= 1
    return _f1(shared, *totals)


def _common(line: Sequence[str], other: Sequence[str]) -> set[int]:
    """Positions in `line` of one longest common subsequence: that which ends first in `line`."""
    # Lists: an array is slow where it is read and written a number at a time.
    lengths = [[0] * (len(other) + 1)]
    for word in line:
        above, row = lengths[-1], [0]
        for j, another in enumerate(other):
            row.append(above[j] + 1 if word == another else max(above[j + 1], row[j]))
        lengths.append(row)
    positions, i, j = set(), len(line), len(other)
    while i and j:
        if line[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            positions.add(i)
        elif lengths[i][j - 1] > lengths[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return positions


def _f1(shared: int, wanted: int, given: int) -> float:
    return 2 * shared / (wanted + given) if shared else 0.0
