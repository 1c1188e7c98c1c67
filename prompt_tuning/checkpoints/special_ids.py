"""Ids with a role that a Hugging Face model declares: padding, end, and the decoder's start."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from prompt_tuning.checkpoints.formats import weight_files

GENERATION = "generation_config.json"
EXPECTED = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}


def check(path: epath.PathLike, config: Mapping[str, Any]) -> None:
    """Raises ValueError where a model was trained with other special ids than T5's.

    Other settings of generation_config.json (beams, forced or suppressed tokens) are defaults of
    transformers' `generate`, not properties of the model, and are not read.

    Args:
      path: the model's folder.
      config: its config.json.
    """
    files = {"config.json": config}
    if (file := epath.Path(path) / GENERATION).exists():
        files[GENERATION] = weight_files.read_json(file)
    for name, values in files.items():
        for key, expected in EXPECTED.items():
            value = values.get(key)
            if value is not None and value not in (expected, [expected]):
                raise ValueError(
                    f"{epath.Path(path) / name} has {key} {weight_files.shown(value)}; expected "
                    f"{expected}, as T5, mT5, umT5 and ByT5 have (0 pads a text and starts the "
                    "decoder, 1 ends a text). Other ids are not supported: choose another model, "
                    f"or correct the file if the model was trained with {expected}."
                )
