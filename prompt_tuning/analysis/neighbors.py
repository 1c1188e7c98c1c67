"""Which words each prompt vector is near (paper section 7)."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float

from prompt_tuning import annotations
from prompt_tuning.analysis import neighborhoods
from prompt_tuning.checkpoints import base_model, prompt_files
from prompt_tuning.data import vocabularies
from prompt_tuning.methods import initializers
from prompt_tuning.training import reporting


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A piece of the vocabulary and its cosine similarity to a prompt vector, or its distance."""

    piece: str
    similarity: float


def nearest(
    prompt: Float[np.ndarray, "P D"],
    embedding: Float[np.ndarray, "V D"],
    vocabulary: vocabularies.Vocabulary,
    count: int = 5,
    metric: str = "cosine",
) -> list[list[Neighbor]]:
    """The `count` pieces that are nearest to each prompt vector; see `neighborhoods.nearest_ids`."""
    rows = embedding[: vocabulary.size]
    order, near = neighborhoods.nearest_ids(prompt, rows, count, metric)
    return [
        [Neighbor(vocabulary.piece(i), float(x)) for i, x in zip(*both, strict=True)]
        for both in zip(order, near, strict=True)
    ]


def neighbors(
    *,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str,
    prompt_paths: Sequence[str],
    count: annotations.PositiveInt = 5,
    metric: str = "cosine",
    labels: Sequence[str] | None = None,
    output_dir: str | None = None,
    config_text: str = "",
) -> dict[str, list[list[Neighbor]]]:
    """`prompt-tuning neighbors`: prints the nearest pieces of each vector of the last prompt.

    Of several prompts, such as those of a run, or where there are labels, also a table of
    `neighborhoods.Neighborhood` figures, with random vectors of the same lengths beside them.

    Args:
      vocabulary: the model's.
      checkpoint: INITIAL_CHECKPOINT_PATH, of which the token embedding is read.
      prompt_paths: what PROMPT_FILE names, by step; of a .npz all that consists of vectors of the
        model's width is shown, each parameter under its path.
      count: NUM_NEIGHBORS.
      metric: NEIGHBOR_METRIC, "cosine" or "euclidean".
      labels: CLASS_LABELS, to be looked for among the neighbors.
      output_dir: OUTPUT_DIR for neighbors.json and neighbors.png; None writes nothing.
      config_text: the settings, written to config.gin.

    Returns:
      {path of the parameter, "" of a .npy: its vectors' neighbors, those of [N, P, D] one after the
      other}, of the last prompt.

    Raises:
      FileNotFoundError: no such file or checkpoint.
      ValueError: no prompt is named, or a file has no vectors of the model's width.
    """
    if not prompt_paths:
        raise ValueError(
            "PROMPT_FILE is empty; expected at least one prompt. Set PROMPT_FILE to a file."
        )
    embedding = base_model.read_embedding(checkpoint)
    vocabulary.check_fits(len(embedding))
    tables = [_tables(path, embedding.shape[1], checkpoint) for path in prompt_paths]
    found = {}
    for path, vectors in tables[-1].items():
        if path:
            print(f"{path} {vectors.shape}")
        rows = vectors.reshape(-1, vectors.shape[-1])
        found[path] = _print_nearest(rows, embedding, vocabulary, count, metric)
    if len(tables) == 1 and not labels and output_dir is None:
        return found
    pieces = {label: vocabulary.encode(label) for label in labels or ()}
    rows = embedding[: vocabulary.size]
    width = embedding.shape[1]
    joined = [np.concatenate([x.reshape(-1, width) for x in of.values()]) for of in tables]
    figures = {
        name: neighborhoods.neighborhood(vectors, rows, count, pieces, start)
        for name, vectors, start in [
            *(
                (epath.Path(p).stem, x, joined[0])
                for p, x in zip(prompt_paths, joined, strict=True)
            ),
            ("random vectors", neighborhoods.random_like(joined[-1]), None),
        ]
    }
    print(f"\n{reporting.table(_figures(figures))}")
    if output_dir is not None:
        reporting.start_folder(output_dir, config_text, "OUTPUT_DIR")
        told = {
            "neighbors": {
                path: [[dataclasses.asdict(near) for near in row] for row in of]
                for path, of in found.items()
            },
            "figures": {name: dataclasses.asdict(each) for name, each in figures.items()},
        }
        folder = epath.Path(output_dir)
        reporting.write_text(folder / "neighbors.json", json.dumps(told, indent=2) + "\n")
        ends = {"first prompt": joined[0], "last prompt": joined[-1]}
        words = {label: ids[0] for label, ids in pieces.items() if len(ids) == 1}
        neighborhoods.plot(ends, rows, words, folder / "neighbors.png")
    return found


def _tables(path: str, width: int, checkpoint: str) -> dict[str, Float[np.ndarray, "... D"]]:
    """All vectors of a file that are as wide as the model, by parameter."""
    start = prompt_files.initializer(path)
    several = isinstance(start, initializers.FromLeaves)
    leaves = start.leaves if several else {"": start.array}
    found = {
        name: leaf for name, leaf in leaves.items() if leaf.ndim > 1 and leaf.shape[-1] == width
    }
    if not found:
        held = ", ".join(f"{name} {leaf.shape}".lstrip() for name, leaf in leaves.items())
        raise ValueError(
            f"PROMPT_FILE {path} holds {held}; expected vectors of width {width}, as in "
            f"INITIAL_CHECKPOINT_PATH {checkpoint}. Set INITIAL_CHECKPOINT_PATH to the prompt's "
            "base model. IA3, prefixes and MULTI_TASK_MODE='concatenate_features' have no nearest "
            "tokens."
        )
    return found


def _print_nearest(
    vectors: Float[np.ndarray, "P D"],
    embedding: Float[np.ndarray, "V D"],
    vocabulary: vocabularies.Vocabulary,
    count: int,
    metric: str,
) -> list[list[Neighbor]]:
    found = nearest(vectors, embedding, vocabulary, count, metric)
    for row, some in enumerate(found):
        shown = "  ".join(f"{n.piece} {n.similarity:.2f}" for n in some)
        print(f"{row:4}  norm {np.linalg.norm(vectors[row]):8.2f}  {shown}")
    return found


def _figures(figures: Mapping[str, neighborhoods.Neighborhood]) -> list[list[str]]:
    labels = list(next(iter(figures.values())).labels)
    head = ["prompt", "norm", "moved", "nearest", "clusters", "shared", *labels]
    rows = [
        [
            name,
            f"{each.norm:.1f}",
            "" if np.isnan(each.moved) else f"{each.moved:.1f}",
            f"{each.nearest:.3f}",
            f"{each.clusters:.3f}",
            str(each.shared),
            *(str(each.labels[label]) for label in labels),
        ]
        for name, each in figures.items()
    ]
    return [head, *rows]
