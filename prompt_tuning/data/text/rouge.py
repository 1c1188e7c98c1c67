"""ROUGE of summaries (Lin, 2004): F1 of words, word pairs and longest common subsequences.

The package rouge-score requires all of NLTK for a stemmer that T5 does not use, so it is not a
dependency; tests/testdata/rouge.json has its values.
"""

import collections
import itertools
import re
from collections.abc import Sequence


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Computes mean "rouge1", "rouge2" and "rougeLsum" in percent, as a seqio metric.

    A sentence ends at a line break or at " . ", as in T5. T5 reports the median of bootstrap
    means; this is the mean over all examples.

    Args:
      targets: reference summaries.
      predictions: predicted summaries.
    """
    sums = collections.Counter()
    for target, prediction in zip(targets, predictions, strict=True):
        sums["rouge1"] += rouge_n(target, prediction, 1)
        sums["rouge2"] += rouge_n(target, prediction, 2)
        sums["rougeLsum"] += rouge_lsum(*(x.replace(" . ", " .\n") for x in (target, prediction)))
    return {name: 100.0 * sums[name] / len(targets) for name in ("rouge1", "rouge2", "rougeLsum")}


def _words(text: str) -> list[str]:
    """Splits into lowercase runs of ASCII letters and digits, without stemming."""
    return re.findall("[a-z0-9]+", text.lower())


def rouge_n(target: str, prediction: str, n: int) -> float:
    """Returns F1, 0 to 1, of n-grams; repeated n-grams count repeatedly."""
    ngrams, predicted = (_count_ngrams(_words(text), n) for text in (target, prediction))
    return _f1((ngrams & predicted).total(), ngrams.total(), predicted.total())


def _count_ngrams(words: list[str], n: int) -> collections.Counter:
    return collections.Counter(zip(*(words[i:] for i in range(n)), strict=False))


def rouge_lsum(target: str, prediction: str) -> float:
    """Returns F1, 0 to 1, of the union of longest common subsequences of lines.

    For each line of the target, the longest common subsequences with all lines of the prediction
    are united; a word counts at most as often as either text has it (Lin, 2004, section 3.2).
    """
    lines, predicted_lines = (
        [_words(line) for line in text.split("\n")] for text in (target, prediction)
    )
    counts, predicted_counts = (
        collections.Counter(itertools.chain(*x)) for x in (lines, predicted_lines)
    )
    totals = counts.total(), predicted_counts.total()
    shared = 0
    for line in lines:
        common = (_common_positions(line, other) for other in predicted_lines)
        for position in sorted(set().union(*common)):
            word = line[position]
            if counts[word] and predicted_counts[word]:
                shared += 1
                counts[word] -= 1
                predicted_counts[word] -= 1
    return _f1(shared, *totals)


def _common_positions(line: Sequence[str], other: Sequence[str]) -> set[int]:
    """Returns positions in `line` of the longest common subsequence that ends first in `line`."""
    # Lists: single elements of NumPy arrays are slow to read and write.
    lengths = [[0] * (len(other) + 1)]
    for word in line:
        above, row = lengths[-1], [0]
        for j, other_word in enumerate(other):
            row.append(above[j] + 1 if word == other_word else max(above[j + 1], row[j]))
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


def _f1(shared: int, total: int, predicted_total: int) -> float:
    return 2 * shared / (total + predicted_total) if shared else 0.0
