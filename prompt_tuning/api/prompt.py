"""A prompt in memory, with its card."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from prompt_tuning import annotations, texts
from prompt_tuning.api import arguments
from prompt_tuning.checkpoints import prompt_files, prompt_paths
from prompt_tuning.methods import base, initializers
from prompt_tuning.methods import prompt as prompt_method


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

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError where `table` is not a table of numbers."""
        if isinstance(self.table, str | os.PathLike):
            raise annotations.WrongTypeError(
                f"table={self.table!r} has type {type(self.table).__name__}; expected an array of shape "
                f"[P, D]. Load a file with pt.load_prompt({self.table!r})"
            )
        try:
            object.__setattr__(self, "table", np.asarray(self.table, np.float32))
        except (TypeError, ValueError) as error:
            raise annotations.WrongTypeError(
                f"table={annotations.show(self.table)} is not an array of numbers ({error}); expected shape [P, D]. "
                "Pass one row of numbers per soft token"
            ) from error
        if not np.isfinite(self.table).all():
            raise ValueError(
                "table has values that are NaN or infinite; expected finite numbers. Pass the prompt of an "
                "earlier step"
            )
        if self.table.ndim != 2:
            raise ValueError(
                f"table has shape {self.table.shape}; expected [P, D]. Pass one row per soft token"
            )
        annotations.check("card", self.card, Mapping, annotations.write_argument)

    def __len__(self) -> int:
        """P, the number of soft tokens."""
        return len(self.table)

    def __repr__(self) -> str:
        return f"Prompt(length={len(self)}, embed_dim={self.table.shape[1]})"

    @property
    def place(self) -> str | tuple[int, ...]:
        """Position of the soft tokens in an input (PROMPT_PLACE)."""
        position = self.card.get("place", "prefix")
        return tuple(position) if isinstance(position, list) else position

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the training examples; () for free text."""
        return tuple(self.card.get("labels") or ())

    @arguments.checked()
    def save(self, path: epath.PathLike) -> None:
        """Writes `<name>.npy` and its card `<name>.json`, which the commands read too."""
        prompt_files.save(path, self.table, self.card)


# One for all texts, one for each, or none.
Prompts = Prompt | Iterable[Prompt] | None


@arguments.checked(
    {
        "PROMPT_FILE": "path",
        "MODEL_DIR": "model_dir",
        "set INITIAL_CHECKPOINT_PATH to the result": "load the result with pt.load_model",
        "set INITIAL_CHECKPOINT_PATH to it": "load it with pt.load_model",
        "set the gin file of its model": "pass a prompt",
    }
)
def load_prompt(path: epath.PathLike) -> Prompt:
    """Reads a prompt, and the card beside its file where there is one.

    Args:
      path: a prompt file, `<name>.npy`, also one of the paper's authors; an adapter that PEFT
        saved; or the folder of a run, of which the best prompt is read, or the last where nothing
        was evaluated.

    Raises:
      FileNotFoundError: there is no such file, or no prompt in the folder.
      TypeError: `path` is not a path.
      ValueError: not a table of finite numbers, or prompts of several runs.
    """
    file = prompt_paths.best(path)
    return Prompt(prompt_files.load(file), prompt_files.read_card(file))


def distinct(prompts: Prompts, count: int) -> tuple[tuple[Prompt, ...], list[int]]:
    """Prompts of `count` texts, each once, and of each text the number of its own.

    Raises:
      TypeError: not a prompt.
      ValueError: not one for each text, or of several lengths or places.
    """
    if prompts is None:
        return (), [0] * count
    if isinstance(prompts, Prompt):
        return (prompts,), [0] * count
    if isinstance(prompts, str | os.PathLike):
        raise annotations.WrongTypeError(
            f"prompt={prompts!r} has type {type(prompts).__name__}; expected a Prompt. "
            f"Pass prompt=pt.load_prompt({prompts!r})"
        )
    prompts = list(texts.iterate("prompt", prompts, "Prompt"))
    for number, each in enumerate(prompts):
        if not isinstance(each, Prompt):
            raise annotations.WrongTypeError(
                f"prompt[{number}]={annotations.show(each)} has type {type(each).__name__}; expected a Prompt. "
                "Load a file with pt.load_prompt, pass an array [P, D] as pt.Prompt(array), and process texts "
                "without a prompt in a separate call."
            )
    if len(prompts) != count:
        raise ValueError(
            f"prompt has {len(prompts)} elements, and there are {count} texts; expected one prompt "
            "for each text. Pass a single Prompt, not a list, to use it for all texts."
        )
    kinds = {f"{each.table.shape} {each.place!r}" for each in prompts}
    if len(kinds) > 1:
        raise ValueError(
            f"prompt has elements of different shapes or places: {', '.join(sorted(kinds))}; "
            "expected the same shape and place for all. Process them in separate calls, one for "
            "each shape and place."
        )
    numbers = {each: number for number, each in enumerate(dict.fromkeys(prompts))}
    return tuple(numbers), [numbers[each] for each in prompts]


def as_method(prompts: Sequence[Prompt]) -> base.Method:
    """Returns the method for prompts of one length and position, or for none."""
    if not prompts:
        return base.NO_METHOD
    names = tuple(map(str, range(len(prompts)))) if len(prompts) > 1 else ()
    return prompt_method.Prompt(len(prompts[0]), names, prompts[0].place)


def as_initializer(prompts: Sequence[Prompt], base_digest: str) -> initializers.FromArray:
    """Returns the initializer that stacks the prompts; it has the digest of another base model, if any."""
    digests = [prompt_files.comparable_digest(prompt.card) for prompt in prompts]
    others = [digest for digest in digests if digest not in (None, base_digest)]
    tables = np.concatenate([prompt.table for prompt in prompts])
    return initializers.FromArray(tables, next(iter(others), None))
