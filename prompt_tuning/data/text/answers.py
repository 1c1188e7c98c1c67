"""Answers to questions, compared with those that people gave: SQuAD's exact match and F1."""

import collections
import re
import string
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize(text: str) -> str:
    """Lower case, ASCII punctuation out, then English articles out, single spaces.

    As the evaluation of SQuAD v1.1 does it (Rajpurkar et al., 2016, section 6.1).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 where the prediction is one of the answers after `normalize`, else 0.0.

    Raises ValueError where there is no answer.
    """
    _check(answers)
    return float(normalize(prediction) in map(normalize, answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The highest F1, 0 to 1, of the prediction's words against those of an answer.

    Words are those of `normalize`, as often as they occur. Raises ValueError where there is
    no answer.
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
    """Exact match "em" and "f1", means in percent, as a seqio metric.

    Args:
      targets: for each question the answers that people gave.
      predictions: an answer to each question.
    """
    pairs = list(zip(predictions, targets, strict=True))
    return {
        "em": 100.0 * sum(exact_match(*pair) for pair in pairs) / len(pairs),
        "f1": 100.0 * sum(f1(*pair) for pair in pairs) / len(pairs),
    }
