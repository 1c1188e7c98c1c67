"""Readers of models, adapters, prompts and vocabularies, for scripts/hostile_files.py."""

import functools
import gzip
import io
import json
import pathlib
import re
import struct
import zipfile
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath
from flax import linen as nn
from flax import serialization
from hostile_files import Target

from prompt_tuning import assets, params
from prompt_tuning.checkpoints import base_model, lazy_arrays, prompt_files, prompt_paths
from prompt_tuning.checkpoints.formats import (
    huggingface,
    orbax,
    peft,
    peft_lora,
    peft_prefix,
    t5x,
    weight_files,
)
from prompt_tuning.data import vocabularies
from prompt_tuning.data.tokenizers import tokenizer_folder
from prompt_tuning.methods import prefix
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model

CONFIG = config_lib.T5Config(8, 4, 1, 4, 4, 1, 1)


@functools.cache
def _abstract() -> dict:
    return nn.unbox(model.EncoderDecoderModel(CONFIG).abstract_params())


def _stored() -> dict[str, lazy_arrays.LazyArray]:
    flat = params.flatten(_abstract())
    return {name: lazy_arrays.from_numpy(np.ones(x.shape, np.float32)) for name, x in flat.items()}


def _write_huggingface(folder: pathlib.Path) -> None:
    tree = jax.tree.map(lambda x: np.ones(x.shape, np.float32), _abstract())
    huggingface.save(folder / "model", tree, CONFIG, vocabulary_file=None, step=3, dtype="float32")


def _write_sharded(folder: pathlib.Path) -> None:
    _write_huggingface(folder)
    (folder / "model" / weight_files.WEIGHTS).rename(folder / "model" / "a.safetensors")
    names = weight_files._header(epath.Path(folder / "model" / "a.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(sorted(names), "a.safetensors")}
    (folder / "model" / weight_files.INDEX).write_text(json.dumps(index))


def _write_tokenizer(folder: pathlib.Path) -> None:
    """Writes a folder with tokenizer.json and all files that declare tokens."""
    flags = {name: False for name in ("lstrip", "rstrip", "single_word", "normalized")}
    special = [{"content": text, "special": True} | flags for text in ("<pad>", "</s>", "<unk>")]
    model = {
        "type": "Unigram",
        "unk_id": 2,
        "vocab": [[x["content"], 0.0] for x in special]
        + [["▁a", -1.0], ["b", -2.0], ["<extra_id_0>", 0.0]],
    }
    added = [{"id": i} | token for i, token in enumerate(special)]
    texts = {
        tokenizer_folder.TOKENIZER: {
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": []},
            "model": model,
        },
        tokenizer_folder.CONFIG: {
            "extra_ids": 1,
            "added_tokens_decoder": {"6": {"content": "new", "special": False} | flags},
            "additional_special_tokens": ["<extra_id_0>"],
        },
        tokenizer_folder.SPECIAL_TOKENS: {"eos_token": {"content": "</s>"} | flags},
        tokenizer_folder.ADDED_TOKENS: {"new": 6},
    }
    (folder / "model").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "model" / name).write_text(json.dumps(text))


def _read_tokenizer(path: epath.PathLike) -> None:
    vocabulary = vocabularies.load(path)
    ids = vocabulary.encode("a new ﬁlm <extra_id_0>")
    vocabulary.decode([*ids, 0, 2, 3, 10**6])
    vocabulary.piece(vocabulary.size - 1)


def _read_model(folder: pathlib.Path) -> None:
    """Reads everything that a command reads of a base model."""
    path = folder / "model"
    if tokenizer := base_model.tokenizer_folder(path):
        _read_tokenizer(tokenizer)
    base_model.check_config(path, CONFIG)
    base_model.load(path, _abstract())
    base_model.digest(path, _abstract())
    base_model.read_config(path)
    base_model.read_embedding(path)


def _read_settings(folder: pathlib.Path) -> None:
    """Reads what a command reads of a Hugging Face folder before the weights."""
    _read_tokenizer(folder / "model")
    base_model.read_step(folder / "model")
    base_model.check_config(folder / "model", CONFIG)


def _read_weights(folder: pathlib.Path) -> None:
    weight_files.shapes(folder / "model")
    base_model.load(folder / "model", _abstract())


def _write_t5x(folder: pathlib.Path) -> None:
    """Writes vectors in the index, and matrices in separate files."""
    t5x.save(folder / "model", _stored(), step=3, dtype="float32")
    file = folder / "model" / "checkpoint"
    index = serialization.msgpack_restore(file.read_bytes())
    target = index["optimizer"]["target"]
    target["encoder"]["encoder_norm"]["scale"] = np.ones(4, np.float32)
    file.write_bytes(serialization.msgpack_serialize(index))


def _write_orbax(folder: pathlib.Path) -> None:
    path = folder / "model"
    (path / orbax.DATABASE).mkdir(parents=True)
    (path / orbax.METADATA).write_text(json.dumps({"commit_timestamp_nsecs": 1}))
    stored = {f"target.{name.replace('/', '.')}": leaf for name, leaf in _stored().items()}
    stored[orbax.STEP] = lazy_arrays.from_numpy(np.asarray(3, np.int32))
    for name, leaf in stored.items():
        metadata = {
            "shape": list(leaf.shape),
            "chunks": [max(1, size) for size in leaf.shape],
            "dtype": leaf.dtype.str,
            "compressor": {"id": "zstd", "level": 1},
        }
        spec = {"driver": "zarr", "kvstore": orbax.kvstore(path, name), "metadata": metadata}
        values = leaf.read(tuple(slice(0, size) for size in leaf.shape))
        tensorstore.open(spec, create=True).result().write(values).result()


def _write_adapter(folder: pathlib.Path, method: str, tensors: dict, **settings: Any) -> None:
    arrays = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
    peft.save(folder / "adapter", method, None, settings, arrays)


_write_prompt_adapter = functools.partial(
    _write_adapter,
    method=peft.PROMPT_TUNING,
    tensors={peft.TABLE: (2, 4)},
    num_virtual_tokens=2,
    token_dim=4,
    num_transformer_submodules=1,
)
_LORA = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_"
_write_lora = functools.partial(
    _write_adapter,
    method=peft.LORA,
    tensors={f"{_LORA}A.weight": (2, 4), f"{_LORA}B.weight": (4, 2)},
    r=2,
    lora_alpha=4,
    alpha_pattern={"q": 3},
)
_SCALING = {"encoder/layers_0/mlp/scaling/scale": (4,)}
_write_ia3 = functools.partial(
    _write_adapter,
    method=peft.IA3,
    tensors={"base_model.model.encoder.block.0.layer.1.DenseReluDense.wo.ia3_l": (1, 4)},
)


_PREFIX = {
    prefix.path_of(0, part): np.ones((2, CONFIG.num_heads, CONFIG.head_dim), np.float32)
    for part in prefix.PARTS
}


def _write_prefix(folder: pathlib.Path) -> None:
    peft_prefix.save(folder / "adapter", _PREFIX, base_model=None)


def _read_prefix(folder: pathlib.Path) -> None:
    peft.kind(folder / "adapter")
    peft_prefix.read(folder / "adapter", CONFIG)


def _read_ia3(folder: pathlib.Path) -> None:
    kernels = {n: x.shape for n, x in params.flatten(_abstract()).items() if n.endswith("kernel")}
    peft.kind(folder / "adapter")
    peft.read_scaling(folder / "adapter", _SCALING, kernels)


def _read_lora(folder: pathlib.Path) -> None:
    weights = {
        name: np.ones(x.shape, np.float32) for name, x in params.flatten(_abstract()).items()
    }
    peft_lora.merge(folder / "adapter", weights)


def _write_npy(folder: pathlib.Path) -> None:
    prompt_files.save(folder / "p.npy", np.ones((2, 4), np.float32), _CARD)


def _write_npz(folder: pathlib.Path) -> None:
    prompt_files.save_leaves(folder / "p.npz", {"encoder/prompt": np.ones((2, 4))}, _CARD)


_CARD = {"step": 3, "length": 2, "place": [0, 2], "base_model_digest": "0123", "task": "t"}


def _read_prompt(folder: pathlib.Path, name: str) -> None:
    path = folder / name
    prompt_paths.check_places([path])
    prompt_paths.step_of(path)
    prompt_files.initializer(path)
    prompt_files.length(path)


def _write_vocabulary(folder: pathlib.Path) -> None:
    (folder / "v.model").write_bytes(pathlib.Path(assets.path("t5_mini/spiece.model")).read_bytes())


def _read_vocabulary(folder: pathlib.Path) -> None:
    vocabulary = vocabularies.SentencePiece(str(folder / "v.model"), extra_ids=3)
    ids = vocabulary.encode("The ﬁlm was ½ Good, <extra_id_1> naïve ① \u3000 東京 ㌔ ")
    vocabulary.decode([*ids, 0, 2, 3, 10**6])
    for number in range(0, vocabulary.size, 997):
        vocabulary.piece(number)


def _zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("encoder/prompt.npy", content)
    return buffer.getvalue()


def _unzip(content: bytes) -> bytes:
    return zipfile.ZipFile(io.BytesIO(content)).read("encoder/prompt.npy")


def _header(content: bytes) -> bytes:
    return content[8 : 8 + struct.unpack("<Q", content[:8])[0]]


def _with_header(header: bytes) -> bytes:
    """Returns a safetensors file with this header, and data of the size that it declares, if small."""
    ends = [int(end) for end in re.findall(rb",\s*(\d{1,4})\]", header)]
    return struct.pack("<Q", len(header)) + header + bytes(max(ends, default=0))


_ADAPTER = functools.partial(_read_prompt, name="adapter")
_KERNEL = "model/target.encoder.layers_0.mlp.wo.kernel/"

TARGETS = {
    "safetensors": Target("model/model.safetensors", _write_huggingface, _read_weights),
    "safetensors header": Target(
        "model/model.safetensors", _write_huggingface, _read_weights, _header, _with_header
    ),
    "Hugging Face index": Target(f"model/{weight_files.INDEX}", _write_sharded, _read_weights),
    "config.json": Target("model/config.json", _write_huggingface, _read_settings),
    "tokenizer_config.json": Target("model/tokenizer_config.json", _write_huggingface, _read_model),
    **{
        f"tokenizer: {name}": Target(
            f"model/{name}", _write_tokenizer, lambda folder: _read_tokenizer(folder / "model")
        )
        for name in (
            tokenizer_folder.TOKENIZER,
            tokenizer_folder.CONFIG,
            tokenizer_folder.SPECIAL_TOKENS,
            tokenizer_folder.ADDED_TOKENS,
        )
    },
    "T5X index": Target("model/checkpoint", _write_t5x, _read_model),
    "zarr metadata": Target(f"{_KERNEL}.zarray", _write_t5x, _read_model),
    "zarr chunk": Target(f"{_KERNEL}0.0", _write_t5x, _read_model),
    "zarr values": Target(f"{_KERNEL}0.0", _write_t5x, _read_model, gzip.decompress, gzip.compress),
    "Orbax metadata": Target(f"model/{orbax.METADATA}", _write_orbax, _read_model),
    "OCDBT manifest": Target("model/state/manifest.ocdbt", _write_orbax, _read_model),
    "PEFT config": Target(f"adapter/{peft.CONFIG}", _write_prompt_adapter, _ADAPTER),
    "PEFT prompt": Target(f"adapter/{peft.WEIGHTS}", _write_prompt_adapter, _ADAPTER),
    "PEFT LoRA config": Target(f"adapter/{peft.CONFIG}", _write_lora, _read_lora),
    "PEFT LoRA": Target(f"adapter/{peft.WEIGHTS}", _write_lora, _read_lora, _header, _with_header),
    "PEFT IA3": Target(f"adapter/{peft.WEIGHTS}", _write_ia3, _read_ia3),
    "PEFT prefix config": Target(f"adapter/{peft.CONFIG}", _write_prefix, _read_prefix),
    "PEFT prefix": Target(
        f"adapter/{peft.WEIGHTS}", _write_prefix, _read_prefix, _header, _with_header
    ),
    "npy": Target("p.npy", _write_npy, functools.partial(_read_prompt, name="p.npy")),
    "npz": Target("p.npz", _write_npz, functools.partial(_read_prompt, name="p.npz")),
    "npz member": Target(
        "p.npz", _write_npz, functools.partial(_read_prompt, name="p.npz"), _unzip, _zip
    ),
    "card": Target("p.json", _write_npz, functools.partial(_read_prompt, name="p.npz")),
    "sentencepiece": Target("v.model", _write_vocabulary, _read_vocabulary),
}
