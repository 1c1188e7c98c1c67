"""T5 in Hugging Face's format: config.json, model.safetensors, tokenizer files.

Facts about the format: torch stores a kernel as [outputs, inputs]; an output layer
of its own (`lm_head.weight`) is present exactly when the logits are not tied. model_type
is "t5" for T5 1.0, 1.1, Flan-T5 and ByT5, "mt5" and "umt5" for these.
"""

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import leaves, weight_files, whole
from prompt_tuning.models import config as config_lib

STEP_KEY = "training_steps"
VOCABULARY = "spiece.model"
MOST_EXTRA_IDS = 10_000  # T5 has 100
ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
}
# Of a config.json that does not say.
FEED_FORWARD = {"t5": "relu", "mt5": "gated-gelu", "umt5": "gated-gelu"}
SIZES = {"vocab_size", "d_model", "num_heads", "d_kv", "d_ff", "num_layers"}
# Our path -> their name. [qkvo] is the first letter of query, key, value, out.
NAMES = (
    (r"token_embedder/embedding", "shared.weight"),
    (r"decoder/logits_dense/kernel", "lm_head.weight"),
    (
        r"(\w+)/relpos_bias/rel_embedding",
        r"\1.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (
        r"(\w+)/layers_(\d+)/relpos_bias/rel_embedding",
        r"\1.block.\2.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (r"(\w+)/\1_norm/scale", r"\1.final_layer_norm.weight"),
    (
        r"encoder/layers_(\d+)/attention/([qkvo])\w+/kernel",
        r"encoder.block.\1.layer.0.SelfAttention.\2.weight",
    ),
    (
        r"encoder/layers_(\d+)/mlp/(\w+)/kernel",
        r"encoder.block.\1.layer.1.DenseReluDense.\2.weight",
    ),
    (
        r"encoder/layers_(\d+)/pre_attention_layer_norm/scale",
        r"encoder.block.\1.layer.0.layer_norm.weight",
    ),
    (
        r"encoder/layers_(\d+)/pre_mlp_layer_norm/scale",
        r"encoder.block.\1.layer.1.layer_norm.weight",
    ),
    (
        r"decoder/layers_(\d+)/self_attention/([qkvo])\w+/kernel",
        r"decoder.block.\1.layer.0.SelfAttention.\2.weight",
    ),
    (
        r"decoder/layers_(\d+)/encoder_decoder_attention/([qkvo])\w+/kernel",
        r"decoder.block.\1.layer.1.EncDecAttention.\2.weight",
    ),
    (
        r"decoder/layers_(\d+)/mlp/(\w+)/kernel",
        r"decoder.block.\1.layer.2.DenseReluDense.\2.weight",
    ),
    (
        r"decoder/layers_(\d+)/pre_self_attention_layer_norm/scale",
        r"decoder.block.\1.layer.0.layer_norm.weight",
    ),
    (
        r"decoder/layers_(\d+)/pre_cross_attention_layer_norm/scale",
        r"decoder.block.\1.layer.1.layer_norm.weight",
    ),
    (
        r"decoder/layers_(\d+)/pre_mlp_layer_norm/scale",
        r"decoder.block.\1.layer.2.layer_norm.weight",
    ),
)
# Some files hold the token embedding under these names too.
EMBEDDING_COPIES = {
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.weight",
}
# In the first T5 1.0 files; no implementation ever used it.
UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def is_checkpoint(path: epath.PathLike) -> bool:
    """Whether `path` is a folder with a config.json."""
    return (epath.Path(path) / "config.json").exists()


def read_step(path: epath.PathLike) -> int | None:
    """The pre-training step, where this package wrote the checkpoint."""
    file = epath.Path(path) / "config.json"
    config = weight_files.read_json(file)
    told = config.get(STEP_KEY) is not None
    return weight_files.whole_number(file, config, STEP_KEY, least=0) if told else None


HOW_TO_RUN = {"dropout_rate", "dtype", "weights_dtype", "remat_policy"}


def read_config(path: epath.PathLike) -> config_lib.T5Config:
    """The network that config.json and the weights describe; how it is to be run is not told.

    Raises:
      ValueError: a model that is not a T5 or a variant that the network does not have.
    """
    path = epath.Path(path)
    config = weight_files.read_json(path / "config.json")
    kind = config.get("model_type")
    # As text: a list is no key.
    feed_forward = config.get("feed_forward_proj") or FEED_FORWARD.get(str(kind))
    if str(kind) not in FEED_FORWARD or str(feed_forward) not in ACTIVATIONS:
        raise ValueError(
            f"{path}/config.json has model_type {weight_files.shown(kind)} and feed_forward_proj "
            f"{weight_files.shown(feed_forward)}; supported are {', '.join(FEED_FORWARD)} with "
            f"{sorted(ACTIVATIONS)}: choose another INITIAL_CHECKPOINT_PATH"
        )
    if missing := SIZES - config.keys():
        raise ValueError(f"{path}/config.json lacks {sorted(missing)}; copy the model again")
    size = functools.partial(weight_files.whole_number, path / "config.json", config)
    layers = {name: size(name, size("num_layers")) for name in ("num_layers", "num_decoder_layers")}
    _check_layers(path, layers)
    return config_lib.T5Config(
        vocab_size=size("vocab_size"),
        embed_dim=size("d_model"),
        num_heads=size("num_heads"),
        head_dim=size("d_kv"),
        mlp_dim=size("d_ff"),
        num_encoder_layers=layers["num_layers"],
        num_decoder_layers=layers["num_decoder_layers"],
        mlp_activations=ACTIVATIONS[feed_forward],
        logits_via_embedding=_is_tied(path, config),
        relative_attention_buckets=size("relative_attention_num_buckets", 32),
        relative_attention_max_distance=size("relative_attention_max_distance", 128),
        relative_attention_per_layer=kind == "umt5",
        layer_norm_epsilon=_epsilon(path, config),
    )


def _check_layers(path: epath.Path, layers: Mapping[str, int]) -> None:
    """Before a network is traced, which takes long for many layers: each has weights."""
    tensors = len(weight_files.names(path))
    for name, count in layers.items():
        if count > tensors:
            raise ValueError(
                f"{path}/config.json has {name} {count}, but {tensors} tensors are stored; expected some "
                "of each layer: copy the model again"
            )


def _epsilon(path: epath.Path, config: Mapping[str, Any]) -> float:
    value = config.get("layer_norm_epsilon", 1e-6)
    if type(value) not in (int, float) or not 0 <= value < 1:  # NaN neither
        raise ValueError(
            f"{path}/config.json has layer_norm_epsilon {weight_files.shown(value)}; expected a number "
            "from 0 to 1: copy the model again"
        )
    return value


def read_tokenizer(path: epath.PathLike) -> tuple[str | None, int]:
    """The sentencepiece model of a folder, None where tokens are bytes; sentinels to append to it.

    Raises:
      FileNotFoundError: the folder has neither.
    """
    path = epath.Path(path)
    told: dict = {}
    for name in ("config.json", "tokenizer_config.json"):
        if (path / name).exists():
            told |= weight_files.read_json(path / name)
    if told.get("tokenizer_class") == "ByT5Tokenizer":
        # Its files name 125 sentinels; it was pre-trained with its last bytes as such.
        return None, 0
    if not (path / VOCABULARY).exists():
        raise FileNotFoundError(
            f"{path} has no {VOCABULARY}; expected the sentencepiece model beside config.json: copy "
            "it from where the model is from, or give vocabulary="
        )
    file = path / "tokenizer_config.json"
    extra_ids = weight_files.whole_number(file, told, "extra_ids", 100, least=0)
    if extra_ids > MOST_EXTRA_IDS:
        raise ValueError(
            f"{file} has extra_ids {extra_ids}; expected at most {MOST_EXTRA_IDS}: copy it again"
        )
    return str(path / VOCABULARY), extra_ids


def check_config(path: epath.PathLike, config: config_lib.T5Config) -> None:
    """Raises ValueError where config.json describes another network than `config`."""
    found = read_config(path)
    lines = [
        f"{field.name} is {have!r}, the model has {want!r}"
        for field in dataclasses.fields(config)
        if field.name not in HOW_TO_RUN
        and (have := getattr(found, field.name)) != (want := getattr(config, field.name))
    ]
    if lines:
        raise ValueError(
            f"{path}/config.json is of another model:\n  " + "\n  ".join(lines) + "\n"
            "INITIAL_CHECKPOINT_PATH and the model's gin file must name the same model"
        )


def load(
    path: epath.PathLike, abstract: params_lib.Tree, shardings: params_lib.Tree | None = None
) -> dict:
    """Reads the weights that `abstract` lists; see `leaves.load`.

    Args:
      path: folder with model.safetensors, or with its index and shards.
      abstract: nested dicts of jax.ShapeDtypeStruct in our names.
      shardings: where each goes; None for numpy arrays.

    Raises:
      ValueError: weights are missing, surplus, of another shape, or a file is damaged.
    """
    with opened(path, params_lib.flatten(abstract)) as found:
        return leaves.load(found, abstract, str(path), shardings)


@contextlib.contextmanager
def opened(path: epath.PathLike, names: Collection[str]) -> Iterator[dict[str, leaves.Leaf]]:
    """{path: leaf} of what is stored, in our names and orientation where it is of `names`.

    Copies of the embedding and what no implementation uses are left out.
    """
    ours = {their_name(name): name for name in names}
    with weight_files.opened(path) as stored:
        for name in EMBEDDING_COPIES - ours.keys():
            if _is_copy_of_embedding(stored, name):
                del stored[name]
        stored.pop(UNUSED, None)
        found = {ours.get(name, name): leaf for name, leaf in stored.items()}
        yield {
            name: _transposed(leaf) if _is_transposed(name) else leaf
            for name, leaf in found.items()
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
      vocabulary_file: sentencepiece model; None for bytes (ByT5).
      extra_ids: sentinels that the tokenizer adds.
      step: pre-training steps so far; `read_step` gives it back.
      dtype: of the stored weights.

    Raises:
      FileExistsError: `path` exists.
      ValueError: the format has no place for the network or its vocabulary.
    """
    special_ids = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    texts = {
        "config.json": _config_json(config, dtype) | special_ids | {STEP_KEY: step},
        "generation_config.json": special_ids,
        "tokenizer_config.json": {
            "tokenizer_class": "T5Tokenizer" if vocabulary_file else "ByT5Tokenizer",
            "extra_ids": extra_ids,
        },
    }
    files = {name: (json.dumps(text, indent=2) + "\n").encode() for name, text in texts.items()}
    check_vocabulary(vocabulary_file)
    if vocabulary_file:
        files[VOCABULARY] = epath.Path(vocabulary_file).read_bytes()
    tensors = _their_tensors(params, dtype)
    with whole.folder(path) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        content = safetensors.numpy.save(tensors, {"format": "pt"})
        (folder / weight_files.WEIGHTS).write_bytes(content)


def their_name(path: str) -> str:
    """The name of a parameter in this format. Raises ValueError where it has none."""
    for pattern, template in NAMES:
        if match := re.fullmatch(pattern, path):
            return match.expand(template)
    raise ValueError(f"parameter {path!r} has no place in a T5 of this format")


def check_vocabulary(path: epath.PathLike | None) -> None:
    """Raises ValueError where a sentencepiece model cannot be exported by `save`."""
    if path and b"<extra_id_0>" in epath.Path(path).read_bytes():
        raise ValueError(
            f"{path} holds its extra ids already; the exported tokenizer adds them: set "
            "VOCABULARY_FILE to the model without them, and EXTRA_IDS to their number"
        )


def _their_tensors(params: params_lib.Tree, dtype: str) -> dict[str, np.ndarray]:
    tensors = {}
    for name, leaf in params_lib.flatten(params).items():
        array = np.asarray(leaf)
        array = array.T if _is_transposed(name) else array
        tensors[their_name(name)] = np.asarray(array, jnp.dtype(dtype), order="C")
    return tensors


def _config_json(config: config_lib.T5Config, dtype: str) -> dict:
    feed_forward = {value: key for key, value in ACTIVATIONS.items()}
    if config.mlp_activations not in feed_forward:
        raise ValueError(
            f"mlp_activations {config.mlp_activations} has no name in this format; "
            f"it knows {sorted(feed_forward)}"
        )
    tied = config.logits_via_embedding
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
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
        "relative_attention_num_buckets": config.relative_attention_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "torch_dtype": dtype,
    }


def _is_transposed(path: str) -> bool:
    return path.endswith(("/kernel", "/rel_embedding"))


def _transposed(leaf: leaves.Leaf) -> leaves.Leaf:
    return leaves.Leaf(
        leaf.shape[::-1], leaf.dtype, leaf.chunk[::-1], lambda box: leaf.read(box[::-1]).T
    )


def _is_tied(path: epath.Path, config: dict) -> bool:
    """Tied exactly when no other lm_head is stored; config.json must agree on the scaling."""
    # transformers >= 5 writes tie_word_embeddings: true for all; no mT5 or umT5 was trained so.
    told = config["model_type"] == "t5" and config.get("tie_word_embeddings", True)
    scaled = config.get("scale_decoder_outputs", told)
    tied = "lm_head.weight" not in weight_files.names(path)
    if scaled and not tied:
        with weight_files.opened(path) as stored:
            tied = _is_copy_of_embedding(stored, "lm_head.weight")
    if tied != scaled:
        raise ValueError(
            f"{path}: lm_head.weight is {'absent' if tied else 'present'}, but by config.json "
            f"({config['model_type']}) logits are {'scaled' if scaled else 'not scaled'}; the "
            "network scales tied logits by 1/sqrt(D) and no others: mend scale_decoder_outputs "
            "in config.json or choose another INITIAL_CHECKPOINT_PATH"
        )
    return tied


def _is_copy_of_embedding(stored: dict[str, leaves.Leaf], name: str) -> bool:
    if not {name, "shared.weight"} <= stored.keys():
        return False
    one, other = stored[name], stored["shared.weight"]
    return one.shape == other.shape and all(
        np.array_equal(one.read(box), other.read(box)) for box in leaves.boxes(one)
    )
