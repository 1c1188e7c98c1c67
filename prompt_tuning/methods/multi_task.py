"""A prompt for each task of a mixture: one half is shared by all tasks, the other is the task's."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from prompt_tuning.methods import base, prompt

MODES = ("add", "concatenate", "concatenate_features", "project")
ZEROS, UNIFORM = nn.initializers.zeros, nn.initializers.uniform(0.5)


@dataclasses.dataclass(frozen=True)
class MultiTaskPrompt(base.Method):
    """Fills soft tokens, as `prompt.Prompt`, from a table computed of shared and task parameters.

    Soft id i·length + p is token p of task i. The shared half is the parameter `prompt`, which
    PROMPT_INITIALIZER makes. Token p of task i is
      add: shared[p] + task[i, p], which starts at 0;
      concatenate: shared[p], then tokens of the task, which start at random;
      concatenate_features: the first features of token p are shared[p], the others task[i, p],
        which start at random;
      project: shared[p] + shared[p] @ kernel[i] / D + bias[i]; both start at 0, and 1/D lets a step
        of the kernel change a token about as much as a step of the prompt does.

    Attributes:
      length: P, soft tokens of an input.
      num_tasks: N.
      mode: one of `MODES`.
      task_length: how many of the P tokens belong to the task; for "concatenate".
      task_features: how many of the D features of a token belong to the task; for
        "concatenate_features".
      place: position of the soft tokens in an input.
    """

    length: int
    num_tasks: int
    mode: str = "add"
    task_length: int | None = None
    task_features: int | None = None
    place: str | tuple[int, ...] = "prefix"

    supports_decoder_only = True

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(
                f"MULTI_TASK_MODE is {self.mode!r}; expected one of {MODES}. Set MULTI_TASK_MODE "
                "to one of them."
            )
        if not isinstance(self.num_tasks, int) or self.num_tasks < 1:
            raise ValueError(
                f"NUM_TASKS is {self.num_tasks!r}; expected at least 1. Set NUM_TASKS to the "
                "number of tasks."
            )
        prompt.check_length(self.length)
        length, features = self.task_length, self.task_features
        is_part = isinstance(length, int) and 0 < length < self.length
        if self.mode == "concatenate" and not is_part:
            raise ValueError(
                f"TASK_PROMPT_LENGTH is {length!r}; expected at least 1 and less than "
                f"PROMPT_LENGTH={self.length}, because the remaining tokens are shared. Set "
                "TASK_PROMPT_LENGTH to such a number."
            )
        if self.mode == "concatenate_features" and not (isinstance(features, int) and features > 0):
            raise ValueError(
                f"TASK_PROMPT_FEATURES is {features!r}; expected at least 1 and less than EMBED_DIM. "
                "Set it to such a number."
            )

    @property
    def soft_tokens(self) -> base.SoftTokens:
        """`length` soft tokens for each task; see `base.Method`."""
        return base.SoftTokens(self.length, self.place, self.num_tasks)

    def parameters(self, config, shapes):
        """The shared half and the tasks'. Raises ValueError where `task_features` is not below D."""
        tasks, length, width = self.num_tasks, self.length, config.embed_dim
        shared = (length, width)
        match self.mode:
            case "add":
                added = {"task_prompts": _of_tasks(ZEROS, tasks, length, width)}
            case "concatenate":
                added = {"task_prompts": _of_tasks(UNIFORM, tasks, self.task_length, width)}
                shared = (length - self.task_length, width)
            case "concatenate_features":
                if self.task_features >= width:
                    raise ValueError(
                        f"TASK_PROMPT_FEATURES is {self.task_features}; expected less than "
                        f"EMBED_DIM={width}. Set it to such a number."
                    )
                added = {"task_prompts": _of_tasks(UNIFORM, tasks, length, self.task_features)}
                shared = (length, width - self.task_features)
            case "project":
                axes = ("tasks", "prompt_embed")
                added = {
                    "task_kernels": base.Parameter((tasks, width, width), ZEROS, (*axes, None)),
                    "task_biases": base.Parameter((tasks, width), ZEROS, axes),
                }
        added["prompt"] = prompt.prompt_parameter(shared)
        stack = prompt.input_stack(shapes)
        return {f"{stack}/prompt/{name}": parameter for name, parameter in added.items()}

    def embed_input(self, site, x, soft_ids):
        """Fills the soft tokens."""

        def read(name: str) -> Array:
            return base.parameter(site, f"prompt/{name}")

        table = self._table(read("prompt"), read)
        return prompt.fill(table.reshape(-1, x.shape[-1]), soft_ids, x)

    def _table(
        self, shared: Float[Array, "P D"], read: Callable[[str], Array]
    ) -> Float[Array, "N P D"]:
        if self.mode == "add":
            return shared + read("task_prompts")
        if self.mode == "project":
            projected = jnp.einsum("pd,nde->npe", shared, read("task_kernels")) / shared.shape[-1]
            return shared + projected + read("task_biases")[:, None]
        shared = jnp.broadcast_to(shared, (self.num_tasks, *shared.shape))
        axis = 1 if self.mode == "concatenate" else 2
        return jnp.concatenate([shared, read("task_prompts")], axis=axis)


def _of_tasks(initializer: Callable, tasks: int, length: int, width: int) -> base.Parameter:
    return base.Parameter((tasks, length, width), initializer, ("tasks", *prompt.AXES))
