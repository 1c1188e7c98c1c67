"""Loading of a Hugging Face folder's tokenizer, with the ids of transformers 5.

transformers 5 reads vocabulary, scores and normalization rules from `tokenizer.json` or
`spiece.model`, and builds its T5 pipeline around them. Only `GENERIC_CLASSES` use the pipeline
that `tokenizer.json` stores.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from prompt_tuning.data.tokenizers import byte_tokenizer, tokenizer_folder

BYTES_CLASS = "ByT5Tokenizer"
T5_CLASSES = ("T5Tokenizer", "T5TokenizerFast", "MT5Tokenizer", "MT5TokenizerFast")
GENERIC_CLASSES = tokenizer_folder.GENERIC_CLASSES
SPECIAL = byte_tokenizer.SPECIAL
EOS_ID, UNK_ID = SPECIAL["eos_token"][1], SPECIAL["unk_token"][1]
# Spaces, case, digits, punctuation, NFKC and other scripts.
PROBES = (
    " The  quick brown fox, 12.5 % of (naïve) cafés! ",
    "don't stop:\tHTTP://x_y-z\n“½ ﬁlm” ① Ｆｕｌｌ",
    "Straße Привет 漢字 😀",
)


@dataclasses.dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer of the tokenizers library, with settings of its folder.

    Attributes:
      tokenizer: tokenizers.Tokenizer with all added tokens.
      num_sentinels: number of tokens <extra_id_i>.
      cleans_up_spaces: whether decoding removes spaces before punctuation.
    """

    tokenizer: Any
    num_sentinels: int
    cleans_up_spaces: bool

    is_of_bytes = False

    @property
    def size(self) -> int:
        """The number of ids, including sentinels and added tokens."""
        return self.tokenizer.get_vocab_size()

    @property
    def sentinels_end(self) -> int:
        """The id after <extra_id_0>; added tokens may follow."""
        ids = map(self.tokenizer.token_to_id, ("<extra_id_0>", "▁<extra_id_0>"))
        return next((i + 1 for i in ids if i is not None), self.size)

    def encode(self, text: str) -> list[int]:
        """Encodes a text, without EOS."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids, including special tokens; ids outside the vocabulary are ignored."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def piece(self, index: int) -> str:
        """Returns the token with an id; "" outside the vocabulary."""
        return self.tokenizer.id_to_token(index) or ""


def load(path: epath.PathLike) -> LoadedTokenizer | byte_tokenizer.ByteTokenizer:
    """Loads the tokenizer of a folder.

    Args:
      path: folder of ByT5, or with tokenizer.json, spiece.model, or both, which must agree.

    Raises:
      FileNotFoundError: the folder has neither file and is not of ByT5.
      ValueError: a file is damaged, files contradict each other, or it is not a T5 tokenizer.
    """
    folder = tokenizer_folder.TokenizerFolder(path)
    with _refuse_damage(path):
        if folder.tokenizer_class != BYTES_CLASS:
            return _load(folder)
        tokenizer = byte_tokenizer.load(folder)
        _check_special(folder, tokenizer)
        byte_tokenizer.check(folder, tokenizer)
        return tokenizer


@contextlib.contextmanager
def _refuse_damage(path: epath.PathLike) -> Iterator[None]:
    """Converts errors of the tokenizers library and of malformed JSON to ValueError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or type(error) is ValueError:
            raise
        raise ValueError(
            f"{path} has tokenizer files that cannot be read ({error!r:.200}). Copy them again."
        ) from error


def _load(folder: tokenizer_folder.TokenizerFolder) -> LoadedTokenizer:
    name = folder.tokenizer_class
    if not folder.stored and folder.proto is None:
        raise FileNotFoundError(
            f"{folder.path} has neither {tokenizer_folder.TOKENIZER} nor "
            f"{tokenizer_folder.SENTENCEPIECE}; expected one of them beside config.json. Copy it from the "
            "source of the model, or set VOCABULARY_FILE (vocabulary= in Python) to a sentencepiece model "
            "or to a folder with tokenizer files."
        )
    if name not in T5_CLASSES and not (name in GENERIC_CLASSES and folder.stored):
        raise ValueError(
            f"{folder.path} has tokenizer_class {name!r:.80}; expected one of {', '.join(T5_CLASSES)}, "
            f"{BYTES_CLASS}, or one of {', '.join(GENERIC_CLASSES)} with a "
            f"{tokenizer_folder.TOKENIZER}. Use a T5 model, or set VOCABULARY_FILE (vocabulary= in Python) "
            "to its sentencepiece model."
        )
    has_both = folder.stored and folder.proto is not None
    if has_both:
        _check_pieces_agree(folder)
    tokenizer = _make_stored(folder) if name in GENERIC_CLASSES else _make_t5(folder)
    _add_tokens(folder, tokenizer)
    if has_both:
        _check_ids_agree(folder, tokenizer)
    _check_special(folder, tokenizer)
    if folder.proto is not None and folder.proto.trainer_spec.byte_fallback:
        logging.warning(
            "%s has byte_fallback, which is not applied, as in transformers: unknown characters become <unk>",
            folder.path / tokenizer_folder.SENTENCEPIECE,
        )
    tokenizer.encode_special_tokens = bool(folder.config.get("split_special_tokens"))
    cleans_up_spaces = bool(folder.config.get("clean_up_tokenization_spaces"))
    return LoadedTokenizer(tokenizer, _count_sentinels(folder, tokenizer), cleans_up_spaces)


def _make_t5(folder: tokenizer_folder.TokenizerFolder):
    """Makes T5's pipeline: normalization, split at white space, "▁" before words, Unigram."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    # If both files are present, they agree.
    rules = folder.charsmap if folder.stored else folder.proto.normalizer_spec.precompiled_charsmap
    space = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer = Tokenizer(models.Unigram(folder.pieces, unk_id=UNK_ID))
    if rules:
        tokenizer.normalizer = normalizers.Precompiled(rules)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**space)]
    )
    tokenizer.decoder = decoders.Metaspace(**space)
    return tokenizer


def _make_stored(folder: tokenizer_folder.TokenizerFolder):
    """Loads tokenizer.json without its truncation and padding, which belong to the caller."""
    from tokenizers import Tokenizer

    _ = folder.pieces  # raises if the model is not Unigram
    tokenizer = Tokenizer.from_str(json.dumps(folder.stored))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids, ended = (tokenizer.encode(PROBES[0], add_special_tokens=x).ids for x in (False, True))
    if ended not in (ids, [*ids, EOS_ID]):
        raise ValueError(
            f"{folder.path / tokenizer_folder.TOKENIZER} puts the ids {ended[: len(ended) - len(ids)]} around a text; "
            f"expected only {EOS_ID}, </s>, after it, as in T5. Use another model."
        )
    return tokenizer


def _add_tokens(folder: tokenizer_folder.TokenizerFolder, tokenizer) -> None:
    """Adds declared tokens: first those with ids, in their order, then the others."""
    from tokenizers import AddedToken

    count = tokenizer_folder.DEFAULT_EXTRA_IDS if folder.extra_ids is None else folder.extra_ids
    for content in (f"<extra_id_{index}>" for index in range(count)):
        if content not in folder.tokens and tokenizer.token_to_id(content) is not None:
            tokenizer.add_tokens([AddedToken(content, special=True)])
    if folder.tokenizer_class in T5_CLASSES:
        for role, (content, _) in SPECIAL.items():  # T5's tokens, unless a file declares another
            if not folder.special_texts(role) and content not in folder.tokens:
                tokenizer.add_tokens([AddedToken(content, special=True)])
    by_id = lambda token: math.inf if token.index is None else token.index  # noqa: E731
    for token in sorted(folder.tokens.values(), key=by_id):
        tokenizer.add_tokens([AddedToken(token.content, **token.flags)])
        index = tokenizer.token_to_id(token.content)
        if token.index not in (None, index):
            raise ValueError(
                f"{token.source} gives the token {token.content!r} id {token.index}, but in the vocabulary "
                f"it has id {index}; expected ids of added tokens after the vocabulary, without gaps. "
                "Save the tokenizer again with transformers."
            )


def _check_pieces_agree(folder: tokenizer_folder.TokenizerFolder) -> None:
    """Raises ValueError at the first difference between spiece.model and tokenizer.json."""
    model = [(piece.piece, piece.score) for piece in folder.proto.pieces]
    for index, (one, other) in enumerate(itertools.zip_longest(model, folder.pieces)):
        if one is None and tokenizer_folder.SENTINEL.fullmatch(other[0]):
            continue
        if one is None or other is None or one[0] != other[0] or abs(one[1] - other[1]) > 1e-4:
            one, other = (
                "absent" if x is None else f"{x[0]!r} (score {x[1]:g})" for x in (one, other)
            )
            raise _disagreement(folder, f"id {index} is {one} in the first, {other} in the second")
    if folder.proto.normalizer_spec.precompiled_charsmap != folder.charsmap:
        raise _disagreement(folder, "the normalization rules (precompiled_charsmap) differ")


def _check_ids_agree(folder: tokenizer_folder.TokenizerFolder, tokenizer) -> None:
    """Raises ValueError if SentencePiece and the tokenizer encode a text differently."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(folder.proto.SerializeToString())
    byte_fallback = folder.proto.trainer_spec.byte_fallback
    for text in PROBES:
        ids, expected = tokenizer.encode(text, add_special_tokens=False).ids, processor.Encode(text)
        if ids != expected and not (byte_fallback and UNK_ID in ids):
            raise _disagreement(
                folder, f"{text!r} has ids {expected} in the first, {ids} in the second"
            )


def _disagreement(folder: tokenizer_folder.TokenizerFolder, difference: str) -> ValueError:
    return ValueError(
        f"{folder.path} has {tokenizer_folder.SENTENCEPIECE} and {tokenizer_folder.TOKENIZER} of different vocabularies: {difference}; "
        "expected the same vocabulary. Remove the file that the model was not trained with."
    )


def _check_special(folder: tokenizer_folder.TokenizerFolder, tokenizer) -> None:
    """Raises ValueError unless the padding, end and unknown tokens have T5's ids."""
    for role, (default, expected) in SPECIAL.items():
        for text in folder.special_texts(role) or [default]:
            if (index := tokenizer.token_to_id(text)) != expected:
                raise ValueError(
                    f"{folder.path} declares {role} {text!r:.80}, whose id is {index}; expected id "
                    f"{expected}, as in T5, mT5, umT5 and ByT5. Other ids are not supported; use another model."
                )


def _count_sentinels(folder: tokenizer_folder.TokenizerFolder, tokenizer) -> int:
    """Counts sentinels. Raises ValueError if fewer than declared; mT5 has more."""
    count = sum(tokenizer_folder.SENTINEL.fullmatch(x) is not None for x in tokenizer.get_vocab())
    if (folder.extra_ids or 0) > count:
        raise ValueError(
            f"{folder.path / tokenizer_folder.CONFIG} has extra_ids {folder.extra_ids}, but the vocabulary "
            f"has {count} tokens <extra_id_…>; expected the same number. Set extra_ids to {count}."
        )
    return count
