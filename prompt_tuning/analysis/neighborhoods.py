"""What the neighbors of a prompt say as a whole (paper section 7), and a picture of where it lies."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from prompt_tuning.analysis import figures


@dataclasses.dataclass(frozen=True)
class Neighborhood:
    """Figures of a prompt against the token embedding; similarities are cosines.

    Attributes:
      norm: mean length of its vectors.
      nearest: mean similarity to the nearest piece.
      clusters: mean similarity between the neighbors of one vector: high where they are of a kind.
      shared: vectors whose nearest piece is that of another vector too.
      labels: {label: vectors that have one of its pieces among their neighbors}.
      moved: mean distance from where the vectors started, nan where that is not known.
    """

    norm: float
    nearest: float
    clusters: float
    shared: int
    labels: Mapping[str, int]
    moved: float


def unit(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def nearest_ids(
    prompt: Float[np.ndarray, "P D"],
    embedding: Float[np.ndarray, "V D"],
    count: int,
    metric: str = "cosine",
) -> tuple[Int[np.ndarray, "P K"], Float[np.ndarray, "P K"]]:
    """The `count` nearest rows of each vector, nearest first, and how near.

    That is the cosine, or with metric "euclidean" the distance.

    Raises:
      ValueError: another metric.
    """
    if metric == "cosine":
        near = unit(prompt) @ unit(embedding).T
        order = np.argsort(-near, axis=1)[:, :count]
    elif metric == "euclidean":
        squares = np.sum(prompt**2, 1)[:, None] + np.sum(embedding**2, 1) - 2 * prompt @ embedding.T
        near = np.sqrt(np.maximum(squares, 0))
        order = np.argsort(near, axis=1)[:, :count]
    else:
        raise ValueError(
            f"NEIGHBOR_METRIC is {metric!r}; expected 'cosine' or 'euclidean'. Set NEIGHBOR_METRIC "
            "to one of them."
        )
    return order, np.take_along_axis(near, order, axis=1)


def neighborhood(
    prompt: Float[np.ndarray, "P D"],
    embedding: Float[np.ndarray, "V D"],
    count: int,
    labels: Mapping[str, Sequence[int]],
    start: Float[np.ndarray, "P D"] | None = None,
) -> Neighborhood:
    """Looks at `count` neighbors of each vector; `labels` are {label: ids of its pieces}."""
    ids, near = nearest_ids(prompt, embedding, count)
    vectors = unit(embedding)[ids]
    between = np.einsum("pkd,pld->pkl", vectors, vectors)
    pairs = ~np.eye(ids.shape[1], dtype=bool)
    _, times = np.unique(ids[:, 0], return_counts=True)
    return Neighborhood(
        norm=float(np.linalg.norm(prompt, axis=1).mean()),
        nearest=float(near[:, 0].mean()),
        clusters=float(between[:, pairs].mean()) if count > 1 else float("nan"),
        shared=int(times[times > 1].sum()),
        labels={
            label: int(np.isin(ids, list(pieces)).any(axis=1).sum())
            for label, pieces in labels.items()
        },
        moved=float("nan")
        if start is None
        else float(np.linalg.norm(prompt - start, axis=1).mean()),
    )


def random_like(prompt: Float[np.ndarray, "P D"], seed: int = 0) -> Float[np.ndarray, "P D"]:
    """Vectors of random directions and the same lengths, for comparison."""
    draw = np.random.default_rng(seed).normal(size=prompt.shape)
    return (unit(draw) * np.linalg.norm(prompt, axis=1, keepdims=True)).astype(np.float32)


def plot(
    prompts: Mapping[str, Float[np.ndarray, "P D"]],
    embedding: Float[np.ndarray, "V D"],
    words: Mapping[str, int],
    path: epath.PathLike,
) -> None:
    """Directions of prompts and words in the plane in which the last prompt's vary most (PCA).

    Args:
      prompts: {name: vectors}, such as before and after training.
      embedding: of tokens.
      words: {word: row}, each with a mark of its own.
      path: of the .png file.
    """
    last = unit(list(prompts.values())[-1])
    center = last.mean(axis=0)
    _, _, axes_of_variation = np.linalg.svd(last - center, full_matrices=False)
    plane = axes_of_variation[:2].T

    def place(x):
        return (unit(np.atleast_2d(x)) - center) @ plane

    with figures.figure(path, "first component", "second component") as axes:
        some = place(embedding[:: max(1, len(embedding) // 1000)])
        axes.scatter(*some.T, s=8, color="#BBBBBB", label="vocabulary")
        for number, (name, prompt) in enumerate(prompts.items()):
            look = figures.style(number)
            axes.scatter(
                *place(prompt).T, s=50, color=look["color"], marker=look["marker"], label=name
            )
        # In the legend, as labels are near each other: text beside them would cover points. Hollow, as
        # vectors that started from a label stand on it.
        for number, (word, row) in enumerate(words.items(), start=len(prompts)):
            axes.scatter(
                *place(embedding[row]).T, s=170, color="none", edgecolor="black", linewidth=2, zorder=3,
                marker=figures.style(number)["marker"], label=f'"{word}"',
            )  # fmt: skip
        figures.legend(axes)
