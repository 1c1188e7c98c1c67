"""A prompt of one model made over into one of another (Lester et al., 2022, "Recycling").

Both models embed the same pieces. What takes the source's vectors of pieces to the target's
is taken to do as much for the vectors of a prompt.
"""

from collections.abc import Callable, Mapping

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from prompt_tuning import annotations
from prompt_tuning.checkpoints import base_model, prompt_files
from prompt_tuning.data import vocabularies

Table = Float[np.ndarray, "n D"]
# Pieces without a text of their own: padding, end, unknown.
SPECIAL = 3


def nearest(prompt: Float[np.ndarray, "P D"], source: Table, target: Table) -> np.ndarray:
    """Each vector becomes the target's of the piece that it is nearest to, by cosine.

    It stays as many times longer than the piece's vector as it was.

    Args:
      prompt: of the source.
      source: rows of its embedding.
      target: rows of the target's embedding, of the same pieces in the same order.

    Returns:
      [P, E], E the target's width.
    """
    lengths = np.linalg.norm(source, axis=1)
    similarity = prompt @ (source / np.maximum(lengths, 1e-12)[:, None]).T
    best = similarity.argmax(axis=1)
    ratio = np.linalg.norm(prompt, axis=1) / np.maximum(lengths[best], 1e-12)
    return ratio[:, None] * target[best]


def linear(prompt: Float[np.ndarray, "P D"], source: Table, target: Table) -> np.ndarray:
    """Applies the matrix that takes the source's pieces to the target's, by least squares.

    The paper's linear combination of pieces is the same: the prompt as the smallest combination
    of the source's pieces, and that combination of the target's, are `prompt @ pinv(source) @ target`.
    Arguments and result as of `nearest`.

    Raises:
      ValueError: there are fewer pieces than the source's width.
    """
    if len(source) < source.shape[1]:
        raise ValueError(
            f"{len(source)} common tokens do not determine a linear map of vectors of width "
            f"{source.shape[1]}; expected at least {source.shape[1]}. Increase NUM_WORDS, or set "
            "RECYCLER='nearest'."
        )
    matrix, *_ = np.linalg.lstsq(source, target, rcond=None)
    return prompt @ matrix


RECYCLERS: Mapping[str, Callable[..., np.ndarray]] = {"nearest": nearest, "linear": linear}


def common_pieces(
    source: vocabularies.Vocabulary, target: vocabularies.Vocabulary, limit: int, offset: int
) -> Int[np.ndarray, "n 2"]:
    """Ids of pieces that both vocabularies have, in the order of the source's.

    Args:
      source: vocabulary of the source.
      target: vocabulary of the target.
      limit: at most so many.
      offset: common pieces to leave out at the start: the most common ones mean little.
    """
    ids = {target.piece(i): i for i in range(SPECIAL, target.size - target.extra_ids)}
    pieces = range(SPECIAL, source.size - source.extra_ids)
    pairs = [(i, ids[source.piece(i)]) for i in pieces if source.piece(i) in ids]
    chosen = np.array(pairs[offset : offset + limit], int).reshape(-1, 2)
    if not len(chosen):
        raise ValueError(
            f"the vocabularies have {len(pairs)} tokens in common, none after "
            f"WORD_OFFSET={offset}; expected some. Decrease WORD_OFFSET, or set "
            "SOURCE_VOCABULARY_FILE (or SOURCE_VOCABULARY) to the vocabulary of the source model."
        )
    return chosen


def recycle(
    *,
    prompt_file: str,
    source_checkpoint: str,
    source_vocabulary: vocabularies.Vocabulary,
    target_checkpoint: str,
    target_vocabulary: vocabularies.Vocabulary,
    output_file: str,
    recycler: str = "linear",
    num_words: annotations.PositiveInt = 4000,
    word_offset: annotations.NonNegativeInt = 1000,
    config_text: str = "",
) -> np.ndarray:
    """`prompt-tuning recycle`: writes a prompt [P, E] for another model than it was trained with.

    Args:
      prompt_file: PROMPT_FILE, trained with the source.
      source_checkpoint: SOURCE_CHECKPOINT_PATH, of which the token embedding is read.
      source_vocabulary: its vocabulary.
      target_checkpoint: INITIAL_CHECKPOINT_PATH, the model to make a prompt for; likewise.
      target_vocabulary: its vocabulary.
      output_file: where the prompt goes; with a card.
      recycler: RECYCLER, "nearest" or "linear".
      num_words: NUM_WORDS, pieces to learn from.
      word_offset: WORD_OFFSET, see `common_pieces`.
      config_text: not needed; the card tells what it is made of.
    """
    del config_text
    if recycler not in RECYCLERS:
        raise ValueError(
            f"RECYCLER is {recycler!r}; expected one of {sorted(RECYCLERS)}. Set RECYCLER to one "
            "of them."
        )
    if epath.Path(output_file).suffix != prompt_files.SUFFIX:
        raise ValueError(
            f"OUTPUT_FILE is {output_file!r}; expected a name that ends in .npy. Set OUTPUT_FILE "
            "to one."
        )
    if epath.Path(output_file).exists():
        raise ValueError(
            f"OUTPUT_FILE {output_file} exists; expected a new file. Set another OUTPUT_FILE, or "
            "delete it."
        )
    prompt = prompt_files.load(prompt_file)
    source_embedding = base_model.read_embedding(source_checkpoint)
    if prompt.shape[1] != source_embedding.shape[1]:
        raise ValueError(
            f"PROMPT_FILE {prompt_file} has vectors of width {prompt.shape[1]}, but the source "
            f"embedding has width {source_embedding.shape[1]}; expected the same. Set "
            "SOURCE_CHECKPOINT_PATH to the prompt's base model."
        )
    source_vocabulary.check_fits(len(source_embedding))
    target_embedding = base_model.read_embedding(target_checkpoint)
    target_vocabulary.check_fits(len(target_embedding))
    pairs = common_pieces(source_vocabulary, target_vocabulary, num_words, word_offset)
    found = RECYCLERS[recycler](
        prompt, source_embedding[pairs[:, 0]], target_embedding[pairs[:, 1]]
    )
    card = prompt_files.read_card(prompt_file)
    # Nothing of the model: the card's is the source.
    kept = {name: card[name] for name in ("place", "task") if name in card}
    told = {"length": len(found), "embed_dim": found.shape[1], "recycled_from": str(prompt_file)}
    prompt_files.save(output_file, found, told | kept)
    print(
        f"Recycled {prompt_file} {prompt.shape} to {output_file} {found.shape} with {len(pairs)} "
        "common tokens."
    )
    return found
