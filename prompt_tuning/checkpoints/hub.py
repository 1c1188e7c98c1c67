"""Models by their names on the Hugging Face hub, for those who have huggingface_hub and the network.

A model is copied into huggingface_hub's cache, without what is pickled or a program; a second time it is
there. What lies here under the name of a model is taken before it.
"""

import functools
import os
import re

from etils import epath

VOCABULARY, TOKENIZER_CONFIG = "spiece.model", "tokenizer_config.json"
TOKENIZER = (
    VOCABULARY,
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
)
FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    *TOKENIZER,
)


def is_name(path: epath.PathLike) -> bool:
    """Whether a path that does not exist may be an owner/name of the hub."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", os.fspath(path), re.ASCII) is not None


@functools.cache
def folder(name: str) -> epath.Path:
    """A copy of a model of the hub; the hub is asked once in a process.

    Raises:
      FileNotFoundError: huggingface_hub is not installed, or gives no such model.
    """
    given = f"INITIAL_CHECKPOINT_PATH {name} is not a local folder"
    try:
        import huggingface_hub
    except ImportError as error:
        raise FileNotFoundError(
            f"{given}, and huggingface_hub, which downloads models from the Hugging Face hub, is "
            "not installed; expected a folder, or a name on the hub. Set INITIAL_CHECKPOINT_PATH "
            "to a folder, or run `pip install huggingface_hub`."
        ) from error
    try:
        return epath.Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # Of its own, of its network library, of the disk.
        raise FileNotFoundError(
            f"{given}, and it cannot be downloaded from the Hugging Face hub ({error}); expected a "
            "folder, or the name of a model on the hub. Correct INITIAL_CHECKPOINT_PATH, or check "
            "the network connection."
        ) from error


def tokenizer_folder(checkpoint: epath.PathLike) -> str:
    """The folder of a Hugging Face model, or of a copy of one of the hub, with its tokenizer files.

    Raises:
      FileNotFoundError: as `folder`, or the folder has no tokenizer files.
    """
    path = epath.Path(checkpoint)
    if not path.exists() and is_name(checkpoint):
        path = folder(os.fspath(checkpoint))
    if not any((path / name).exists() for name in TOKENIZER):
        raise FileNotFoundError(
            f"INITIAL_CHECKPOINT_PATH {checkpoint} has none of {', '.join(TOKENIZER)}; expected a "
            "Hugging Face folder with its tokenizer. Copy the tokenizer files into it, or set "
            "VOCABULARY_FILE and EXTRA_IDS instead of including models/hugging_face.gin."
        )
    return os.fspath(path)
