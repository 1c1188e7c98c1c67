"""ByT5's tokenizer of a Hugging Face folder: bytes, sentinels and added tokens.

transformers' ByT5Tokenizer splits a text at the tokens that a folder declares, and encodes the rest
as bytes. Its sentinels <extra_id_i> have ascending ids after the bytes. ByT5 was pre-trained with
its last bytes as sentinels (`sentinels_end`).
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prompt_tuning.data.tokenizers import tokenizer_folder

# role: (default text, id)
SPECIAL = {"pad_token": ("<pad>", 0), "eos_token": ("</s>", 1), "unk_token": ("<unk>", 2)}
OFFSET = len(SPECIAL)
NUM_BYTE_IDS = OFFSET + 256
DEFAULT_EXTRA_IDS = 125  # default of transformers
EXTRA_KEYS = ("extra_special_tokens", "additional_special_tokens")


def byte_piece(index: int) -> str:
    """Formats the byte with an id as a character, "▁" for a space, or <0xE4>."""
    character = chr(index - OFFSET)
    if character == " ":
        return "▁"
    is_plain = character.isascii() and character.isprintable()
    return character if is_plain else f"<0x{ord(character):02X}>"


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """ByT5's tokenizer with the tokens of a folder.

    Attributes:
      tokens: special and added tokens by text.
      cleans_up_spaces: whether decoding removes spaces before punctuation.
      splits_tokens: whether the text of tokens is encoded as bytes (split_special_tokens).
    """

    tokens: Mapping[str, tokenizer_folder.DeclaredToken]
    cleans_up_spaces: bool = False
    splits_tokens: bool = False

    is_of_bytes = True

    @property
    def size(self) -> int:
        """The number of ids: special tokens, bytes, sentinels and added tokens."""
        return NUM_BYTE_IDS - OFFSET + len(self.tokens)

    @property
    def num_sentinels(self) -> int:
        """The number of tokens <extra_id_i>."""
        return sum(map(_is_sentinel, self.tokens))

    @property
    def sentinels_end(self) -> int:
        """The id after the last byte, which is the first sentinel of ByT5's pre-training."""
        return NUM_BYTE_IDS

    def token_to_id(self, text: str) -> int | None:
        """Returns the id of a token; None if the text is not a token."""
        return token.index if (token := self.tokens.get(text)) else None

    def encode(self, text: str) -> list[int]:
        """Encodes a text, without EOS."""
        ids = []
        for part in [text] if self.splits_tokens else self._split(text):
            token = None if self.splits_tokens else self.tokens.get(part)
            ids += [byte + OFFSET for byte in part.encode()] if token is None else [token.index]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Decodes ids; unknown ids and invalid UTF-8 are ignored."""
        return b"".join(self._bytes.get(i, b"") for i in ids).decode(errors="ignore")

    def piece(self, index: int) -> str:
        """Returns the token or byte with an id; "" outside the vocabulary."""
        if OFFSET <= index < NUM_BYTE_IDS:
            return byte_piece(index)
        return self._bytes.get(index, b"").decode()

    @functools.cached_property
    def _bytes(self) -> dict[int, bytes]:
        table = {byte + OFFSET: bytes([byte]) for byte in range(256)}
        return table | {token.index: text.encode() for text, token in self.tokens.items()}

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def _split(self, text: str) -> list[str]:
        """Splits a text at tokens, and strips white space around them for lstrip and rstrip."""
        parts = [part for part in self._pattern.split(text) if part]
        for i in range(len(parts)):
            # No ":=": AutoGraph warns about it in tf.data.
            flags = self.tokens[parts[i]].flags if parts[i] in self.tokens else {}
            if flags.get("lstrip") and i > 0:
                parts[i - 1] = parts[i - 1].rstrip()
            if flags.get("rstrip") and i + 1 < len(parts):
                parts[i + 1] = parts[i + 1].lstrip()
        return parts


def load(folder: tokenizer_folder.TokenizerFolder) -> ByteTokenizer:
    """Loads the tokenizer of a folder; `check` validates its tokens."""
    cleans_up_spaces = bool(folder.config.get("clean_up_tokenization_spaces"))
    splits_tokens = bool(folder.config.get("split_special_tokens"))
    return ByteTokenizer(_read_tokens(folder), cleans_up_spaces, splits_tokens)


def check(folder: tokenizer_folder.TokenizerFolder, tokenizer: ByteTokenizer) -> None:
    """Raises ValueError if a token equals a byte, or if ids have gaps or duplicates."""
    tokens = tokenizer.tokens
    for token in tokens.values():
        is_byte = len(token.content) == 1 and ord(token.content) < 256
        if is_byte or token.flags.get("single_word"):
            raise ValueError(
                f"{token.source} adds the token {token.content!r} {'like a byte' if is_byte else 'with single_word'} "
                "to a ByT5Tokenizer; expected tokens of at least two characters without single_word. Use a "
                "model without this token."
            )
    expected = [*range(OFFSET), *range(NUM_BYTE_IDS, NUM_BYTE_IDS + len(tokens))]
    for token, index in zip(sorted(tokens.values(), key=lambda x: x.index), expected, strict=False):
        if token.index != index:
            raise ValueError(
                f"{token.source} gives the token {token.content!r} id {token.index} in "
                f"transformers 5; expected id {index}, since sentinels and added tokens follow the {NUM_BYTE_IDS} "
                "ids of special tokens and bytes without gaps. List all tokens, with their ids in training, in "
                f"added_tokens_decoder of {folder.path / tokenizer_folder.CONFIG}."
            )


def _read_tokens(
    folder: tokenizer_folder.TokenizerFolder,
) -> dict[str, tokenizer_folder.DeclaredToken]:
    """Reads tokens by text. Tokens without ids follow the others, in the order of transformers."""
    sources = [folder.config]
    if "added_tokens_decoder" not in folder.config:
        sources.append(folder.special_tokens)  # its roles take precedence
    roles = _roles(sources)
    tokens = {}
    for role, (default, index) in SPECIAL.items():
        token = roles.get(role, default)
        flags = {"lstrip": True, "rstrip": True} if isinstance(token, str) else token
        content = _content(token)
        tokens[content] = tokenizer_folder.DeclaredToken(content, index, flags, folder.path)
    tokens |= {token.content: token for token in folder.tokens.values() if token.index is not None}
    for content in [*map(_content, roles.values()), *_extra_texts(folder, sources)]:
        if content not in tokens:
            index = NUM_BYTE_IDS - OFFSET + len(tokens)
            tokens[content] = tokenizer_folder.DeclaredToken(content, index, {}, folder.path)
    return tokens


def _roles(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns {role: token} in the order in which transformers assigns ids."""
    values = {key: value for source in sources for key, value in source.items()}
    groups = [source.get("extra_special_tokens") for source in sources]
    extra = {key: x for group in groups if isinstance(group, Mapping) for key, x in group.items()}
    keys = [*tokenizer_folder.ROLES, *(key for key in values if key.endswith("_token")), *extra]
    values |= extra
    return {key: values[key] for key in keys if isinstance(values.get(key), str | Mapping)}


def _extra_texts(
    folder: tokenizer_folder.TokenizerFolder, sources: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Returns the special tokens without a role; by default the sentinels."""
    count = DEFAULT_EXTRA_IDS if folder.extra_ids is None else folder.extra_ids
    lists = []
    for source in sources:
        values = [source[key] or [] for key in EXTRA_KEYS if key in source]
        if values := [value for value in values if not isinstance(value, Mapping)]:
            lists.append(list(map(_content, next(filter(None, values), []))))
    texts = folder.special_tokens.get("additional_special_tokens") if sources[1:] else None
    if texts and count not in (0, num := sum(map(_is_sentinel, map(_content, texts)))):
        raise ValueError(
            f"{folder.path / tokenizer_folder.SPECIAL_TOKENS} lists {num} sentinels, but the tokenizer has "
            f"extra_ids {count}; expected the same number. Set extra_ids in {tokenizer_folder.CONFIG} to {num}."
        )
    declared = lists[0] if lists else [f"<extra_id_{i}>" for i in range(count)]
    if any(set(other) != set(declared) for other in lists):
        raise ValueError(
            f"{folder.path} lists other special tokens in {tokenizer_folder.CONFIG} than in "
            f"{tokenizer_folder.SPECIAL_TOKENS}; expected the same tokens. Correct the file that the model "
            "was not trained with."
        )
    return declared


def _is_sentinel(text: str) -> bool:
    return tokenizer_folder.SENTINEL.fullmatch(text) is not None


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])
