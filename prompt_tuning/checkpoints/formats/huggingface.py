"""T5 in Hugging Face's format: config.json, model.safetensors, tokenizer files.

Facts about the format: torch stores a kernel as [outputs, inputs]. model_type is "t5" for
T5 1.0, 1.1, Flan-T5 and ByT5, "mt5" and "umt5" for these. Names of tensors are in `tensor_names`.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import atomic, hub, lazy_arrays, special_ids
from prompt_tuning.checkpoints.formats import tensor_names, weight_files
from prompt_tuning.models import config as config_lib

STEP_KEY = "training_steps"
ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
}
# Of a config.json that does not say.
FEED_FORWARD = {"t5": "relu", "mt5": "gated-gelu", "umt5": "gated-gelu"}
# Field of T5Config -> name in config.json.
SIZES = {
    "vocab_size": "vocab_size",
    "embed_dim": "d_model",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "num_encoder_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
}


def is_checkpoint(path: epath.PathLike) -> bool:
    """Whether `path` is a folder with a config.json."""
    return (epath.Path(path) / "config.json").exists()


def read_step(path: epath.PathLike) -> int | None:
    """Reads the pre-training step; None unless this package wrote the checkpoint."""
    file = epath.Path(path) / "config.json"
    config = weight_files.read_json(file)
    has_step = config.get(STEP_KEY) is not None
    return weight_files.whole_number(file, config, STEP_KEY, least=0) if has_step else None


HOW_TO_RUN = {"dropout_rate", "dtype", "weights_dtype", "remat_policy"}


def read_config(path: epath.PathLike) -> config_lib.T5Config:
    """Returns the network of config.json and the weights; settings in HOW_TO_RUN keep their defaults.

    Raises:
      ValueError: the model is not a T5, an unsupported variant, or has other special ids.
    """
    path = epath.Path(path)
    config = weight_files.read_json(path / "config.json")
    special_ids.check(path, config)
    kind = config.get("model_type")
    # As text: a list is no key.
    feed_forward = config.get("feed_forward_proj") or FEED_FORWARD.get(str(kind))
    if str(kind) not in FEED_FORWARD or str(feed_forward) not in ACTIVATIONS:
        raise ValueError(
            f"{path}/config.json has model_type {weight_files.shown(kind)} and feed_forward_proj "
            f"{weight_files.shown(feed_forward)}; expected one of {', '.join(FEED_FORWARD)} with "
            f"one of {', '.join(sorted(ACTIVATIONS))}. Choose another INITIAL_CHECKPOINT_PATH."
        )
    # The decoder is as deep as the encoder where config.json does not say.
    config = {"num_decoder_layers": config.get("num_layers")} | config
    if missing := set(SIZES.values()) - config.keys():
        raise ValueError(
            f"{path}/config.json lacks {', '.join(sorted(missing))}; expected all sizes of a T5. "
            "Copy the model again."
        )
    size = functools.partial(weight_files.whole_number, path / "config.json", config)
    sizes = {field: size(name) for field, name in SIZES.items()}
    shapes = weight_files.shapes(path)
    is_scaled = _is_scaled(config)
    tensor_names.check(path, shapes, config, is_scaled)
    _check_layers(path, shapes, config)
    return config_lib.T5Config(
        **sizes,
        mlp_activations=ACTIVATIONS[feed_forward],
        logits_via_embedding=_is_tied(path, shapes, config, is_scaled),
        scale_decoder_outputs=is_scaled,
        relative_attention_buckets=size("relative_attention_num_buckets", 32),
        relative_attention_max_distance=size("relative_attention_max_distance", 128),
        relative_attention_per_layer=kind == "umt5",
        layer_norm_epsilon=_epsilon(path, config),
    )


def _check_layers(
    path: epath.Path, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]
) -> None:
    """Before a network is traced, which takes long for many layers: each has weights."""
    for name in ("num_layers", "num_decoder_layers"):
        if config[name] > len(shapes):
            raise ValueError(
                f"{path}/config.json has {name} {config[name]}, but the weights have only "
                f"{len(shapes)} tensors; expected tensors for each layer. Copy the model again."
            )


def _epsilon(path: epath.Path, config: Mapping[str, Any]) -> float:
    value = config.get("layer_norm_epsilon", 1e-6)
    if type(value) not in (int, float) or not 0 <= value < 1:  # NaN neither
        raise ValueError(
            f"{path}/config.json has layer_norm_epsilon {weight_files.shown(value)}; expected a "
            "number of at least 0 and below 1. Copy the model again."
        )
    return value


def check_config(path: epath.PathLike, config: config_lib.T5Config) -> None:
    """Raises ValueError where config.json describes another network than `config`."""
    stored = read_config(path)
    lines = [
        f"{field.name} is {have!r} in config.json, and {want!r} in the settings"
        for field in dataclasses.fields(config)
        if field.name not in HOW_TO_RUN
        and (have := getattr(stored, field.name)) != (want := getattr(config, field.name))
    ]
    if lines:
        raise ValueError(
            f"{path}/config.json describes another model than the settings:\n  "
            + "\n  ".join(lines)
            + "\n"
            "Expected INITIAL_CHECKPOINT_PATH and the model's gin file of the same model. Change one of them; "
            "models/hugging_face.gin reads all of these from config.json."
        )


@contextlib.contextmanager
def opened(
    path: epath.PathLike, names: Collection[str]
) -> Iterator[dict[str, lazy_arrays.LazyArray]]:
    """Yields {path: LazyArray} of the stored tensors, with this package's paths and orientation.

    Copies of the embedding and unused tensors are omitted. A tensor that is not a parameter of the
    network keeps its name.

    Args:
      path: folder with model.safetensors, or with its index and shards.
      names: paths of the network's parameters.

    Raises:
      ValueError: copies of the embedding differ, or a file is damaged.
    """
    paths = {tensor_names.name_of(name): name for name in names}
    with weight_files.opened(path) as stored:
        is_tied = tensor_names.LM_HEAD not in paths
        stored = tensor_names.without_copies(path, stored, is_tied)
        named = {paths.get(name, name): leaf for name, leaf in stored.items()}
        yield {
            name: _transposed(leaf) if is_transposed(name) else leaf for name, leaf in named.items()
        }


def save(
    path: epath.PathLike,
    params: params_lib.Tree,
    config: config_lib.T5Config,
    *,
    vocabulary_file: epath.PathLike | None,
    extra_ids: int = 100,
    step: int,
    dtype: str = "bfloat16",
) -> None:
    """Writes a model that transformers can load; the folder appears whole or not at all.

    Args:
      path: the folder to make.
      params: all parameters of the network, without a prompt.
      config: the network's sizes.
      vocabulary_file: sentencepiece model, or a folder whose tokenizer files are copied; None for
        bytes (ByT5).
      extra_ids: sentinels that the tokenizer adds to a sentencepiece model.
      step: pre-training steps so far; `read_step` gives it back.
      dtype: of the stored weights.

    Raises:
      FileExistsError: `path` exists.
      ValueError: the format has no place for the network or its vocabulary.
    """
    is_folder = bool(vocabulary_file) and epath.Path(vocabulary_file).is_dir()
    is_model = bool(vocabulary_file) and not is_folder
    of_tokenizer = [epath.Path(vocabulary_file) / name for name in hub.TOKENIZER if is_folder]
    copied = {file.name: file.read_bytes() for file in of_tokenizer if file.exists()}
    texts = {
        "config.json": _config_json(config, dtype) | special_ids.EXPECTED | {STEP_KEY: step},
        special_ids.GENERATION: special_ids.EXPECTED,
        # ByT5's config.json alone names its class where a folder has no file of a tokenizer.
        hub.TOKENIZER_CONFIG: {
            "tokenizer_class": "T5Tokenizer" if copied or is_model else "ByT5Tokenizer",
            "extra_ids": extra_ids,
        },
    }
    files = {name: (json.dumps(text, indent=2) + "\n").encode() for name, text in texts.items()}
    check_vocabulary(vocabulary_file)
    if copied:
        del files[hub.TOKENIZER_CONFIG]
        files |= copied
    elif is_model:
        files[hub.VOCABULARY] = epath.Path(vocabulary_file).read_bytes()
    tensors = _their_tensors(params, dtype)
    with atomic.folder(path) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        content = safetensors.numpy.save(tensors, {"format": "pt"})
        (folder / weight_files.WEIGHTS).write_bytes(content)


def check_vocabulary(path: epath.PathLike | None) -> None:
    """Raises ValueError where a sentencepiece model cannot be exported by `save`."""
    if path and not (file := epath.Path(path)).is_dir() and b"<extra_id_0>" in file.read_bytes():
        raise ValueError(
            f"VOCABULARY_FILE {path} already contains the extra ids (sentinels), which the "
            "exported tokenizer adds; expected a SentencePiece model without them. Set "
            "VOCABULARY_FILE to that model, and EXTRA_IDS to their number."
        )


def _their_tensors(params: params_lib.Tree, dtype: str) -> dict[str, np.ndarray]:
    tensors = {}
    for name, leaf in params_lib.flatten(params).items():
        array = np.asarray(leaf)
        array = array.T if is_transposed(name) else array
        tensors[tensor_names.name_of(name)] = np.asarray(array, jnp.dtype(dtype), order="C")
    return tensors


def _config_json(config: config_lib.T5Config, dtype: str) -> dict:
    feed_forward = {value: key for key, value in ACTIVATIONS.items()}
    if config.mlp_activations not in feed_forward:
        raise ValueError(
            f"mlp_activations={config.mlp_activations} cannot be written to config.json; expected "
            f"one of {sorted(feed_forward)}. Export the model in T5X's format."
        )
    kind = "umt5" if config.relative_attention_per_layer else "t5"
    return {
        "architectures": [f"{kind.upper()}ForConditionalGeneration"],
        "model_type": kind,
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.embed_dim,
        "num_heads": config.num_heads,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": feed_forward[config.mlp_activations],
        "dropout_rate": config.dropout_rate,
        # transformers 4 reads the first, for both; transformers 5 the second, of a model of any tying.
        "tie_word_embeddings": config.logits_via_embedding,
        "scale_decoder_outputs": config.scale_decoder_outputs,
        "relative_attention_num_buckets": config.relative_attention_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "torch_dtype": dtype,
    }


def is_transposed(path: str) -> bool:
    """Whether the tensor of a parameter is stored transposed."""
    return path.endswith(("/kernel", "/rel_embedding"))


def _transposed(leaf: lazy_arrays.LazyArray) -> lazy_arrays.LazyArray:
    return lazy_arrays.LazyArray(
        leaf.shape[::-1], leaf.dtype, leaf.chunk[::-1], lambda box: leaf.read(box[::-1]).T
    )


def _is_scaled(config: Mapping[str, Any]) -> bool:
    """Whether outputs of the decoder are divided by sqrt(D), as transformers 5 reads config.json.

    It writes tie_word_embeddings: true for all. No mT5 was trained scaled, and no public umT5.
    """
    is_scaled = config.get("scale_decoder_outputs")
    if is_scaled is None:
        return config["model_type"] == "t5" and config.get("tie_word_embeddings") is not False
    return is_scaled is True and config["model_type"] != "mt5"


def _is_tied(
    path: epath.Path,
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
    is_scaled: bool,
) -> bool:
    """Whether logits are computed with the token embedding: no other output layer is stored."""
    if tensor_names.LM_HEAD not in shapes or not shapes.keys() & set(tensor_names.EMBEDDINGS):
        return True
    if not is_scaled:
        return False
    with weight_files.opened(path) as stored:
        if tensor_names.is_copy(stored, tensor_names.LM_HEAD):
            return True
    if config.get("scale_decoder_outputs") is None:
        raise ValueError(
            f"{path}: {tensor_names.LM_HEAD} differs from the token embedding, but config.json "
            "says that they are tied, and not whether logits are scaled; expected "
            "scale_decoder_outputs in config.json. Add it: false for T5 1.1, Flan-T5 and models "
            "tuned from them, otherwise true."
        )
    return False
