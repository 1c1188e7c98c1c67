"""The nearest vocabulary tokens of each prompt vector (paper section 7)."""

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
    """A token of the vocabulary and its cosine similarity to a prompt vector, or its distance."""

    token: str
    similarity: float


Table = list[list[Neighbor]]  # [vectors][neighbors]


def nearest(
    prompt: Float[np.ndarray, "P D"],
    embedding: Float[np.ndarray, "V D"],
    vocabulary: vocabularies.Vocabulary,
    count: int = 5,
    metric: str = "cosine",
) -> Table:
    """Returns the `count` nearest tokens of each vector; see `neighborhoods.nearest_ids`."""
    rows = embedding[: vocabulary.size]
    ids, similarities = neighborhoods.nearest_ids(prompt, rows, count, metric)
    return [
        [Neighbor(vocabulary.piece(i), float(x)) for i, x in zip(*pair, strict=True)]
        for pair in zip(ids, similarities, strict=True)
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
) -> dict[str, Table]:
    """`prompt-tuning neighbors`: prints the nearest tokens of each vector of the last prompt.

    With several prompts, labels or an output folder it also prints `neighborhoods.Neighborhood` of
    each prompt and of random vectors, and writes config.gin, neighbors.json and neighbors.png.

    Args:
      vocabulary: of the model.
      checkpoint: INITIAL_CHECKPOINT_PATH, which has the token embedding.
      prompt_paths: files that PROMPT_FILE names, in the order of steps.
      count: NUM_NEIGHBORS.
      metric: NEIGHBOR_METRIC, "cosine" or "euclidean".
      labels: CLASS_LABELS, to search for among the neighbors.
      output_dir: OUTPUT_DIR; None to write nothing.
      config_text: the settings, written to config.gin.

    Returns:
      {path of a parameter, "" for a .npy file: neighbors of its vectors}, of the last prompt.

    Raises:
      FileNotFoundError: a file or the checkpoint does not exist.
      ValueError: there is no prompt, or a file has no vectors of the model's width.
    """
    if not prompt_paths:
        raise ValueError(
            "PROMPT_FILE is empty; expected at least one prompt. Set PROMPT_FILE to a file."
        )
    embedding = base_model.read_embedding(checkpoint)
    vocabulary.check_fits(len(embedding))
    prompts = [_read_vectors(path, embedding.shape[1], checkpoint) for path in prompt_paths]
    tables = {}
    for name, vectors in prompts[-1].items():
        if name:
            print(f"{name} {vectors.shape}")
        tables[name] = nearest(_rows(vectors), embedding, vocabulary, count, metric)
        _print_nearest(_rows(vectors), tables[name])
    if len(prompts) == 1 and not labels and output_dir is None:
        return tables
    embedding = embedding[: vocabulary.size]
    token_ids = {label: vocabulary.encode(label) for label in labels or ()}
    joined = [np.concatenate([_rows(x) for x in prompt.values()]) for prompt in prompts]
    names = [epath.Path(path).stem for path in prompt_paths]
    statistics = _compare(names, joined, embedding, count, token_ids)
    if output_dir is not None:
        reporting.start_folder(output_dir, config_text, "OUTPUT_DIR")
        _write(epath.Path(output_dir) / "neighbors.json", tables, statistics)
        _plot(epath.Path(output_dir) / "neighbors.png", joined, embedding, token_ids)
    return tables


def _read_vectors(path: str, width: int, checkpoint: str) -> dict[str, Float[np.ndarray, "... D"]]:
    """Returns the parameters of a prompt file that have the model's width, by path."""
    initializer = prompt_files.initializer(path)
    is_single = not isinstance(initializer, initializers.FromLeaves)
    leaves = {"": initializer.array} if is_single else initializer.leaves
    vectors = {
        name: leaf for name, leaf in leaves.items() if leaf.ndim > 1 and leaf.shape[-1] == width
    }
    if not vectors:
        shapes = ", ".join(f"{name} {leaf.shape}".lstrip() for name, leaf in leaves.items())
        raise ValueError(
            f"PROMPT_FILE {path} holds {shapes}; expected vectors of width {width}, as in "
            f"INITIAL_CHECKPOINT_PATH {checkpoint}. Set INITIAL_CHECKPOINT_PATH to the prompt's "
            "base model. IA3, prefixes and MULTI_TASK_MODE='concatenate_features' have no nearest "
            "tokens."
        )
    return vectors


def _rows(vectors: Float[np.ndarray, "... D"]) -> Float[np.ndarray, "n D"]:
    return vectors.reshape(-1, vectors.shape[-1])


def _print_nearest(vectors: Float[np.ndarray, "P D"], table: Table) -> None:
    for index, neighbors in enumerate(table):
        tokens = "  ".join(f"{n.token} {n.similarity:.2f}" for n in neighbors)
        print(f"{index:4}  norm {np.linalg.norm(vectors[index]):8.2f}  {tokens}")


def _compare(
    names: Sequence[str],
    prompts: Sequence[Float[np.ndarray, "P D"]],
    embedding: Float[np.ndarray, "V D"],
    count: int,
    labels: Mapping[str, Sequence[int]],
) -> dict[str, neighborhoods.Neighborhood]:
    """Returns and prints the statistics of prompts, and of random vectors like the last prompt."""
    statistics = {
        name: neighborhoods.neighborhood(prompt, embedding, count, labels, prompts[0])
        for name, prompt in zip(names, prompts, strict=True)
    }
    random = neighborhoods.random_like(prompts[-1])
    statistics["random vectors"] = neighborhoods.neighborhood(random, embedding, count, labels)
    rows = [["prompt", "norm", "drift", "nearest", "clusters", "shared", *labels]]
    for name, x in statistics.items():
        drift = "" if np.isnan(x.drift) else f"{x.drift:.1f}"
        cells = [f"{x.norm:.1f}", drift, f"{x.nearest:.3f}", f"{x.clusters:.3f}", str(x.shared)]
        rows.append([name, *cells, *(str(x.labels[label]) for label in labels)])
    print(f"\n{reporting.table(rows)}")
    return statistics


def _write(
    path: epath.Path,
    tables: Mapping[str, Table],
    statistics: Mapping[str, neighborhoods.Neighborhood],
) -> None:
    content = {
        "neighbors": {
            name: [[dataclasses.asdict(neighbor) for neighbor in row] for row in table]
            for name, table in tables.items()
        },
        "figures": {name: dataclasses.asdict(x) for name, x in statistics.items()},
    }
    reporting.write_text(path, json.dumps(content, indent=2) + "\n")


def _plot(
    path: epath.Path,
    prompts: Sequence[Float[np.ndarray, "P D"]],
    embedding: Float[np.ndarray, "V D"],
    labels: Mapping[str, Sequence[int]],
) -> None:
    ends = {"first prompt": prompts[0], "last prompt": prompts[-1]}
    markers = {label: ids[0] for label, ids in labels.items() if len(ids) == 1}
    neighborhoods.plot(ends, embedding, markers, path)
