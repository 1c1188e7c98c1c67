"""Vocabularies of pieces and of bytes, without TensorFlow until a task asks for it."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable

import sentencepiece
from etils import epath

EOS_ID, UNK_ID = 1, 2
SPECIAL = ("<pad>", "</s>", "<unk>")


def encode(vocabulary: "SentencePiece", text: str) -> list[int]:
    """The ids of a text, without an end token: for gin, which can name a function."""
    return vocabulary.encode(text)


def count(vocabulary: "SentencePiece", text: str) -> int:
    """How many ids a text has, without an end token."""
    return len(vocabulary.encode(text))


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
        """The loaded model. Raises FileNotFoundError or ValueError with the setting to mend."""
        from sentencepiece import sentencepiece_model_pb2

        file = epath.Path(self.path)
        if not file.exists():
            raise FileNotFoundError(
                f"vocabulary {self.path} does not exist; set VOCABULARY_FILE to a sentencepiece model"
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
                f"vocabulary {self.path} is not a sentencepiece model ({error}); set VOCABULARY_FILE"
            ) from error
        return processor

    @property
    def size(self) -> int:
        """Pieces and sentinels."""
        return self.processor.GetPieceSize()

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

    extra_ids: int = 0
    path: None = dataclasses.field(default=None, init=False)  # where SentencePiece has its file

    def __str__(self) -> str:
        return f"bytes with {self.extra_ids} extra ids"

    @property
    def size(self) -> int:
        """Special tokens, bytes and sentinels."""
        return self._first_extra + self.extra_ids

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
        letter = chr(index - len(SPECIAL))
        if letter == " ":
            return "▁"
        return letter if letter.isascii() and letter.isprintable() else f"<0x{ord(letter):02X}>"

    def check_fits(self, rows: int) -> None:
        """Raises ValueError unless a model with `rows` embeddings can be using this vocabulary."""
        _check_fits(self, rows, "EXTRA_IDS")

    def for_seqio(self):
        """The same vocabulary as seqio's class. Imports seqio."""
        import seqio

        return seqio.ByteVocabulary(extra_ids=self.extra_ids)


Vocabulary = SentencePiece | ByteVocabulary


def _check_fits(vocabulary: Vocabulary, rows: int, settings: str) -> None:
    # Published models pad their table to a multiple of 128 rows or of their sharding: mT5 150b by 268.
    if not 0 <= rows - vocabulary.size < 384:
        raise ValueError(
            f"the vocabulary {vocabulary} has {vocabulary.size} ids, the model's embedding {rows} "
            f"rows: they do not belong together; set {settings}, or another model"
        )
