"""Which words each prompt vector is near (paper section 7)."""

import dataclasses

import numpy as np
from jaxtyping import Float

from prompt_tuning import params
from prompt_tuning.data import vocabularies
from prompt_tuning.models import model as model_lib
from prompt_tuning.runtime import state


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
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    checkpoint: str,
    prompt_initializer: state.Start,
    count: int = 5,
    config_text: str = "",
) -> list[list[Neighbor]]:
    """`prompt-tuning neighbors`: prints a line for each prompt vector, its nearest pieces first."""
    del config_text  # nothing is written
    if model.PROMPT_PATH not in model.added:
        raise ValueError("the model has no prompt: PROMPT is None, as prompts/ia3.gin sets it")
    loaded = state.load_model(
        model, vocabulary, checkpoint=checkpoint, prompt_initializer=prompt_initializer
    )
    flat = params.flatten(loaded.params)
    embedding = np.asarray(flat[model.EMBEDDING_PATH], np.float32)
    prompt = np.asarray(flat[model.PROMPT_PATH], np.float32)
    found = nearest(prompt, embedding, vocabulary, count)
    for row, some in enumerate(found):
        shown = "  ".join(f"{n.piece} {n.similarity:.2f}" for n in some)
        print(f"{row:4}  norm {np.linalg.norm(prompt[row]):8.2f}  {shown}")
    return found
