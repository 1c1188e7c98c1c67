"""Prompts recycled for another model without training (Lester et al., 2022, "Recycling").

A map from the source's token embedding to the target's is applied to the vectors of the prompt.
"""

from collections.abc import Callable, Mapping

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from prompt_tuning import annotations
from prompt_tuning.checkpoints import base_model, prompt_files
from prompt_tuning.data import vocabularies

Table = Float[np.ndarray, "n D"]
NUM_SPECIAL_TOKENS = 3  # Padding, end, unknown: they have no text.


def nearest(prompt: Float[np.ndarray, "P D"], source: Table, target: Table) -> np.ndarray:
    """Replaces each vector by the target's embedding of its nearest token, by cosine.

    The ratio of the vector's norm to that of the token's embedding is kept.

    Args:
      prompt: of the source.
      source: rows of its embedding.
      target: rows of the target's embedding, for the same tokens in the same order.

    Returns:
      [P, E], where E is the target's width.
    """
    norms = np.linalg.norm(source, axis=1)
    similarity = prompt @ (source / np.maximum(norms, 1e-12)[:, None]).T
    best = similarity.argmax(axis=1)
    ratio = np.linalg.norm(prompt, axis=1) / np.maximum(norms[best], 1e-12)
    return ratio[:, None] * target[best]


def linear(prompt: Float[np.ndarray, "P D"], source: Table, target: Table) -> np.ndarray:
    """Applies the least-squares map from the source's embedding to the target's.

    This equals the paper's linear combination of tokens: the minimum-norm combination of source
    tokens, applied to the target's, is `prompt @ pinv(source) @ target`. Arguments and result are
    those of `nearest`.

    Raises:
      ValueError: there are fewer tokens than the source's width.
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


def common_tokens(
    source: vocabularies.Vocabulary, target: vocabularies.Vocabulary, limit: int, offset: int
) -> Int[np.ndarray, "n 2"]:
    """Returns the ids of tokens that both vocabularies have, in the order of the source's.

    Args:
      source: vocabulary of the source.
      target: vocabulary of the target.
      limit: maximum number of tokens.
      offset: common tokens to skip at the start; the most frequent tokens carry little meaning.
    """
    ids = {target.piece(i): i for i in range(NUM_SPECIAL_TOKENS, target.size - target.extra_ids)}
    source_ids = range(NUM_SPECIAL_TOKENS, source.size - source.extra_ids)
    pairs = [(i, ids[source.piece(i)]) for i in source_ids if source.piece(i) in ids]
    selected = np.array(pairs[offset : offset + limit], int).reshape(-1, 2)
    if not len(selected):
        raise ValueError(
            f"the vocabularies have {len(pairs)} tokens in common, none after "
            f"WORD_OFFSET={offset}; expected some. Decrease WORD_OFFSET, or set "
            "SOURCE_VOCABULARY_FILE (or SOURCE_VOCABULARY) to the vocabulary of the source model."
        )
    return selected


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
) -> np.ndarray:
    """`prompt-tuning recycle`: writes the prompt [P, E] for another model, and its card.

    Args:
      prompt_file: PROMPT_FILE, trained with the source.
      source_checkpoint: SOURCE_CHECKPOINT_PATH; only its token embedding is read.
      source_vocabulary: of the source.
      target_checkpoint: INITIAL_CHECKPOINT_PATH; only its token embedding is read.
      target_vocabulary: of the target.
      output_file: OUTPUT_FILE.
      recycler: RECYCLER, "nearest" or "linear".
      num_words: NUM_WORDS, the maximum number of common tokens to use.
      word_offset: WORD_OFFSET, see `common_tokens`.
    """
    _check_settings(recycler, output_file)
    prompt = prompt_files.load(prompt_file)
    source = base_model.read_embedding(source_checkpoint)
    if prompt.shape[1] != source.shape[1]:
        raise ValueError(
            f"PROMPT_FILE {prompt_file} has vectors of width {prompt.shape[1]}, but the source "
            f"embedding has width {source.shape[1]}; expected the same. Set "
            "SOURCE_CHECKPOINT_PATH to the prompt's base model."
        )
    source_vocabulary.check_fits(len(source))
    target = base_model.read_embedding(target_checkpoint)
    target_vocabulary.check_fits(len(target))
    ids = common_tokens(source_vocabulary, target_vocabulary, num_words, word_offset)
    recycled = RECYCLERS[recycler](prompt, source[ids[:, 0]], target[ids[:, 1]])
    card = dict(zip(("length", "embed_dim"), recycled.shape, strict=True))
    old_card = prompt_files.read_card(prompt_file)
    # The rest of the old card describes the source model.
    card |= {name: old_card[name] for name in ("place", "task") if name in old_card}
    prompt_files.save(output_file, recycled, card | {"recycled_from": str(prompt_file)})
    print(
        f"Recycled {prompt_file} {prompt.shape} to {output_file} {recycled.shape} with {len(ids)} "
        "common tokens."
    )
    return recycled


def _check_settings(recycler: str, output_file: str) -> None:
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
