"""One prompt a task, of a half that all tasks share and a half of its own."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prompt_tuning.methods import module

MODES = ("add", "concatenate", "concatenate_features", "project")


class MultiTaskPrompt(nn.Module):
    """Fills the rows of soft tokens, as `module.Prompt`, from a table computed of its parts.

    Soft id i·length + p is token p of task i. The shared half is the parameter `prompt`, so that
    it starts as any prompt does. Of task i, token p is
      add: shared[p] + task[i, p]; the task's start at 0;
      concatenate: shared[p], then the task's own tokens, which start at random;
      concatenate_features: the first numbers of token p are shared[p], the others task[i, p], which
        start at random;
      project: shared[p] + shared[p] @ kernel[i] / D + bias[i]; both start at 0, and 1/D lets a step
        of the kernel move a token about as far as it moves a token of the prompt itself.

    Attributes:
      length: P, soft tokens of an input.
      num_tasks: how many prompts there are.
      mode: one of `MODES`.
      task_length: of the P tokens, how many are the task's own; for "concatenate".
      task_features: of the D numbers of a token, how many are the task's own; for
        "concatenate_features".
      place: see `module.Prompt`.
      initializer: see `module.Prompt`; also of the task's own tokens.
    """

    length: int
    num_tasks: int
    mode: str = "add"
    task_length: int | None = None
    task_features: int | None = None
    place: str | tuple[int, ...] = "prefix"
    initializer: Callable = nn.initializers.uniform(0.5)

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
        module.check_length(self.length)
        own = self.task_length
        if self.mode == "concatenate" and not (isinstance(own, int) and 0 < own < self.length):
            raise ValueError(
                f"TASK_PROMPT_LENGTH is {own!r}; expected at least 1 and less than "
                f"PROMPT_LENGTH={self.length}, because the remaining tokens are shared. Set "
                "TASK_PROMPT_LENGTH to such a number."
            )
        own = self.task_features
        if self.mode == "concatenate_features" and not (isinstance(own, int) and own > 0):
            raise ValueError(
                f"TASK_PROMPT_FEATURES is {own!r}; expected at least 1 and less than EMBED_DIM. "
                "Set it to such a number."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, soft_ids: Int[Array, "B S"], x: Float[Array, "B S D"]
    ) -> Float[Array, "B S D"]:
        """Replaces x where soft_ids >= 0 by the rows they name."""
        table = getattr(self, f"_{self.mode}")(x.shape[-1])
        return module.fill(table.reshape(-1, x.shape[-1]), soft_ids, x)

    def _parameter(
        self, name: str, initializer: Callable, axes: tuple[str | None, ...], shape: tuple[int, ...]
    ) -> Array:
        return self.param(name, nn.with_logical_partitioning(initializer, axes), shape, jnp.float32)

    def _shared(self, length: int, width: int) -> Float[Array, "P D"]:
        axes = ("prompt", "prompt_embed")
        return self._parameter("prompt", self.initializer, axes, (length, width))

    def _of_tasks(self, initializer: Callable, length: int, width: int) -> Float[Array, "N P D"]:
        axes, shape = ("tasks", "prompt", "prompt_embed"), (self.num_tasks, length, width)
        return self._parameter("task_prompts", initializer, axes, shape)

    def _add(self, width: int) -> Float[Array, "N P D"]:
        own = self._of_tasks(nn.initializers.zeros, self.length, width)
        return self._shared(self.length, width) + own

    def _concatenate(self, width: int) -> Float[Array, "N P D"]:
        own = self._of_tasks(self.initializer, self.task_length, width)
        shared = self._shared(self.length - self.task_length, width)
        shared = jnp.broadcast_to(shared, (self.num_tasks, *shared.shape))
        return jnp.concatenate([shared, own], axis=1)

    def _concatenate_features(self, width: int) -> Float[Array, "N P D"]:
        if self.task_features >= width:
            raise ValueError(
                f"TASK_PROMPT_FEATURES is {self.task_features}; expected less than "
                f"EMBED_DIM={width}. Set it to such a number."
            )
        own = self._of_tasks(self.initializer, self.length, self.task_features)
        shared = self._shared(self.length, width - self.task_features)
        shared = jnp.broadcast_to(shared, (self.num_tasks, *shared.shape))
        return jnp.concatenate([shared, own], axis=2)

    def _project(self, width: int) -> Float[Array, "N P D"]:
        start, tasks = nn.initializers.zeros, self.num_tasks
        kernel = self._parameter(
            "task_kernels", start, ("tasks", "prompt_embed", None), (tasks, width, width)
        )
        bias = self._parameter("task_biases", start, ("tasks", "prompt_embed"), (tasks, width))
        shared = self._shared(self.length, width)
        moved = jnp.einsum("pd,nde->npe", shared, kernel) / width
        return shared + moved + bias[:, None]
