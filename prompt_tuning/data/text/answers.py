"""SQuAD's metrics: exact match and F1 of a prediction against several reference answers."""

import collections
import re
import string
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize(text: str) -> str:
    """Lowercases, removes ASCII punctuation, then English articles, and collapses white space.

    As in the evaluation of SQuAD v1.1 (Rajpurkar et al., 2016, section 6.1).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1.0 if the normalized prediction equals a normalized answer, else 0.0.

    Raises ValueError if there is no answer.
    """
    _check(answers)
    return float(normalize(prediction) in map(normalize, answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the highest F1, 0 to 1, of the normalized words of a prediction and an answer.

    Repeated words count repeatedly. Raises ValueError if there is no answer.
    """
    _check(answers)
    return max(_overlap(normalize(prediction).split(), normalize(a).split()) for a in answers)


def _check(answers: Sequence[str]) -> None:
    if isinstance(answers, str) or not len(answers):
        raise ValueError(f"answers={answers!r}; expected a non-empty list of str, e.g. ['Paris'].")


def _overlap(prediction: list[str], answer: list[str]) -> float:
    shared = (collections.Counter(prediction) & collections.Counter(answer)).total()
    # 2pr / (p + r) with p = shared / len(prediction) and r = shared / len(answer).
    return 2 * shared / (len(prediction) + len(answer)) if shared else 0.0


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Computes mean exact match "em" and mean "f1" in percent, as a seqio metric.

    Args:
      targets: the reference answers of each question.
      predictions: one prediction per question.
    """
    pairs = list(zip(predictions, targets, strict=True))
    return {
        metric_name: 100.0 * sum(metric(*pair) for pair in pairs) / len(pairs)
        for metric_name, metric in (("em", exact_match), ("f1", f1))
    }
