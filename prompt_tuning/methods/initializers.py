"""How a prompt starts (paper section 3.2): each is a frozen dataclass that makes [P, D].

All see the embedding of the loaded model, so none reads the checkpoint a second time.
FromLeaves is apart: it gives all that methods add to a model, not only a prompt.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prompt_tuning import annotations, params

Encode = Callable[[str], Sequence[int]]
POPULATION = 5000


@runtime_checkable
class Initializer(Protocol):
    """(rng, P, token embedding [V, D], text -> ids) -> [P, D] float32."""

    def __call__(
        self, rng: Array, length: int, embedding: Float[Array, "V D"], encode: Encode
    ) -> Float[Array, "P D"]: ...


@dataclasses.dataclass(frozen=True)
class RandomUniform:
    """Random numbers; far from the embeddings, and slow to learn.

    Attributes:
      scale: the largest.
      signed: U[−scale, scale], as the paper says; else U[0, scale], as its authors' code has it.
    """

    scale: annotations.NonNegativeFloat = 0.5
    signed: bool = True

    def __call__(self, rng, length, embedding, encode):
        """See Initializer."""
        shape = (length, embedding.shape[1])
        least = -self.scale if self.signed else 0.0
        return jax.random.uniform(rng, shape, jnp.float32, least, self.scale)


@dataclasses.dataclass(frozen=True)
class SampledVocabulary:
    """Rows drawn from the first `population` of the embedding, the most common tokens.

    Without replacement as long as there are enough.
    """

    population: annotations.PositiveInt = POPULATION

    def __post_init__(self):
        if self.population < 1:
            raise ValueError(
                f"population is {self.population}; expected at least 1. Set population to the "
                "number of tokens to sample from."
            )

    def __call__(self, rng, length, embedding, encode):
        """See Initializer."""
        rows = min(self.population, embedding.shape[0])
        ids = jax.random.choice(rng, rows, (length,), replace=length > rows)
        return jnp.take(embedding, ids, axis=0).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class ClassLabels:
    """Row i is the mean embedding of the pieces of label i; the other rows are sampled.

    Attributes:
      labels: CLASS_LABELS, what the model shall answer; None makes this SampledVocabulary.
      population: see SampledVocabulary.
    """

    labels: Sequence[str] | None = None
    population: annotations.PositiveInt = POPULATION

    def __post_init__(self):
        if self.labels is not None and not len(self.labels):
            raise ValueError(
                f"CLASS_LABELS is {self.labels!r}; expected one label or more, or None. Set "
                "CLASS_LABELS to the labels, or set CLASS_LABELS to None to sample all rows from the vocabulary"
            )

    def __call__(self, rng, length, embedding, encode):
        """See Initializer."""
        labels = self.labels or ()
        if isinstance(labels, str) or not all(isinstance(each, str) for each in labels):
            raise ValueError(
                f"CLASS_LABELS is {labels!r}; expected a list of strings. Set CLASS_LABELS to "
                "one, such as ['no', 'yes']."
            )
        if len(labels) > length:
            raise ValueError(
                f"CLASS_LABELS has {len(labels)} labels, but the prompt has only {length} "
                "tokens; expected at most one label per token. Set PROMPT_LENGTH to at least "
                f"{len(labels)}."
            )
        prompt = SampledVocabulary(self.population)(rng, length, embedding, encode)
        labels_of: dict[tuple[int, ...], str] = {}
        for row, label in enumerate(labels):
            ids = tuple(encode(label))
            if labels_of.setdefault(ids, label) != label:
                raise ValueError(
                    f"CLASS_LABELS has {labels_of[ids]!r} and {label!r}, which have the same "
                    "tokens in the vocabulary; expected labels with different tokens. Use other "
                    "words."
                )
            pieces = jnp.asarray(ids, jnp.int32)
            if not pieces.size:
                raise ValueError(
                    f"label {label!r} of CLASS_LABELS has no tokens in the vocabulary; expected at "
                    "least one. Use another word."
                )
            mean = jnp.mean(jnp.take(embedding, pieces, axis=0).astype(jnp.float32), axis=0)
            prompt = prompt.at[row].set(mean)
        return prompt


@dataclasses.dataclass(frozen=True)
class String:
    """Row i is the embedding of token i of a text; the rows behind it are sampled.

    Attributes:
      text: whose pieces these are.
      population: see SampledVocabulary.
      setting: that has the text, for messages.
    """

    text: str
    population: annotations.PositiveInt = POPULATION
    setting: str = "PROMPT_TEXT"

    def __call__(self, rng, length, embedding, encode):
        """See Initializer."""
        pieces = jnp.asarray(encode(self.text), jnp.int32)
        if pieces.size > length:
            raise ValueError(
                f"{self.setting} has {pieces.size} tokens, but the prompt has only {length}; "
                f"expected at most {length}. Set PROMPT_LENGTH to at least {pieces.size}, or a "
                "shorter text."
            )
        prompt = SampledVocabulary(self.population)(rng, length, embedding, encode)
        rows = jnp.take(embedding, pieces, axis=0).astype(jnp.float32)
        return prompt.at[: pieces.size].set(rows)


@dataclasses.dataclass(frozen=True)
class OfTable:
    """Another initializer that sees a table of its own, not the embedding of the loaded model.

    Attributes:
      table: such as one read from EMBEDDING_FILE.
      initializer: what makes the prompt from it.
    """

    table: Float[Array, "V D"]
    initializer: Initializer

    def __call__(self, rng, length, embedding, encode):
        """See Initializer."""
        if tuple(self.table.shape) != tuple(embedding.shape):
            raise ValueError(
                f"the table of EMBEDDING_FILE has shape {tuple(self.table.shape)}; expected "
                f"{tuple(embedding.shape)}, as the model's embedding. Set EMBEDDING_FILE to that "
                "of the same model."
            )
        return self.initializer(rng, length, jnp.asarray(self.table), encode)


@dataclasses.dataclass(frozen=True)
class FromArray:
    """A prompt that is there already, such as one read from PROMPT_FILE.

    Attributes:
      array: the prompt.
      base_model_digest: of the model that it was trained with, where that is known.
      setting: that names where it is from, for messages.
    """

    array: Float[Array | np.ndarray, "P D"]
    base_model_digest: str | None = None
    setting: str = "PROMPT_FILE"

    def __call__(self, rng, length, embedding, encode):
        """See Initializer."""
        wanted = (length, embedding.shape[1])
        if tuple(self.array.shape) != wanted:
            raise ValueError(
                f"{self.setting} has shape {tuple(self.array.shape)}; expected {wanted}, as in the "
                "model. Set PROMPT_LENGTH, or the prompt's base model."
            )
        return jnp.asarray(self.array, jnp.float32)


@dataclasses.dataclass(frozen=True)
class FromLeaves:
    """All that methods add to a model, such as read from PROMPT_FILE. Not an Initializer: see `fit`.

    Attributes:
      leaves: {path of the parameter: array}.
      base_model_digest: of the model that they were trained with, where that is known.
    """

    leaves: Mapping[str, Array]
    base_model_digest: str | None = None

    def fit(self, added: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
        """The leaves, float32. Raises ValueError where they are not those that the model has."""
        if lines := params.mismatches(dict(self.leaves), dict(added)):
            raise ValueError(
                "PROMPT_FILE does not match the model's adapter parameters:\n  "
                + "\n  ".join(lines) + "\n"
                "Set the gin file of the method that it was trained with (prompts/…), its PROMPT_LENGTH and "
                "its base model."
            )  # fmt: skip
        return {path: jnp.asarray(leaf, jnp.float32) for path, leaf in self.leaves.items()}
