"""A Hugging Face tokenizer as a seqio vocabulary."""

from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from prompt_tuning.data import vocabularies


class TokenizerVocabulary(seqio.Vocabulary):
    """Encodes with the tokenizer in Python, also in TensorFlow graphs, so that the ids are equal."""

    def __init__(self, tokenizer: vocabularies.HuggingFaceTokenizer):
        """Loads the tokenizer; raises as `tokenizer_loader.load`."""
        super().__init__(extra_ids=0)
        self._tokenizer, self._size = tokenizer, tokenizer.size

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, TokenizerVocabulary) and self._tokenizer == other._tokenizer

    def __str__(self) -> str:
        return f"TokenizerVocabulary({self._tokenizer.path})"

    @property
    def is_of_bytes(self) -> bool:
        """Whether this is ByT5's tokenizer."""
        return self._tokenizer.is_of_bytes

    @property
    def sentinels_end(self) -> int:
        """The id after <extra_id_0>."""
        return self._tokenizer.sentinels_end

    @property
    def bos_id(self) -> int | None:
        """None, since T5 has no such token."""
        return None

    @property
    def eos_id(self) -> int:
        """The end-of-sequence id."""
        return vocabularies.EOS_ID

    @property
    def unk_id(self) -> int:
        """The id of unknown tokens."""
        return vocabularies.UNK_ID

    @property
    def _base_vocab_size(self) -> int:
        return self._size

    def _encode(self, s: str) -> list[int]:
        return self._tokenizer.encode(s)

    def _decode(self, ids) -> str:
        return self._tokenizer.decode(ids)

    def _encode_tf(self, s: tf.Tensor | str) -> tf.Tensor:
        s = tf.convert_to_tensor(s)
        if s.shape.rank:
            spec = tf.RaggedTensorSpec([None] * s.shape.rank, tf.int32, s.shape.rank - 1)
            return tf.map_fn(self._encode_tf, s, fn_output_signature=spec)

        def encode(text: bytes | np.ndarray) -> np.ndarray:
            text = text if isinstance(text, bytes) else text.item()  # an array outside tf.data
            return np.array(self._tokenizer.encode(text.decode(errors="replace")), np.int32)

        # Stateless, so that iterators of the dataset can be saved.
        ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor | list[int]) -> tf.Tensor:
        ids = tf.convert_to_tensor(ids)
        if ids.shape.rank > 1:
            return tf.map_fn(self._decode_tf, ids, fn_output_signature=tf.string)
        decode = lambda ids: self._tokenizer.decode(ids.tolist()).encode()  # noqa: E731
        text = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        text.set_shape([])
        return text
