"""How like prompts of different tasks are: which of them to start another from.

SPoT (Vu et al., 2022, section 3) takes the prompts of tasks, trained on the same model, for
embeddings of the tasks: the nearer two are, the more does one help the other.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from prompt_tuning.checkpoints import prompt_files


@dataclasses.dataclass(frozen=True)
class Similarity:
    """A prompt file, and how like another prompt it is.

    Attributes:
      path: of the file.
      task: of its card; "" where no card says it.
      of_means: see the function of this name.
      of_tokens: see the function of this name.
    """

    path: str
    task: str
    of_means: float
    of_tokens: float


def of_means(one: Float[np.ndarray, "P D"], other: Float[np.ndarray, "Q D"]) -> float:
    """Cosine of the mean vectors ("cosine similarity of average tokens")."""
    return float((_unit(one.mean(axis=0)) * _unit(other.mean(axis=0))).sum())


def of_tokens(one: Float[np.ndarray, "P D"], other: Float[np.ndarray, "Q D"]) -> float:
    """Mean cosine over all pairs of vectors ("per-token average cosine similarity")."""
    # The mean of all products is the product of the means.
    return float((_unit(one).mean(axis=0) * _unit(other).mean(axis=0)).sum())


def _unit(x: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n D"]:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def similarity(
    *, prompt_file: str, others: Sequence[str], config_text: str = ""
) -> list[Similarity]:
    """`prompt-tuning similarity`: prints a line for each other prompt, the nearest first.

    Raises:
      FileNotFoundError: a file is not there.
      ValueError: a file is no prompt, or one of another model's width.
    """
    del config_text  # nothing is written
    if isinstance(others, str) or not others:
        raise ValueError(
            f"PROMPT_FILES is {others!r}; expected a list of prompt files. Set PROMPT_FILES to one "
            "or more files."
        )
    prompt = prompt_files.load(prompt_file)
    found = []
    for path in others:
        other = prompt_files.load(path)
        if other.shape[1] != prompt.shape[1]:
            raise ValueError(
                f"{path} of PROMPT_FILES has vectors of width {other.shape[1]}, but PROMPT_FILE "
                f"{prompt_file} has width {prompt.shape[1]}; expected prompts of the same model. "
                f"Remove {path} from PROMPT_FILES."
            )
        task = str(prompt_files.read_card(path).get("task", ""))
        found.append(Similarity(path, task, of_means(prompt, other), of_tokens(prompt, other)))
    found.sort(key=lambda each: -each.of_means)
    print(f"Cosine similarity with {prompt_file}\n of means  of tokens")
    for each in found:
        print(f"{each.of_means:9.4f}  {each.of_tokens:9.4f}  {each.path}  {each.task}".rstrip())
    return found
