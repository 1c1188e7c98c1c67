"""Which words each prompt vector is near (paper section 7)."""

import dataclasses

import numpy as np
from jaxtyping import Float

from prompt_tuning.checkpoints import base_model, prompt_files
from prompt_tuning.data import vocabularies
from prompt_tuning.prompts import initializers


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A piece of the vocabulary and its cosine similarity to a prompt vector."""

    piece: str
    similarity: float


def nearest(
    prompt: Float[np.ndarray, "P D"],
    embedding: Float[np.ndarray, "V D"],
    vocabulary: vocabularies.Vocabulary,
    count: int = 5,
) -> list[list[Neighbor]]:
    """The `count` pieces with the highest cosine similarity to each prompt vector."""
    rows = embedding[: vocabulary.size]
    similarity = _unit(prompt) @ _unit(rows).T
    order = np.argsort(-similarity, axis=1)[:, :count]
    return [
        [Neighbor(vocabulary.piece(i), float(similarity[row, i])) for i in ids]
        for row, ids in enumerate(order)
    ]


def _unit(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def neighbors(
    *,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str,
    prompt_file: str,
    count: int = 5,
    config_text: str = "",
) -> dict[str, list[list[Neighbor]]]:
    """`prompt-tuning neighbors`: prints a line for each vector of a file, its nearest pieces first.

    Args:
      vocabulary: the model's.
      checkpoint: INITIAL_CHECKPOINT_PATH, of which the token embedding is read.
      prompt_file: PROMPT_FILE; of a .npz all that consists of vectors of the model's width is shown,
        each parameter under its path.
      count: NUM_NEIGHBORS.
      config_text: not needed.

    Returns:
      {path of the parameter, "" of a .npy: its vectors' neighbors, those of [N, P, D] one after the
      other}.

    Raises:
      FileNotFoundError: no such file or checkpoint.
      ValueError: the file has no vectors of the model's width.
    """
    del config_text  # nothing is written
    start = prompt_files.initializer(prompt_file)
    several = isinstance(start, initializers.FromLeaves)
    leaves = start.leaves if several else {"": start.array}
    embedding = base_model.read_embedding(checkpoint)
    vocabulary.check_fits(len(embedding))
    width, found = embedding.shape[1], {}
    for path, leaf in leaves.items():
        if leaf.ndim < 2 or leaf.shape[-1] != width:
            continue
        if several:
            print(f"{path} {leaf.shape}")
        found[path] = _print_nearest(leaf.reshape(-1, width), embedding, vocabulary, count)
    if not found:
        held = ", ".join(f"{path} {leaf.shape}".lstrip() for path, leaf in leaves.items())
        raise ValueError(
            f"PROMPT_FILE {prompt_file} holds {held}; expected vectors of {width} numbers, as "
            f"INITIAL_CHECKPOINT_PATH {checkpoint} has: set the model that it was trained with. Of "
            "IA3 and of MULTI_TASK_MODE 'concatenate_features' there are no neighbors"
        )
    return found


def _print_nearest(
    vectors: Float[np.ndarray, "P D"],
    embedding: Float[np.ndarray, "V D"],
    vocabulary: vocabularies.Vocabulary,
    count: int,
) -> list[list[Neighbor]]:
    found = nearest(vectors, embedding, vocabulary, count)
    for row, some in enumerate(found):
        shown = "  ".join(f"{n.piece} {n.similarity:.2f}" for n in some)
        print(f"{row:4}  norm {np.linalg.norm(vectors[row]):8.2f}  {shown}")
    return found
