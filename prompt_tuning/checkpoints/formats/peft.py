"""Adapters of Hugging Face PEFT: a folder of adapter_config.json and adapter_model.safetensors.

Facts about the format: `prompt_embeddings` of a prompt in a T5 has P rows for the encoder and, where
num_transformer_submodules is 2 (PEFT's default), P more for the decoder behind them, which nothing
uses. P-tuning stores what its prompt encoder gives, not the encoder. Tensors of IA3 and LoRA are named
by the module whose input or output they act on. A module of T5 has no bias, so what adapter_config.json
says of biases changes nothing. Prefix tuning is in `peft_prefix`, LoRA in `peft_lora`.

Nothing in a folder is trusted: two files of fixed names are read, and names, dtypes and shapes are
checked before values are. PEFT's pickled adapter_model.bin is not read.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jaxtyping import Float

from prompt_tuning.checkpoints import atomic
from prompt_tuning.checkpoints.formats import tensor_names, weight_files

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PROMPT_TUNING, P_TUNING, IA3, LORA = "PROMPT_TUNING", "P_TUNING", "IA3", "LORA"
PREFIX_TUNING = "PREFIX_TUNING"
PROMPTS = (PROMPT_TUNING, P_TUNING)
KINDS = (*PROMPTS, PREFIX_TUNING, IA3, LORA)
# Kinds that leave the model in the same folder as it is; transformers does not apply them.
BESIDE_MODEL = (*PROMPTS, PREFIX_TUNING)
TASK = "SEQ_2_SEQ_LM"
TABLE, PREFIX = "prompt_embeddings", "base_model.model."
DTYPES = ("F64", "F32", "F16", "BF16")
MERGE = (
    "Merge it with PEFT (merge_and_unload), save the model and set INITIAL_CHECKPOINT_PATH to it."
)
LARGEST_CONFIG = 2**20  # bytes
# Our factors -> kernels that they act on, and the side: of the outputs, or of the inputs. A factor of
# the queries is one of the keys, and one of what `out` mixes is one of the values. PEFT's own default
# is the first of each; of an mT5 it is wi_1, which is multiplied with the activation.
OUTPUTS, INPUTS = "outputs", "inputs"
SITES = {
    "key_scaling": (("key", OUTPUTS), ("query", OUTPUTS)),
    "value_scaling": (("value", OUTPUTS), ("out", INPUTS)),
    "scaling": (("wo", INPUTS), ("wi_1", OUTPUTS)),
}
Shapes = Mapping[str, tuple[int, ...]]


def is_adapter(path: epath.PathLike) -> bool:
    """Whether `path` is a folder with an adapter_config.json."""
    return (epath.Path(path) / CONFIG).exists()


def find_adapters(folder: epath.PathLike) -> list[epath.Path]:
    """Folders of adapters below a folder, at most two levels down: by name, or by checkpoint and name."""
    files = [
        file for depth in ("*", "*/*") for file in epath.Path(folder).glob(f"{depth}/{CONFIG}")
    ]
    return sorted(file.parent for file in files)


def kind(path: epath.PathLike) -> str:
    """PROMPT_TUNING, P_TUNING, PREFIX_TUNING, IA3 or LORA.

    Raises:
      ValueError: another method or task, or adapter_config.json is damaged.
    """
    return read_config(path)["peft_type"]


def read_prompt(path: epath.PathLike) -> Float[np.ndarray, "P D"]:
    """Reads the encoder's rows of a prompt, or of what a prompt encoder gave, as float32.

    Raises:
      FileNotFoundError: the weights are missing.
      ValueError: another method, or the table is not what adapter_config.json says.
    """
    config = read_config(path)
    if config["peft_type"] not in PROMPTS:
        raise ValueError(
            f"PROMPT_FILE {path} is a PEFT adapter of {config['peft_type']}; expected one of "
            f"{' or '.join(PROMPTS)}. Convert it with `prompt-tuning convert`, and use the result."
        )
    file = epath.Path(path) / CONFIG
    length, width = (
        weight_files.whole_number(file, config, name)
        for name in ("num_virtual_tokens", "token_dim")
    )
    stacks = weight_files.whole_number(file, config, "num_transformer_submodules", 2)
    with opened(path) as tensors:
        tensors.check_names({TABLE})
        return tensors.values(TABLE, (length * stacks, width))[:length]


def read_scaling(path: epath.PathLike, added: Shapes, kernels: Shapes) -> dict[str, np.ndarray]:
    """Reads IA3's factors as {path of the parameter: float32 array}, 1 where the adapter has none.

    Args:
      path: the folder.
      added: shapes of the factors, by their paths, as `methods.ia3` adds them.
      kernels: shapes [inputs, outputs] of the base's kernels.

    Raises: as `read_prompt`.
    """
    if saved := read_config(path).get("modules_to_save"):
        raise ValueError(
            f"{path}/{CONFIG} sets modules_to_save {weight_files.shown(saved)}; expected an IA3 "
            f"adapter without it. {MERGE}"
        )
    sites = {}
    for target in added:
        for kernel, side in _kernels(target):
            if kernel in kernels:
                size = kernels[kernel][side == OUTPUTS]
                name = f"{PREFIX}{module_of(kernel)}.ia3_l"
                sites[name] = target, ((size, 1) if side == OUTPUTS else (1, size))
    found = {target: np.ones(shape, np.float32) for target, shape in added.items()}
    with opened(path) as tensors:
        tensors.check_names(sites)
        for name in sorted(tensors.names):
            target, shape = sites[name]
            found[target] *= tensors.values(name, shape).reshape(added[target])
    return found


def save_prompt(
    path: epath.PathLike,
    prompt: Float[np.ndarray, "P D"],
    *,
    base_model: str | None,
    num_layers: int,
    num_heads: int,
) -> None:
    """Writes a prompt of an encoder as an adapter; the folder appears whole or not at all.

    Args:
      path: the folder to make.
      prompt: the table.
      base_model: name or folder of the model that it belongs to; PEFT's AutoPeftModel loads it.
      num_layers: of the model, which PEFT writes too and does not use.
      num_heads: likewise.

    Raises:
      FileExistsError: `path` exists.
    """
    settings = {
        "num_attention_heads": num_heads,
        "num_layers": num_layers,
        # Rows of the encoder only: PEFT adds as many for the decoder, and does not use them.
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(prompt),
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "token_dim": prompt.shape[1],
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }
    save(path, PROMPT_TUNING, base_model, settings, {TABLE: prompt})


def save_scaling(
    path: epath.PathLike, leaves: Mapping[str, np.ndarray], *, base_model: str | None
) -> None:
    """Writes IA3's factors as an adapter, in PEFT's default places; see `save_prompt`.

    Args:
      path: the folder to make.
      leaves: {path of the parameter: array}, all of `methods.ia3` and no others.
      base_model: as of `save_prompt`.
    """
    tensors = {}
    for target, factors in leaves.items():
        kernel, side = _kernels(target)[0]
        shape = (-1, 1) if side == OUTPUTS else (1, -1)
        tensors[f"{PREFIX}{module_of(kernel)}.ia3_l"] = factors.reshape(shape)
    settings = {
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "feedforward_modules": ["wo"],
        "init_ia3_weights": True,
        "target_modules": ["k", "v", "wo"],
    }
    save(path, IA3, base_model, settings, tensors)


def save(
    path: epath.PathLike,
    method: str,
    base_model: str | None,
    settings: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Writes an adapter of any kind; see `save_prompt`. `settings` are those of the method."""
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "modules_to_save": None,
        "peft_type": method,
        "revision": None,
        "task_type": TASK,
        **settings,
    }
    arrays = {name: np.ascontiguousarray(each, np.float32) for name, each in tensors.items()}
    with atomic.folder(path) as folder:
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / CONFIG).write_bytes(f"{text}\n".encode())
        (folder / WEIGHTS).write_bytes(safetensors.numpy.save(arrays, {"format": "pt"}))


def read_config(path: epath.PathLike) -> dict[str, Any]:
    """adapter_config.json, of a known method and task. Raises as `kind`."""
    file = epath.Path(path) / CONFIG
    if (size := file.stat().length) > LARGEST_CONFIG:
        raise ValueError(
            f"{file} has {size} bytes; expected at most {LARGEST_CONFIG}. Copy the adapter again."
        )
    config = weight_files.read_json(file)
    if config.get("peft_type") not in KINDS:
        raise ValueError(
            f"PROMPT_FILE {path} is a PEFT adapter of "
            f"{weight_files.shown(config.get('peft_type'))}; expected one of {', '.join(KINDS)}, "
            "the supported methods. Set PROMPT_FILE to another adapter."
        )
    tasks = (TASK, None) if config["peft_type"] in (IA3, LORA) else (TASK,)
    if config.get("task_type") not in tasks:
        raise ValueError(
            f"PROMPT_FILE {path} is a PEFT adapter for the task "
            f"{weight_files.shown(config.get('task_type'))}; expected {TASK}, the task of T5. Set "
            "PROMPT_FILE to another adapter."
        )
    return config


@contextlib.contextmanager
def opened(path: epath.PathLike) -> Iterator["Tensors"]:
    """The tensors of an adapter. Raises as `read_prompt`."""
    path = epath.Path(path)
    if not (path / WEIGHTS).exists():
        if (path / PICKLED).exists():
            raise ValueError(
                f"PROMPT_FILE {path} has its weights in {PICKLED}, which is pickled and is not "
                f"read; expected {WEIGHTS}. Load the adapter with PEFT, call "
                "save_pretrained(folder, safe_serialization=True) and set PROMPT_FILE to that "
                "folder."
            )
        raise FileNotFoundError(
            f"{path / WEIGHTS} does not exist; expected it in the same folder as {CONFIG}. Copy "
            "the adapter again, or set PROMPT_FILE to another."
        )
    with weight_files.local(path / WEIGHTS) as file:
        try:
            with safetensors.safe_open(file, framework="numpy") as tensors:
                yield Tensors(path / WEIGHTS, tensors)
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{path / WEIGHTS} is damaged ({error}); expected a safetensors file. Copy it "
                "again."
            ) from error


class Tensors:
    """Names and shapes of what is stored, and values of a shape that is expected."""

    def __init__(self, path: epath.Path, file: Any):
        """`file` is of safetensors; `path` is for messages."""
        self._path, self._file = path, file
        self.names = set(file.keys())

    def check_names(self, known: Collection[str]) -> None:
        """Raises ValueError where there are none, or others than `known`."""
        others = sorted(self.names - set(known))
        if others or not self.names:
            listed = ", ".join(map(weight_files.shown, others[:3])) or "no tensors"
            raise ValueError(
                f"{self._path} contains {listed}{' and more' if others[3:] else ''}; expected only "
                f"the method's tensors for this model, such as {min(known)}. Set the gin file of "
                "the adapter's base model. Other trained parameters, such as an embedding, are "
                "not supported: merge them with PEFT (merge_and_unload) and set "
                "INITIAL_CHECKPOINT_PATH to the result."
            )

    def rank(self, name: str) -> int:
        """The first of a tensor's sizes; 1 where there is none, which `values` reports."""
        shape = self._file.get_slice(name).get_shape() if name in self.names else ()
        return max(1, shape[0]) if shape else 1

    def values(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor as float32. Raises ValueError where it is not of finite floats of `shape`."""
        if name not in self.names:
            raise ValueError(
                f"{self._path} lacks {name}; expected a tensor for each module. Copy the adapter "
                "again."
            )
        part = self._file.get_slice(name)
        found, dtype = tuple(part.get_shape()), part.get_dtype()
        if found != shape or dtype not in DTYPES:
            raise ValueError(
                f"{self._path}: {name} is {dtype} {found}; expected floats {shape}, from {CONFIG} "
                "and the model. Set the gin file of the adapter's base model, or copy the adapter "
                "again."
            )
        with np.errstate(over="ignore"):  # of F64: infinite is said below
            values = self._file.get_tensor(name).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self._path} has NaN or infinite values in {name}; expected finite values. The "
                "run that wrote it diverged: set PROMPT_FILE to another adapter."
            )
        return values


def _kernels(target: str) -> list[tuple[str, str]]:
    """The kernels whose outputs or inputs a factor of ours scales, PEFT's default first."""
    place, name, _ = target.rsplit("/", 2)
    return [(f"{place}/{kernel}/kernel", side) for kernel, side in SITES[name]]


def module_of(kernel: str) -> str:
    return tensor_names.name_of(kernel).removesuffix(".weight")
