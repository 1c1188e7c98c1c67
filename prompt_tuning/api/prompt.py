"""A prompt in memory, with its card."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.prompts import initializers, module


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """What `tune` returns and `load_prompt` reads.

    Attributes:
      table: the learned vectors [P, D], float32.
      card: what is known of it, as in the file beside a prompt file: "base_model",
        "base_model_digest", "place", "task", "step", …
    """

    table: Float[np.ndarray, "P D"]
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """P, the number of soft tokens."""
        return len(self.table)

    def __repr__(self) -> str:
        return f"Prompt(length={len(self)}, embed_dim={self.table.shape[1]})"

    @property
    def place(self) -> str | tuple[int, ...]:
        """Where it stands in an input (PROMPT_PLACE)."""
        told = self.card.get("place", "prefix")
        return tuple(told) if isinstance(told, list) else told

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the examples that it was tuned on; () of free text."""
        return tuple(self.card.get("labels") or ())

    def save(self, path: epath.PathLike) -> None:
        """Writes `<name>.npy` and its card `<name>.json`, which the commands read too."""
        prompt_files.save(path, self.table, self.card)


# One for all texts, one for each, or none.
Prompts = Prompt | Sequence[Prompt] | None


def load_prompt(path: epath.PathLike) -> Prompt:
    """Reads a prompt file, `<name>.npy`, and the card beside it where there is one.

    Args:
      path: of a run, MODEL_DIR/prompts/best.npy; also a file of the paper's authors.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: not a table of finite numbers.
    """
    return Prompt(prompt_files.load(path), prompt_files.read_card(path))


def distinct(prompts: Prompts, count: int) -> tuple[tuple[Prompt, ...], list[int]]:
    """Prompts of `count` texts, each once, and of each text the number of its own.

    Raises:
      ValueError: not a prompt, not one for each text, or of several lengths or places.
    """
    if prompts is None:
        return (), [0] * count
    if isinstance(prompts, Prompt):
        return (prompts,), [0] * count
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise ValueError(
            f"prompt is {prompts!r:.80}; expected what pt.load_prompt(path) gives, or a list of such, one "
            "for each text"
        )
    for number, each in enumerate(prompts):
        if not isinstance(each, Prompt):
            raise ValueError(
                f"prompt[{number}] is {each!r:.80}; expected what pt.load_prompt(path) gives; answer texts "
                "without a prompt in a call of their own"
            )
    if len(prompts) != count:
        raise ValueError(
            f"prompt has {len(prompts)} prompts, and there are {count} texts; expected one for each: "
            "give a single prompt, not a list, where it is for all"
        )
    kinds = {f"{each.table.shape} {each.place!r}" for each in prompts}
    if len(kinds) > 1:
        raise ValueError(
            f"the prompts of one call have the shapes and places {', '.join(sorted(kinds))}; expected "
            "the same of all: give those that differ in calls of their own"
        )
    numbers = {each: number for number, each in enumerate(dict.fromkeys(prompts))}
    return tuple(numbers), [numbers[each] for each in prompts]


def as_module(prompts: Sequence[Prompt]) -> module.Prompt | None:
    """What a network takes: a table of prompts that are alike; None of none."""
    if not prompts:
        return None
    names = tuple(map(str, range(len(prompts)))) if len(prompts) > 1 else ()
    return module.Prompt(len(prompts[0]), names, prompts[0].place)


def as_initializer(prompts: Sequence[Prompt], base_digest: str) -> initializers.FromArray:
    """What fills that table: below each other; it tells a base model other than `base_digest`."""
    digests = [prompt.card.get("base_model_digest") for prompt in prompts]
    others = [digest for digest in digests if digest not in (None, base_digest)]
    tables = np.concatenate([prompt.table for prompt in prompts])
    return initializers.FromArray(tables, next(iter(others), None))
