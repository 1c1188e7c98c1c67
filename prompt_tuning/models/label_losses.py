"""Losses over a set of labels, each scored as a whole, in place of the loss of tokens."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prompt_tuning.models import losses

KINDS = ("perceptron", "cross_entropy")


@dataclasses.dataclass(frozen=True)
class LabelLoss:
    """Of the scores s of all labels, log-likelihoods, with g the right one:

      perceptron: max(0, hinge + max over the wrong labels of s − s_g);
      cross_entropy: −log softmax(s)_g.

    Attributes:
      labels: ids of each label, its end token with them.
      kind: one of `KINDS`.
      hinge: the margin of the perceptron.
      length_normalize: a score is the mean over a label's tokens, not the sum.
    """

    labels: Sequence[Sequence[int]]
    kind: str = "perceptron"
    hinge: float = 0.2
    length_normalize: bool = True

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"LABEL_LOSS_KIND is {self.kind!r}; expected one of {', '.join(KINDS)}. Set "
                "LABEL_LOSS_KIND to one of them."
            )
        if self.hinge < 0:
            raise ValueError(
                f"HINGE is {self.hinge}; expected a number of at least 0. Set HINGE to one, such "
                "as 1.0."
            )
        labels = tuple(tuple(int(i) for i in label if i > 0) for label in self.labels)
        if len(set(labels)) != len(labels) or len(labels) < 2:
            raise ValueError(
                f"LABELS have the ids {labels}; expected two or more labels with different ids. "
                "Add labels, or remove duplicates."
            )
        object.__setattr__(self, "labels", labels)

    def padded(self, length: int = 0) -> Int[Array, "N L"]:
        """The labels filled up with 0, to `length` at least."""
        length = max(length, *map(len, self.labels))
        return jnp.asarray([[*label, *[0] * (length - len(label))] for label in self.labels])

    def __call__(
        self, logits: Float[Array, "B N L V"], targets: Int[Array, "B T"]
    ) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
        """The loss of each row, whether its best label is right, and whether it has a target.

        A row without target costs 0. NaN where a target is none of the labels.
        """
        labels = jnp.broadcast_to(self.padded(), logits.shape[:3])
        losses_BNL, _ = losses.cross_entropy(logits, labels)
        real = labels > 0
        scores_BN = -jnp.sum(jnp.where(real, losses_BNL, 0.0), axis=-1)
        if self.length_normalize:
            scores_BN = scores_BN / jnp.sum(real, axis=-1).astype(jnp.float32)
        length = max(targets.shape[1], logits.shape[2])
        targets = jnp.pad(targets, ((0, 0), (0, length - targets.shape[1])))
        gold_BN = jnp.all(targets[:, None] == self.padded(length), axis=-1)
        right_B = jnp.sum(jnp.where(gold_BN, scores_BN, 0.0), axis=-1)
        if self.kind == "perceptron":
            wrong_B = jnp.max(jnp.where(gold_BN, -jnp.inf, scores_BN), axis=-1)
            loss_B = jnp.maximum(0.0, self.hinge + wrong_B - right_B)
        else:
            loss_B = jax.nn.logsumexp(scores_BN, axis=-1) - right_B
        has_B = jnp.any(targets > 0, axis=-1)
        loss_B = jnp.where(jnp.any(gold_BN, axis=-1), loss_B, jnp.nan)
        best = jnp.argmax(scores_BN, axis=-1)
        correct_B = jnp.take_along_axis(gold_BN, best[:, None], axis=-1)[:, 0] & has_B
        return (
            jnp.where(has_B, loss_B, 0.0),
            correct_B.astype(jnp.float32),
            has_B.astype(jnp.float32),
        )
