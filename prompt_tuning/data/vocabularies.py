"""Vocabularies of SentencePiece, of Hugging Face's tokenizers and of bytes.

TensorFlow is not imported until a registered task asks for a vocabulary.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sentencepiece
from etils import epath
from jaxtyping import Int

from prompt_tuning import annotations
from prompt_tuning.data.text import truncation
from prompt_tuning.data.tokenizers import byte_tokenizer, tokenizer_folder, tokenizer_loader

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
SPECIAL = ("<pad>", "</s>", "<unk>")


def encode(vocabulary: "SentencePiece", text: str) -> list[int]:
    """The ids of a text, without an end token: for gin, which can name a function."""
    return vocabulary.encode(text)


def count(vocabulary: "SentencePiece", text: str) -> int:
    """How many ids a text has, without an end token."""
    return len(vocabulary.encode(text))


def tokenize(
    example: Mapping[str, Any], vocabulary: "Vocabulary", max_inputs: int | None = None
) -> dict[str, Any]:
    """An example of texts as ids; its texts are kept as "inputs_pretokenized" and "targets_pretokenized".

    Args:
      example: {"inputs": text, "targets": text} and other features.
      vocabulary: the model's.
      max_inputs: input tokens, with the end token, to which the field at `truncation.SPANS` is
        shortened, where the example has one; None to keep it.
    """
    tokenized = {name: value for name, value in example.items() if name != truncation.SPANS}
    inputs, targets = example["inputs"], example["targets"]
    if max_inputs is not None and truncation.SPANS in example:
        spans = example[truncation.SPANS]
        inputs = truncation.truncate(inputs, spans, vocabulary.encode, max_inputs - 1)
    tokenized |= {"inputs_pretokenized": inputs, "targets_pretokenized": targets}
    return tokenized | tokenize_pair(inputs, targets, vocabulary)


def tokenize_pair(inputs: str, targets: str, vocabulary: "Vocabulary") -> dict[str, np.ndarray]:
    """Two texts as an example: {"inputs": int32[T], "targets": int32[L]}, each with its end token."""
    return {"inputs": _ids(inputs, vocabulary), "targets": _ids(targets, vocabulary)}


def _ids(text: str, vocabulary: "Vocabulary") -> Int[np.ndarray, " T"]:
    return np.array([*vocabulary.encode(text), EOS_ID], np.int32)


@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """A sentencepiece model and the sentinels behind its pieces.

    Attributes:
      path: of the model file (VOCABULARY_FILE).
      extra_ids: sentinels to append: <extra_id_0> gets the last id, as in T5. 0 where the
        model file holds them already (T5X's `cc_all.32000.100extra`).
    """

    path: str
    extra_ids: int = 0

    def __str__(self) -> str:
        return f"{self.path} with {self.extra_ids} extra ids"

    @functools.cached_property
    def processor(self) -> sentencepiece.SentencePieceProcessor:
        """The loaded model. Raises FileNotFoundError or ValueError with the setting to correct."""
        from sentencepiece import sentencepiece_model_pb2

        file = epath.Path(self.path)
        if not file.exists():
            raise FileNotFoundError(
                f"vocabulary {self.path} does not exist. Set VOCABULARY_FILE to a "
                "sentencepiece model."
            )
        proto = sentencepiece_model_pb2.ModelProto()
        try:
            proto.ParseFromString(file.read_bytes())
            for i in reversed(range(self.extra_ids)):
                sentinel = f"▁<extra_id_{i}>"
                proto.pieces.add(piece=sentinel, score=0.0, type=proto.SentencePiece.USER_DEFINED)
            processor = sentencepiece.SentencePieceProcessor()
            processor.LoadFromSerializedProto(proto.SerializeToString())
        except Exception as error:
            raise ValueError(
                f"vocabulary {self.path} is not a sentencepiece model ({error}). Set VOCABULARY_FILE "
                "to one, or copy the file again."
            ) from error
        return processor

    @property
    def size(self) -> int:
        """Pieces and sentinels."""
        return self.processor.GetPieceSize()

    @property
    def sentinels_end(self) -> int:
        """The id behind that of <extra_id_0>."""
        return self.size

    def encode(self, text: str) -> list[int]:
        """Ids, without an end token."""
        return self.processor.EncodeAsIds(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first end token; ids that are no piece become the unknown piece."""
        kept = []
        for i in ids:
            if i == EOS_ID:
                break
            kept.append(int(i) if i < self.size else UNK_ID)
        return self.processor.DecodeIds(kept)

    def piece(self, index: int) -> str:
        """The piece with this id, "▁" for a space in front; "" beyond the vocabulary."""
        return self.processor.IdToPiece(int(index)) if index < self.size else ""

    def check_fits(self, rows: int) -> None:
        """Raises ValueError unless a model with `rows` embeddings can be using this vocabulary."""
        _check_fits(self, rows, "VOCABULARY_FILE and EXTRA_IDS")

    def for_seqio(self):
        """The same vocabulary as seqio's class. Imports seqio; raises as `processor`."""
        import seqio

        _ = self.processor  # seqio opens the file late, and says nothing of the setting
        return seqio.SentencePieceVocabulary(self.path, extra_ids=self.extra_ids)


@dataclasses.dataclass(frozen=True)
class ByteVocabulary:
    """The bytes of UTF-8 behind padding, end and unknown: no file (ByT5, Xue et al., 2022).

    Attributes:
      extra_ids: sentinels to append: <extra_id_0> gets the last id. ByT5 has none: it was
        pre-trained with its last bytes as sentinels.
    """

    extra_ids: annotations.NonNegativeInt = 0
    path: None = dataclasses.field(default=None, init=False)  # where SentencePiece has its file

    def __str__(self) -> str:
        return f"bytes with {self.extra_ids} extra ids"

    @property
    def size(self) -> int:
        """Special tokens, bytes and sentinels."""
        return self._first_extra + self.extra_ids

    @property
    def sentinels_end(self) -> int:
        """The id behind that of <extra_id_0>."""
        return self.size

    @property
    def _first_extra(self) -> int:
        return len(SPECIAL) + 256

    def encode(self, text: str) -> list[int]:
        """Ids, without an end token."""
        return [byte + len(SPECIAL) for byte in text.encode()]

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first end token; what is no byte, or no UTF-8, is left out."""
        ids = itertools.takewhile(lambda i: i != EOS_ID, ids)
        kept = [int(i) - len(SPECIAL) for i in ids if len(SPECIAL) <= i < self._first_extra]
        return bytes(kept).decode(errors="ignore")

    def piece(self, index: int) -> str:
        """The byte with this id as a letter, "▁" for a space, or as <0xE4>; "" beyond the end."""
        if index < len(SPECIAL):
            return SPECIAL[index]
        if index >= self._first_extra:
            return f"<extra_id_{self.size - 1 - index}>" if index < self.size else ""
        return byte_tokenizer.byte_piece(index)

    def check_fits(self, rows: int) -> None:
        """Raises ValueError unless a model with `rows` embeddings can be using this vocabulary."""
        _check_fits(self, rows, "EXTRA_IDS")

    def for_seqio(self):
        """The same vocabulary as seqio's class. Imports seqio."""
        import seqio

        return seqio.ByteVocabulary(extra_ids=self.extra_ids)


# What transformers takes out of decoded text where tokenizer_config.json asks for it.
SPACES = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


@dataclasses.dataclass(frozen=True)
class HuggingFaceTokenizer:
    """The tokenizer of a Hugging Face folder, with the ids that transformers 5 gives.

    Attributes:
      path: of the folder (VOCABULARY_FILE); see `tokenizer_loader.load`.
    """

    path: str

    def __str__(self) -> str:
        return f"{self.path} (Hugging Face tokenizer)"

    @functools.cached_property
    def _loaded(self) -> tokenizer_loader.LoadedTokenizer | byte_tokenizer.ByteTokenizer:
        return tokenizer_loader.load(self.path)

    @property
    def is_of_bytes(self) -> bool:
        """Whether it is ByT5's, whose pre-training took its last bytes as sentinels."""
        return self._loaded.is_of_bytes

    @property
    def size(self) -> int:
        """Pieces or bytes, sentinels and added tokens."""
        return self._loaded.size

    @property
    def num_sentinels(self) -> int:
        """How many tokens <extra_id_i> there are."""
        return self._loaded.num_sentinels

    @property
    def sentinels_end(self) -> int:
        """The id behind that of the first sentinel of pre-training; added tokens may follow."""
        return self._loaded.sentinels_end

    @property
    def extra_ids(self) -> int:
        """Ids from the first sentinel to the end."""
        return self.size - self.sentinels_end + (0 if self.is_of_bytes else self.num_sentinels)

    def encode(self, text: str) -> list[int]:
        """Ids, without an end token."""
        return self._loaded.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first end token, without padding.

        Sentinels, added and unknown tokens are a part of it, as of transformers with
        skip_special_tokens=False. Ids beyond the vocabulary have no text.
        """
        kept = [int(i) for i in itertools.takewhile(lambda i: i != EOS_ID, ids) if i != PAD_ID]
        text = self._loaded.decode(kept)
        for each in SPACES if self._loaded.cleans_up_spaces else ():
            text = text.replace(each, each.strip())
        return text

    def piece(self, index: int) -> str:
        """The token with this id, "▁" for a space in front; "" beyond the vocabulary."""
        return self._loaded.piece(int(index))

    def check_fits(self, rows: int) -> None:
        """Raises ValueError unless a model with `rows` embeddings can be using this vocabulary."""
        _check_fits(self, rows, "VOCABULARY_FILE to the tokenizer of the model")

    def for_seqio(self):
        """The same vocabulary as a class of seqio. Imports seqio; raises as `tokenizer_loader.load`."""
        from prompt_tuning.data.tokenizers import seqio_vocabulary

        return seqio_vocabulary.TokenizerVocabulary(self)


Vocabulary = SentencePiece | ByteVocabulary | HuggingFaceTokenizer


def load(path: epath.PathLike, extra_ids: annotations.NonNegativeInt = 0) -> Vocabulary:
    """The vocabulary of VOCABULARY_FILE; a file is opened when it is first used.

    Args:
      path: a sentencepiece model; or a folder with tokenizer files of Hugging Face (its
        tokenizer.json stands for it), which says its number of sentinels.
      extra_ids: sentinels to append to a sentencepiece model.

    Raises:
      FileNotFoundError: the folder has no tokenizer.
      ValueError: the folder has another number of sentinels than `extra_ids`, if that is not 0;
        as `tokenizer_loader.load`.
    """
    path = os.fspath(path)
    if os.path.basename(path) == tokenizer_folder.TOKENIZER:
        path = os.path.dirname(path) or "."
    if path.endswith(".model") or not epath.Path(path).is_dir():
        return SentencePiece(path, extra_ids)
    tokenizer = HuggingFaceTokenizer(path)
    if extra_ids not in (0, tokenizer.num_sentinels):
        raise ValueError(
            f"EXTRA_IDS (extra_ids= in Python) is {extra_ids}, but the tokenizer in {path} has "
            f"{tokenizer.num_sentinels} sentinels; expected 0, because a folder declares their number. Set "
            "EXTRA_IDS = 0."
        )
    return tokenizer


def _check_fits(vocabulary: Vocabulary, rows: int, settings: str) -> None:
    # Published models pad their table to a multiple of 128 rows, or of their sharding.
    if not 0 <= rows - vocabulary.size < 384:
        added = (
            ""
            if rows > vocabulary.size
            else (
                " If tokens were added to the tokenizer, resize the embedding with transformers first: "
                "model.resize_token_embeddings(len(tokenizer))."
            )
        )
        raise ValueError(
            f"the vocabulary {vocabulary} has {vocabulary.size} ids, but the model's embedding has {rows} "
            f"rows; expected at least one row per id, and at most 383 more. Set {settings}, or use another "
            f"model.{added}"
        )
