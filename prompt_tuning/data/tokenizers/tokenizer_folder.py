"""What the tokenizer files of a Hugging Face folder declare."""

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
# Without a class of their own: the pipeline of tokenizer.json counts, its added tokens among it.
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# In the order in which transformers gives them ids.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
SENTINEL = re.compile(r"▁?<extra_id_\d+>")
DEFAULT_EXTRA_IDS = 100  # of transformers
MAX_EXTRA_IDS = 10_000


@dataclasses.dataclass(frozen=True)
class DeclaredToken:
    """A special or added token.

    Attributes:
      content: its text.
      index: its id; None where only its role is declared.
      flags: of the tokenizers library's AddedToken.
      source: the file that declares it.
    """

    content: str
    index: int | None
    flags: Mapping[str, bool]
    source: epath.Path


class TokenizerFolder:
    """The tokenizer files of a folder; each is read once.

    Properties raise ValueError where a file is damaged or files contradict each other.
    """

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """tokenizer_config.json, {} where it is absent."""
        return self._read_json(CONFIG)

    @functools.cached_property
    def special_tokens(self) -> dict[str, Any]:
        """special_tokens_map.json, {} where it is absent."""
        return self._read_json(SPECIAL_TOKENS)

    @functools.cached_property
    def stored(self) -> dict[str, Any]:
        """tokenizer.json, {} where it is absent."""
        return self._read_json(TOKENIZER)

    @functools.cached_property
    def proto(self):
        """spiece.model as a protocol buffer, None where it is absent."""
        file = self.path / SENTENCEPIECE
        return _read_proto(file) if file.exists() else None

    @functools.cached_property
    def tokenizer_class(self) -> str:
        """Of tokenizer_config.json, else of config.json, else T5's."""
        for values in (self.config, self._read_json("config.json")):
            if name := values.get("tokenizer_class"):
                return str(name)
        return DEFAULT_CLASS

    @functools.cached_property
    def extra_ids(self) -> int | None:
        """The declared number of sentinels, None where no file declares it."""
        value = self.config.get("extra_ids")
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_EXTRA_IDS):
            raise ValueError(
                f"{self.path / CONFIG} has extra_ids {value!r:.80}; expected a whole number of at most "
                f"{MAX_EXTRA_IDS}: copy it again"
            )
        return value

    @functools.cached_property
    def charsmap(self) -> bytes:
        """SentencePiece's normalization rules in tokenizer.json; b"" where it has none."""
        normalizer = self.stored.get("normalizer") or {}
        for each in normalizer.get("normalizers") or [normalizer]:
            if each.get("type") == "Precompiled":
                return base64.b64decode(each.get("precompiled_charsmap") or "")
        return b""

    @functools.cached_property
    def pieces(self) -> list[tuple[str, float]]:
        """(piece, score) by id: those of tokenizer.json, else of spiece.model with sentinels."""
        return self._stored_pieces() if self.stored else self._model_pieces()

    @functools.cached_property
    def tokens(self) -> dict[str, DeclaredToken]:
        """Special and added tokens by text.

        Where files differ in flags, the first of them counts, in the order of transformers;
        where they differ in ids, they contradict each other. Where tokenizer_config.json has
        added_tokens_decoder, no other file adds a token.
        """
        declared: dict[str, DeclaredToken] = {}
        for index, token in (self.config.get("added_tokens_decoder") or {}).items():
            _declare(
                declared, token, int(index) if index.isdecimal() else index, self.path / CONFIG
            )
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
        """What the files name eos_token, pad_token or unk_token; none where they do not."""
        values = (values.get(role) for values in (self.config, self.special_tokens))
        return [str(x.get("content") if isinstance(x, Mapping) else x) for x in values if x]

    def _without_other_files(
        self, declared: dict[str, DeclaredToken], named: set[str | None]
    ) -> dict[str, DeclaredToken]:
        """Leaves out, with a warning, what tokenizer_config.json does not declare, as transformers does."""
        sources = (CONFIG, TOKENIZER) if self.tokenizer_class in GENERIC_CLASSES else (CONFIG,)
        unused = [
            token
            for token in declared.values()
            if token.source.name not in sources and token.content not in named
        ]
        if unused:
            logging.warning(
                "%s declares the token %r, but added_tokens_decoder in %s does not; as in transformers, it is "
                "not added, and text with it is split%s. If the model was trained with the token, save the "
                "tokenizer again with transformers.",
                unused[0].source,
                unused[0].content,
                CONFIG,
                f" (and {len(unused) - 1} more)" if unused[1:] else "",
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
            raise ValueError(f"{file} is not a JSON object ({error}); copy it again") from error

    def _stored_pieces(self) -> list[tuple[str, float]]:
        file, model = self.path / TOKENIZER, self.stored.get("model") or {}
        # Early versions of the tokenizers library do not store the type.
        if model.get("type", "Unigram") != "Unigram":
            raise ValueError(
                f"{file} has a model of type {model['type']!r:.80}; expected 'Unigram', as of T5, mT5 and "
                "umT5: choose one of these"
            )
        return [(str(entry[0]), entry[1] + 0.0) for entry in model["vocab"]]

    def _model_pieces(self) -> list[tuple[str, float]]:
        pieces = [(piece.piece, piece.score) for piece in self.proto.pieces]
        held = sum(SENTINEL.fullmatch(piece) is not None for piece, _ in pieces)
        count = self.extra_ids
        if count is None:
            added = (x.content for x in self.tokens.values() if x.index is not None)
            count = 0 if held or any(map(SENTINEL.fullmatch, added)) else DEFAULT_EXTRA_IDS
        if held and count:
            raise ValueError(
                f"{self.path / CONFIG} has extra_ids {count}, but {SENTENCEPIECE} holds {held} sentinels "
                "already, as mT5's does; expected 0: set extra_ids to 0"
            )
        return pieces + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(count))]

    def _named_tokens(self) -> list[tuple[dict[str, Any], epath.Path]]:
        """Tokens that have a role but no id, with the file that names them; roles come first."""
        roles, extra = [], []
        for name, values in ((CONFIG, self.config), (SPECIAL_TOKENS, self.special_tokens)):
            file = self.path / name
            roles += [(key, value, file) for key, value in values.items() if key.endswith("_token")]
            for key in ("additional_special_tokens", "extra_special_tokens"):
                more = values.get(key) or []
                more = more.values() if isinstance(more, Mapping) else more
                extra += [(key, value, file) for value in more]
        rank = {role: number for number, role in enumerate(ROLES)}
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
            f"{source} declares an added token of text {content!r:.80} and id {index!r:.80}; expected a "
            "string and a whole number: copy it again"
        )
    if content not in declared:
        flags = {name: bool(token[name]) for name in FLAGS if name in token}
        declared[content] = DeclaredToken(content, index, flags, source)
    elif index not in (None, (earlier := declared[content]).index):
        raise ValueError(
            f"token {content!r} has id {earlier.index} by {earlier.source}, and id {index} by {source}; "
            "expected one id: correct the file that the model was not trained with"
        )


def _read_proto(file: epath.Path):
    """A sentencepiece model as its protocol buffer. Raises ValueError where it is none."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
        problem = "" if proto.pieces else "it has no pieces"
    except Exception as error:  # of protobuf
        problem = str(error)
    if problem:
        raise ValueError(f"{file} is not a sentencepiece model ({problem}); copy it again")
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        kind = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)
        raise ValueError(
            f"{file} is a sentencepiece model of type {kind}; expected UNIGRAM, as of T5, mT5 and umT5: "
            f"choose one of these, or set VOCABULARY_FILE (vocabulary= in Python) to {file} itself"
        )
    return proto
