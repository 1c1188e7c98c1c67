"""Statistics of the nearest vocabulary tokens of a prompt (paper section 7), and a plot."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from prompt_tuning.analysis import figures


@dataclasses.dataclass(frozen=True)
class Neighborhood:
    """Statistics of a prompt and the token embedding; similarities are cosines.

    Attributes:
      norm: mean norm of the prompt's vectors.
      nearest: mean similarity to the nearest token.
      clusters: mean similarity among the neighbors of a vector.
      shared: vectors whose nearest token is the nearest token of another vector too.
      labels: {label: vectors with a token of the label among their neighbors}.
      drift: mean distance from the initial vectors; nan if those are unknown.
    """

    norm: float
    nearest: float
    clusters: float
    shared: int
    labels: Mapping[str, int]
    drift: float


def unit(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Scales each row to norm 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def nearest_ids(
    prompt: Float[np.ndarray, "P D"],
    embedding: Float[np.ndarray, "V D"],
    count: int,
    metric: str = "cosine",
) -> tuple[Int[np.ndarray, "P K"], Float[np.ndarray, "P K"]]:
    """Returns the `count` nearest rows of each vector, nearest first, and their similarities.

    With metric "euclidean" these are distances.

    Raises:
      ValueError: unknown metric.
    """
    if metric == "cosine":
        values = unit(prompt) @ unit(embedding).T
        order = np.argsort(-values, axis=1)[:, :count]
    elif metric == "euclidean":
        squares = np.sum(prompt**2, 1)[:, None] + np.sum(embedding**2, 1) - 2 * prompt @ embedding.T
        values = np.sqrt(np.maximum(squares, 0))
        order = np.argsort(values, axis=1)[:, :count]
    else:
        raise ValueError(
            f"NEIGHBOR_METRIC is {metric!r}; expected 'cosine' or 'euclidean'. Set NEIGHBOR_METRIC "
            "to one of them."
        )
    return order, np.take_along_axis(values, order, axis=1)


def neighborhood(
    prompt: Float[np.ndarray, "P D"],
    embedding: Float[np.ndarray, "V D"],
    count: int,
    labels: Mapping[str, Sequence[int]],
    initial: Float[np.ndarray, "P D"] | None = None,
) -> Neighborhood:
    """Computes the statistics of `count` neighbors per vector; `labels` are {label: token ids}."""
    ids, similarities = nearest_ids(prompt, embedding, count)
    vectors = unit(embedding)[ids]
    between = np.einsum("pkd,pld->pkl", vectors, vectors)
    pairs = ~np.eye(ids.shape[1], dtype=bool)
    _, times = np.unique(ids[:, 0], return_counts=True)
    distances = np.nan if initial is None else np.linalg.norm(prompt - initial, axis=1)
    return Neighborhood(
        norm=float(np.linalg.norm(prompt, axis=1).mean()),
        nearest=float(similarities[:, 0].mean()),
        clusters=float(between[:, pairs].mean()) if count > 1 else float("nan"),
        shared=int(times[times > 1].sum()),
        labels={
            label: int(np.isin(ids, list(tokens)).any(axis=1).sum())
            for label, tokens in labels.items()
        },
        drift=float(np.mean(distances)),
    )


def random_like(prompt: Float[np.ndarray, "P D"], seed: int = 0) -> Float[np.ndarray, "P D"]:
    """Returns vectors of random directions with the same norms, for comparison."""
    draw = np.random.default_rng(seed).normal(size=prompt.shape)
    return (unit(draw) * np.linalg.norm(prompt, axis=1, keepdims=True)).astype(np.float32)


def plot(
    prompts: Mapping[str, Float[np.ndarray, "P D"]],
    embedding: Float[np.ndarray, "V D"],
    labels: Mapping[str, int],
    path: epath.PathLike,
) -> None:
    """Plots directions of prompts and labels on the first two components (PCA) of the last prompt.

    Args:
      prompts: {name: vectors}, such as before and after training.
      embedding: of the vocabulary; a sample of its rows is the background.
      labels: {label: its row}.
      path: of the .png file.
    """
    last = unit(list(prompts.values())[-1])
    center = last.mean(axis=0)
    _, _, components = np.linalg.svd(last - center, full_matrices=False)

    def project(x):
        return ((unit(np.atleast_2d(x)) - center) @ components[:2].T).T

    with figures.figure(path, "first component", "second component") as axes:
        sample = project(embedding[:: max(1, len(embedding) // 1000)])
        axes.scatter(*sample, s=8, color="#BBBBBB", label="vocabulary")
        for number, (name, prompt) in enumerate(prompts.items()):
            style = figures.style(number)
            axes.scatter(
                *project(prompt), s=50, color=style["color"], marker=style["marker"], label=name
            )
        # Hollow markers, because vectors initialized from a label are at the same point.
        for number, (label, row) in enumerate(labels.items(), start=len(prompts)):
            axes.scatter(
                *project(embedding[row]), s=170, color="none", edgecolor="black", linewidth=2, zorder=3,
                marker=figures.style(number)["marker"], label=f'"{label}"',
            )  # fmt: skip
        figures.legend(axes)
