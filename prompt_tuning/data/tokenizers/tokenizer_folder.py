"""The declarations in the tokenizer files of a Hugging Face folder."""

import base64
import dataclasses
import functools
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

SENTENCEPIECE, TOKENIZER = "spiece.model", "tokenizer.json"
CONFIG, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
FILES = (SENTENCEPIECE, TOKENIZER, CONFIG, SPECIAL_TOKENS, ADDED_TOKENS)
DEFAULT_CLASS = "T5Tokenizer"
# For these classes the pipeline of tokenizer.json is used, including its added tokens.
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# In the order in which transformers assigns ids.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
SENTINEL = re.compile(r"▁?<extra_id_\d+>")
DEFAULT_EXTRA_IDS = 100  # default of transformers
MAX_EXTRA_IDS = 10_000


@dataclasses.dataclass(frozen=True)
class DeclaredToken:
    """A special or added token.

    Attributes:
      content: text of the token.
      index: id; None if only the role is declared.
      flags: arguments of the tokenizers library's AddedToken.
      source: file that declares the token.
    """

    content: str
    index: int | None
    flags: Mapping[str, bool]
    source: epath.Path


class TokenizerFolder:
    """The tokenizer files of a folder; each is read once.

    Properties raise ValueError if a file is damaged or files contradict each other.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """tokenizer_config.json; {} if absent."""
        return self._read_json(CONFIG)

    @functools.cached_property
    def special_tokens(self) -> dict[str, Any]:
        """special_tokens_map.json; {} if absent."""
        return self._read_json(SPECIAL_TOKENS)

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """tokenizer.json; {} if absent."""
        return self._read_json(TOKENIZER)

    @functools.cached_property
    def proto(self):
        """spiece.model as a protocol buffer; None if absent."""
        file = self.path / SENTENCEPIECE
        return _read_proto(file) if file.exists() else None

    @functools.cached_property
    def tokenizer_class(self) -> str:
        """The class in tokenizer_config.json, else in config.json, else T5Tokenizer."""
        for values in (self.config, self._read_json("config.json")):
            if name := values.get("tokenizer_class"):
                return str(name)
        return DEFAULT_CLASS

    @functools.cached_property
    def extra_ids(self) -> int | None:
        """The declared number of sentinels; None if no file declares it."""
        value = self.config.get("extra_ids")
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_EXTRA_IDS):
            raise ValueError(
                f"{self.path / CONFIG} has extra_ids {value!r:.80}; expected an integer from 0 to "
                f"{MAX_EXTRA_IDS}. Copy the file again."
            )
        return value

    @functools.cached_property
    def charsmap(self) -> bytes:
        """SentencePiece's normalization rules in tokenizer.json; b"" if absent."""
        stored = self.stored.get("normalizer") or {}
        for normalizer in stored.get("normalizers") or [stored]:
            if normalizer.get("type") == "Precompiled":
                return base64.b64decode(normalizer.get("precompiled_charsmap") or "")
        return b""

    @functools.cached_property
    def pieces(self) -> list[tuple[str, float]]:
        """(piece, score) by id from tokenizer.json, else from spiece.model, with sentinels."""
        return self._stored_pieces() if self.stored else self._model_pieces()

    @functools.cached_property
    def tokens(self) -> dict[str, DeclaredToken]:
        """Special and added tokens by text.

        The first file in the order of transformers decides on the flags; different ids are an
        error. If tokenizer_config.json has added_tokens_decoder, no other file adds tokens.
        """
        declared: dict[str, DeclaredToken] = {}
        for index, token in (self.config.get("added_tokens_decoder") or {}).items():
            index = int(index) if index.isdecimal() else index
            _declare(declared, token, index, self.path / CONFIG)
        for token in self.stored.get("added_tokens") or []:
            _declare(declared, token, token["id"], self.path / TOKENIZER)
        named = self._named_tokens()
        texts = {token.get("content") for token, _ in named}
        for content, index in self._read_json(ADDED_TOKENS).items():
            token = {"content": content, "special": content in texts}
            _declare(declared, token, index, self.path / ADDED_TOKENS)
        for token, source in named:
            _declare(declared, {"special": True} | token, None, source)
        if "added_tokens_decoder" not in self.config:
            return declared
        in_config = {token.get("content") for token, source in named if source.name == CONFIG}
        return self._without_other_files(declared, in_config)

    def special_texts(self, role: str) -> list[str]:
        """Returns the texts that files declare for a role such as eos_token."""
        values = (values.get(role) for values in (self.config, self.special_tokens))
        return [str(x.get("content") if isinstance(x, Mapping) else x) for x in values if x]

    def _without_other_files(
        self, declared: dict[str, DeclaredToken], named: set[str | None]
    ) -> dict[str, DeclaredToken]:
        """Removes, with a warning, tokens of other files than tokenizer_config.json, as transformers."""
        sources = (CONFIG, TOKENIZER) if self.tokenizer_class in GENERIC_CLASSES else (CONFIG,)
        unused = [
            token
            for token in declared.values()
            if token.source.name not in sources and token.content not in named
        ]
        if unused:
            logging.warning(
                "%s declares the token %r%s, but added_tokens_decoder in %s does not; as in transformers, it is "
                "not added and its text is split. If the model was trained with it, save the tokenizer again "
                "with transformers.",
                unused[0].source,
                unused[0].content,
                f" (and {len(unused) - 1} more)" if unused[1:] else "",
                CONFIG,
            )
        contents = {token.content for token in unused}
        return {content: x for content, x in declared.items() if content not in contents}

    def _read_json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        if not file.exists():
            return {}
        try:
            return dict(json.loads(file.read_text()))
        except (RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is not a JSON object ({error}). Copy the file again."
            ) from error

    def _stored_pieces(self) -> list[tuple[str, float]]:
        file, model = self.path / TOKENIZER, self.stored.get("model") or {}
        # Early versions of the tokenizers library do not store the type.
        if model.get("type", "Unigram") != "Unigram":
            raise ValueError(
                f"{file} has a model of type {model['type']!r:.80}; expected 'Unigram', as in T5, mT5 and "
                "umT5. Use one of these models."
            )
        return [(str(entry[0]), entry[1] + 0.0) for entry in model["vocab"]]

    def _model_pieces(self) -> list[tuple[str, float]]:
        pieces = [(piece.piece, piece.score) for piece in self.proto.pieces]
        num_sentinels = sum(SENTINEL.fullmatch(piece) is not None for piece, _ in pieces)
        count = self.extra_ids
        if count is None:
            added = (x.content for x in self.tokens.values() if x.index is not None)
            count = 0 if num_sentinels or any(map(SENTINEL.fullmatch, added)) else DEFAULT_EXTRA_IDS
        if num_sentinels and count:
            raise ValueError(
                f"{self.path / CONFIG} has extra_ids {count}, but {SENTENCEPIECE} already has "
                f"{num_sentinels} sentinels, as in mT5; expected 0. Set extra_ids to 0."
            )
        return pieces + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(count))]

    def _named_tokens(self) -> list[tuple[dict[str, Any], epath.Path]]:
        """Returns (token, file) of tokens without ids: roles first, then other special tokens."""
        roles, extra = [], []
        for name, values in ((CONFIG, self.config), (SPECIAL_TOKENS, self.special_tokens)):
            file = self.path / name
            roles += [(key, value, file) for key, value in values.items() if key.endswith("_token")]
            for key in ("additional_special_tokens", "extra_special_tokens"):
                more = values.get(key) or []
                more = more.values() if isinstance(more, Mapping) else more
                extra += [(key, value, file) for value in more]
        rank = {role: index for index, role in enumerate(ROLES)}
        roles.sort(key=lambda item: rank.get(item[0], len(ROLES)))
        return [
            ({"content": token} if isinstance(token, str) else dict(token), file)
            for _, token, file in [*roles, *extra]
            if token and isinstance(token, str | Mapping)
        ]


def _declare(
    declared: dict[str, DeclaredToken], token: Mapping[str, Any], index: Any, source: epath.Path
) -> None:
    content = token.get("content")
    if not (isinstance(content, str) and content and (index is None or type(index) is int)):
        raise ValueError(
            f"{source} declares an added token with text {content!r:.80} and id {index!r:.80}; expected a "
            "string and an integer. Copy the file again."
        )
    if content not in declared:
        flags = {name: bool(token[name]) for name in FLAGS if name in token}
        declared[content] = DeclaredToken(content, index, flags, source)
    elif index not in (None, (earlier := declared[content]).index):
        raise ValueError(
            f"token {content!r} has id {earlier.index} in {earlier.source}, and id {index} in {source}; "
            "expected one id. Correct the file that the model was not trained with."
        )


def _read_proto(file: epath.Path):
    """Reads a sentencepiece model as a protocol buffer. Raises ValueError if it is invalid."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
        problem = "" if proto.pieces else "it has no pieces"
    except Exception as error:  # of protobuf
        problem = str(error)
    if problem:
        raise ValueError(f"{file} is not a sentencepiece model ({problem}). Copy the file again.")
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        kind = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)
        raise ValueError(
            f"{file} is a sentencepiece model of type {kind}; expected UNIGRAM, as in T5, mT5 and umT5. "
            f"Use one of these models, or set VOCABULARY_FILE (vocabulary= in Python) to {file} itself."
        )
    return proto
