"""Similarity of prompts, to choose one to initialize from.

SPoT (Vu et al., 2022, section 3) uses prompts that are trained on the same model as embeddings of
their tasks: the more similar two prompts are, the better one transfers to the other's task.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from prompt_tuning.checkpoints import prompt_files


@dataclasses.dataclass(frozen=True)
class Similarity:
    """The similarity of a prompt file to another prompt.

    Attributes:
      path: of the file.
      task: of its card; "" if the card has none.
      of_means: see the function of this name.
      of_tokens: see the function of this name.
    """

    path: str
    task: str
    of_means: float
    of_tokens: float


def of_means(one: Float[np.ndarray, "P D"], other: Float[np.ndarray, "Q D"]) -> float:
    """Returns the cosine of the mean vectors ("cosine similarity of average tokens")."""
    return float((_unit(one.mean(axis=0)) * _unit(other.mean(axis=0))).sum())


def of_tokens(one: Float[np.ndarray, "P D"], other: Float[np.ndarray, "Q D"]) -> float:
    """Returns the mean cosine over all pairs of vectors ("per-token average cosine similarity")."""
    # The mean of all products is the product of the means.
    return float((_unit(one).mean(axis=0) * _unit(other).mean(axis=0)).sum())


def _unit(x: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n D"]:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def similarity(*, prompt_file: str, others: Sequence[str]) -> list[Similarity]:
    """`prompt-tuning similarity`: prints one line per other prompt, the most similar first.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: a file is not a prompt, or has another width.
    """
    if isinstance(others, str) or not others:
        raise ValueError(
            f"PROMPT_FILES is {others!r}; expected a list of prompt files. Set PROMPT_FILES to one "
            "or more files."
        )
    prompt = prompt_files.load(prompt_file)
    results = []
    for path in others:
        other = prompt_files.load(path)
        if other.shape[1] != prompt.shape[1]:
            raise ValueError(
                f"{path} of PROMPT_FILES has vectors of width {other.shape[1]}, but PROMPT_FILE "
                f"{prompt_file} has width {prompt.shape[1]}; expected prompts of the same model. "
                f"Remove {path} from PROMPT_FILES."
            )
        task = str(prompt_files.read_card(path).get("task", ""))
        results.append(Similarity(path, task, of_means(prompt, other), of_tokens(prompt, other)))
    results.sort(key=lambda result: -result.of_means)
    print(f"Cosine similarity with {prompt_file}\n of means  of tokens")
    for x in results:
        print(f"{x.of_means:9.4f}  {x.of_tokens:9.4f}  {x.path}  {x.task}".rstrip())
    return results
