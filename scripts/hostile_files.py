"""What fuzzing spoils: for each reader of files that others wrote, a small valid file and what reads it.

`try_content` is the judge: a spoiled file may be read, or be refused with a message of ours that names
it. Anything else is a finding. tests/hostile_files_test.py asks it about a few hundred files a reader,
scripts/fuzz.py about millions.
"""

import dataclasses
import functools
import gzip
import io
import json
import pathlib
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath
from flax import linen as nn
from flax import serialization

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
from prompt_tuning.data.files import (
    examples,
    glue_files,
    originals,
    question_files,
    super_glue_files,
    text_files,
)
from prompt_tuning.data.tokenizers import tokenizer_folder
from prompt_tuning.methods import prefix
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model

CONFIG = config_lib.T5Config(8, 4, 1, 4, 4, 1, 1)
RAISED = (ValueError, OSError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


@dataclasses.dataclass(frozen=True)
class Target:
    """A file that is spoiled.

    Attributes:
      file: its name in the folder.
      write: puts it and all that is read with it into a folder.
      read: reads all that is in the folder.
      unpack, pack: between the file's bytes and those that are spoiled, where a checksum or a
        compressor would hide the rest of the format behind it.
    """

    file: str
    write: Callable[[pathlib.Path], None]
    read: Callable[[pathlib.Path], Any]
    unpack: Callable[[bytes], bytes] = bytes
    pack: Callable[[bytes], bytes] = bytes


class Trial:
    """A target in a folder of its own."""

    def __init__(self, name: str, folder: pathlib.Path):
        """Writes the valid files."""
        self.target, self.folder = TARGETS[name], folder
        folder.mkdir(parents=True, exist_ok=True)
        self.target.write(folder)
        self.file = folder / self.target.file
        self.valid = self.target.unpack(self.file.read_bytes())
        self.target.read(folder)

    def try_content(self, content: bytes) -> str | None:
        """The message that refuses a spoiled file, None where it is read; AssertionError is a finding."""
        self.file.write_bytes(self.target.pack(content))
        try:
            self.target.read(self.folder)
        except RAISED as error:
            # Not a subclass such as JSONDecodeError, and not a library's own message.
            assert type(error) in RAISED and str(self.folder) in str(error), repr(error)[:300]
            return str(error)
        except Exception as error:
            raise AssertionError(f"not ours: {error!r}"[:300]) from error
        return None


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
    """A folder with tokenizer.json, and with each file that declares tokens."""
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
    """All that a command reads of a base model."""
    path = folder / "model"
    if tokenizer := base_model.tokenizer_folder(path):
        _read_tokenizer(tokenizer)
    base_model.check_config(path, CONFIG)
    base_model.load(path, _abstract())
    base_model.digest(path, _abstract())
    base_model.read_config(path)
    base_model.read_embedding(path)


def _read_settings(folder: pathlib.Path) -> None:
    """What a command reads of a Hugging Face folder before its weights."""
    _read_tokenizer(folder / "model")
    base_model.read_step(folder / "model")
    base_model.check_config(folder / "model", CONFIG)


def _read_weights(folder: pathlib.Path) -> None:
    weight_files.shapes(folder / "model")
    base_model.load(folder / "model", _abstract())


def _write_t5x(folder: pathlib.Path) -> None:
    """Vectors inside the index, matrices beside it."""
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


def _text(name: str, text: str) -> Callable[[pathlib.Path], None]:
    def write(folder: pathlib.Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        content = text.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    return write


def _read_rows(folder: pathlib.Path, name: str) -> None:
    examples.read_examples(
        str(folder / name),
        setting="TRAIN_FILE",
        input_template="a: {text}",
        target_column="label",
        prompt_column=None,
    )


def _original(name: str, text: str, read: Callable, features: dict, split: str, **more: Any):
    """A target of a data set's original file, read as a task does."""

    def go(folder: pathlib.Path) -> None:
        source = originals.Source("glue/sst2:2.0.0", read=read, features=features, splits=[split])
        list(source.in_folder(folder).get_dataset(split, shuffle=False).take(3))

    return Target(name, _text(name, text), go, **more)


def _glue(name: str, file: str, text: str) -> Target:
    features = glue_files.DATA_SETS[name].features
    return _original(file, text, functools.partial(glue_files.read, name), features, "train")


def _super_glue(name: str, row: dict) -> Target:
    features = super_glue_files.DATA_SETS[name].features
    read = functools.partial(super_glue_files.read, name)
    return _original("train.jsonl", json.dumps(row) + "\n", read, features, "train")


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
    """A file of safetensors with this header, and as much behind it as that says, if that is little."""
    ends = [int(end) for end in re.findall(rb",\s*(\d{1,4})\]", header)]
    return struct.pack("<Q", len(header)) + header + bytes(max(ends, default=0))


_SPANS = {"span1_text": "Tom", "span1_index": 0, "span2_text": "his", "span2_index": 2}
_QUESTION = {"question": "who", "idx": 0, "answers": [{"text": "b", "idx": 0, "label": 1}]}
_ENTITIES = {"text": "Ann won", "entities": [{"start": 0, "end": 2}]}
_SQUAD = {"id": "1", "question": "q", "answers": [{"text": "a", "answer_start": 0}]}
_ASKED = {"qid": "1", "question": "q", "answers": ["a"]}
_MRQA = [{"header": {"dataset": "DuoRC", "split": "train"}}, {"context": "c", "qas": [_ASKED]}]
_WHOLE = functools.partial(_read_prompt, name="p.npy")
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
    "npy": Target("p.npy", _write_npy, _WHOLE),
    "npz": Target("p.npz", _write_npz, functools.partial(_read_prompt, name="p.npz")),
    "npz member": Target(
        "p.npz", _write_npz, functools.partial(_read_prompt, name="p.npz"), _unzip, _zip
    ),
    "card": Target("p.json", _write_npz, functools.partial(_read_prompt, name="p.npz")),
    "TSV": Target(
        "a.tsv",
        _text("a.tsv", "text\tlabel\nx y\tgood\n"),
        functools.partial(_read_rows, name="a.tsv"),
    ),
    "quoted TSV": Target(
        "a.tsv",
        _text("a.tsv", 'text\tlabel\n"x ""y""\nz"\tgood\n"a\tb"\tbad\nc\tgood\n'),
        functools.partial(_read_rows, name="a.tsv"),
    ),
    "CSV": Target(
        "a.csv",
        _text("a.csv", 'text,label\n"x, y",good\n'),
        functools.partial(_read_rows, name="a.csv"),
    ),
    "JSONL": Target(
        "a.jsonl",
        _text(
            "a.jsonl",
            '{"text": "x", "label": 1}\n{"text": "é", "label": null}\n'.replace("null", "2"),
        ),
        functools.partial(_read_rows, name="a.jsonl"),
    ),
    "gzip": Target(
        "a.tsv.gz",
        _text("a.tsv.gz", "text\tlabel\nx y\tgood\n"),
        functools.partial(_read_rows, name="a.tsv.gz"),
    ),
    "GLUE TSV": _glue("sst2", "train.tsv", "sentence\tlabel\na film\t1\n"),
    "GLUE score": _glue("stsb", "train.tsv", "sentence1\tsentence2\tscore\na\tb\t2.5\n"),
    "GLUE JSON": _glue(
        "rte", "train.json", '{"0": {"text_a": "a", "text_b": "b", "label": "entailment"}}'
    ),
    "SuperGLUE": _super_glue(
        "wic",
        {
            **{"word": "a", "sentence1": "a b", "sentence2": "a c", "idx": 0, "label": True},
            **{"start1": 0, "start2": 0, "end1": 1, "end2": 1},
        },
    ),
    "MultiRC": _super_glue(
        "multirc", {"idx": 0, "passage": {"text": "t", "questions": [_QUESTION]}}
    ),
    "ReCoRD": _super_glue(
        "record",
        {
            "idx": 0,
            "passage": _ENTITIES,
            "qas": [{"query": "q", "idx": 1, "answers": [{"text": "a"}]}],
        },
    ),
    "WSC": _super_glue(
        "wsc.fixed", {"text": "Tom lost his hat", "target": _SPANS, "idx": 0, "label": True}
    ),
    "definite pronouns": _original(
        "train.c.txt",
        "Ann saw Bea as she ran.\nshe\nAnn,Bea\nAnn\n\n",
        super_glue_files.read_definite_pronouns,
        super_glue_files.DEFINITE_PRONOUN_FEATURES,
        "train",
    ),
    "SQuAD": _original(
        "train-v1.1.json",
        json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": [_SQUAD]}]}]}),
        question_files.read_squad,
        {**dict.fromkeys(("id", "question", "context"), "string"), "answers": {"text": ["string"]}},
        "train",
    ),
    "MRQA": _original(
        "train/DuoRC.jsonl",
        "".join(json.dumps(row) + "\n" for row in _MRQA),
        functools.partial(question_files.read_mrqa, name="DuoRC"),
        {**dict.fromkeys(("qid", "question", "context"), "string"), "answers": ["string"]},
        "train",
    ),
    "C4": _original(
        "c4-train.00000.json.gz",
        '{"text": "a b", "url": "u"}\n{"text": "c"}\n',
        text_files.read_c4,
        {"text": "string"},
        "train",
        unpack=gzip.decompress,
        pack=gzip.compress,
    ),
    "columns": _original(
        "train.jsonl",
        '{"text": "a", "label": 1}\n',
        functools.partial(
            text_files.read_columns,
            columns={"text": "string", "label": "int64"},
            label_names=("no", "yes"),
        ),
        {"text": "string", "label": "int64"},
        "train",
    ),
    "sentencepiece": Target("v.model", _write_vocabulary, _read_vocabulary),
}
