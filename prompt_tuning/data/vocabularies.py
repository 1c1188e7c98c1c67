"""Sentencepiece vocabularies, without TensorFlow until a task asks for it."""

import dataclasses
import functools
from collections.abc import Iterable

import sentencepiece
from etils import epath

EOS_ID, UNK_ID = 1, 2


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
        # Published models pad their table to a multiple of 128 rows or of their sharding.
        if not 0 <= rows - self.size < 256:
            raise ValueError(
                f"the vocabulary {self.path} has {self.size} ids, the model's embedding {rows} rows: "
                "they do not belong together; set VOCABULARY_FILE and EXTRA_IDS, or another model"
            )

    def for_seqio(self):
        """The same vocabulary as seqio's class. Imports seqio; raises as `processor`."""
        import seqio

        _ = self.processor  # seqio opens the file late, and says nothing of the setting
        return seqio.SentencePieceVocabulary(self.path, extra_ids=self.extra_ids)
