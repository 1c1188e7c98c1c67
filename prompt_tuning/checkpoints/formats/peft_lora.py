"""PEFT's adapters of LoRA, which are merged into their base.

Facts about the format: `lora_A` [rank, inputs] and `lora_B` [outputs, rank] of each module; the change of
its weight is their product times alpha / rank. Keys of rank_pattern and alpha_pattern are regular
expressions for the end of a module's name; the first that matches counts. A module of modules_to_save is
stored completely, under its name in the base.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from prompt_tuning.checkpoints.formats import huggingface, peft, tensor_names, weight_files

LARGEST_ALPHA = 1e9
# Settings of LoRA that are followed, or that change no answer of a T5. Of any other, and of any
# other start, only PEFT knows what it makes of the weights.
SETTINGS = {
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config"),
    *("ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode"),
    *("init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha"),
    *("lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save"),
    *("peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision"),
    *("target_modules", "task_type", "use_rslora"),
}
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
# A regular expression of a hostile file may take for ever: of those with quantifiers few are matched.
MOST_QUANTIFIERS, MOST_PATTERNS = 4, 16


def merge(path: epath.PathLike, weights: dict[str, np.ndarray]) -> None:
    """Adds what a LoRA learned to the weights of its base, in place.

    Args:
      path: the folder.
      weights: {path of the parameter: array}, all of the base.

    Raises: as `peft.read_prompt`.
    """
    config = peft.read_config(path)
    _check(path, config)
    ranks, alphas = (_patterns(path, config, name) for name in ("rank_pattern", "alpha_pattern"))
    kernels = {peft.module_of(name): name for name in weights if name.endswith("/kernel")}
    with peft.opened(path) as tensors:
        pairs = {name for module in kernels for name in _pair(module)}
        saved = _saved_modules(path, config, weights, tensors.names - pairs)
        tensors.check_names(pairs | saved.keys())
        for name, target in saved.items():
            is_transposed, base = huggingface.is_transposed(target), weights[target]
            values = tensors.values(name, base.shape[::-1] if is_transposed else base.shape)
            weights[target] = (values.T if is_transposed else values).astype(base.dtype)
        for module, name in kernels.items():
            down, up = _pair(module)
            if not {down, up} & tensors.names:
                continue
            rank = tensors.rank(down)
            inputs, outputs = weights[name].shape
            change = tensors.values(up, (outputs, rank)) @ tensors.values(down, (rank, inputs))
            _check_rank(path, module, rank, _match(ranks, module, config.get("r")))
            alpha = _match(alphas, module, config.get("lora_alpha", 8))
            change *= np.float32(_scale(path, config, alpha, rank))
            weights[name] = (weights[name] + change.T).astype(weights[name].dtype)


def _pair(module: str) -> tuple[str, str]:
    """Names of the two matrices of a module, [rank, inputs] and [outputs, rank]."""
    return f"{peft.PREFIX}{module}.lora_A.weight", f"{peft.PREFIX}{module}.lora_B.weight"


def _check(path: epath.PathLike, config: Mapping[str, Any]) -> None:
    if others := sorted(name for name in config.keys() - SETTINGS if config[name]):
        raise ValueError(
            f"{path}/{peft.CONFIG} sets {', '.join(map(weight_files.shown, others[:3]))}, which "
            f"are not supported; expected a plain LoRA. {peft.MERGE}"
        )
    start = config.get("init_lora_weights")
    if start not in STARTS:
        raise ValueError(
            f"{path}/{peft.CONFIG} has init_lora_weights {weight_files.shown(start)}, which "
            f"changes the base model's weights; expected one of {STARTS}. {peft.MERGE}"
        )


def _saved_modules(
    path: epath.PathLike, config: Mapping[str, Any], weights: Mapping[str, Any], names: set[str]
) -> dict[str, str]:
    """{tensor: path of the parameter} of modules_to_save, which are no embeddings."""
    modules = config.get("modules_to_save")
    if not modules:
        return {}
    targets = {f"{peft.PREFIX}{tensor_names.name_of(target)}": target for target in weights}
    targets.pop(peft.PREFIX + tensor_names.EMBEDDINGS[0], None)
    if others := sorted(names - targets.keys()):
        raise ValueError(
            f"{path}/{peft.CONFIG} sets modules_to_save {weight_files.shown(modules)}, and "
            f"{weight_files.shown(others[0])} is stored; expected layers of this model, without "
            f"embeddings and without the output layer of a tied model. {peft.MERGE}"
        )
    return {name: targets[name] for name in names}


def _check_rank(path: epath.PathLike, module: str, rank: int, expected: Any) -> None:
    if expected not in (None, rank):
        raise ValueError(
            f"{path}/{peft.CONFIG} sets the rank of {module} to {weight_files.shown(expected)} (r, "
            f"rank_pattern), but its tensors have rank {rank}; expected the same rank. Copy the "
            "adapter again."
        )


def _scale(path: epath.PathLike, config: Mapping[str, Any], alpha: Any, rank: int) -> float:
    """What the product of a module's two matrices is multiplied with."""
    if type(alpha) not in (int, float) or not abs(alpha) < LARGEST_ALPHA:  # NaN neither
        raise ValueError(
            f"{path}/{peft.CONFIG} has lora_alpha {weight_files.shown(alpha)}; expected a finite "
            "number. Copy the adapter again."
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _patterns(
    path: epath.PathLike, config: Mapping[str, Any], setting: str
) -> list[tuple[re.Pattern, Any]]:
    """rank_pattern or alpha_pattern: for names of modules, as PEFT matches them."""
    values = config.get(setting) or {}
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}/{peft.CONFIG} has {setting} {weight_files.shown(values)}; expected {{pattern: "
            "number}}. Copy the adapter again."
        )
    unsafe = [pattern for pattern in values if not _is_safe(pattern)]
    unsafe += [pattern for pattern in values if _quantifiers(pattern)][MOST_PATTERNS:]
    if unsafe:
        raise ValueError(
            f"{path}/{peft.CONFIG} has the key {weight_files.shown(unsafe[0])} in {setting}; "
            f"expected module names, or at most {MOST_PATTERNS} regular expressions with at most "
            f"{MOST_QUANTIFIERS} quantifiers and without repeated groups and lookarounds. "
            f"{peft.MERGE}"
        )
    return [(re.compile(rf"(.*\.)?({pattern})$"), value) for pattern, value in values.items()]


def _match(patterns: Sequence[tuple[re.Pattern, Any]], module: str, default: Any) -> Any:
    """The value of the first pattern that matches a module's name."""
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _is_safe(pattern: str) -> bool:
    """Whether a pattern is one, and is matched with every name in a short time."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    plain = _plain(pattern)
    return not re.search(r"\)[*+{]|\(\?(?!:)", plain) and _quantifiers(pattern) <= MOST_QUANTIFIERS


def _quantifiers(pattern: str) -> int:
    return len(re.findall(r"[*+?{]", _plain(pattern).replace("(?:", "(")))


def _plain(pattern: str) -> str:
    """The pattern with a letter for each escape and each set of characters."""
    return re.sub(r"\\.|\[\^?\]?[^\]]*\]", "a", pattern, flags=re.DOTALL)
