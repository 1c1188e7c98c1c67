"""Where gin files lie: those of this package, and in place of what they are read for others.

Files of the paper authors' repository are replaced by name, on the command line and in `include`.
Files of T5X train or answer with other weights or another method, so they are answered with advice.
"""

import difflib
import io
import os
import re
from collections.abc import Collection, Mapping, MutableMapping, Sequence

from prompt_tuning.cli import commands

AUTHORS_FOLDER = "prompt_tuning/configs/"
_SIZES = ("small", "base", "large", "xl", "xxl")
# Below AUTHORS_FOLDER -> files of this package, in order.
REPLACEMENTS: dict[str, tuple[str, ...]] = {
    "models/t5_1_1_prompt.gin": ("models/t5_1_1.gin",),
    "models/mt5_prompt.gin": ("models/mt5.gin",),
    **{f"models/t5_1_1_{size}_prompt.gin": (f"models/t5_1_1_{size}.gin",) for size in _SIZES},
    **{f"models/mt5_{size}_prompt.gin": (f"models/mt5_{size}.gin",) for size in _SIZES},
    **{f"models/sizes/{size}.gin": (f"models/sizes/{size}.gin",) for size in _SIZES},
    **{
        f"models/decoding/{name}.gin": (f"decoding/{name}.gin",)
        for name in ("beam_search", "nucleus_sampling")
    },
    **{
        f"prompts/{name}.gin": (f"prompts/{name}.gin",)
        for name in (
            "from_class_labels",
            "from_class_labels_numpy",
            "from_file",
            "from_sampled_vocab",
            "from_sampled_vocab_numpy",
        )
    },
    "runs/prompt_finetune.gin": ("runs/train.gin",),
    "runs/prompt_eval.gin": ("runs/eval.gin",),
    "runs/prompt_infer.gin": ("runs/infer.gin",),
    "extended/models/ia3_t5_1_1.gin": ("models/t5_1_1.gin", "prompts/ia3.gin"),
    "extended/models/t5_1_1_per_layer_prompt.gin": ("models/t5_1_1.gin", "prompts/per_layer.gin"),
    "extended/models/mt5_per_layer_prompt.gin": ("models/mt5.gin", "prompts/per_layer.gin"),
    "extended/models/wayward_t5_1_1_prompt.gin": ("models/t5_1_1.gin", "prompts/wayward.gin"),
    "extended/models/multi_task_t5_1_1_prompt.gin": ("models/t5_1_1.gin", "prompts/multi_task.gin"),
    **{
        f"extended/models/wayward_t5_1_1_{size}_prompt.gin": (
            f"models/t5_1_1_{size}.gin",
            "prompts/wayward.gin",
        )
        for size in ("base", "large")
    },
    **{
        f"extended/models/multi_task_t5_1_1_{size}_prompt.gin": (
            f"models/t5_1_1_{size}.gin",
            "prompts/multi_task.gin",
        )
        for size in _SIZES
    },
    "extended/runs/ia3_finetune.gin": ("runs/train.gin",),
    "extended/runs/multitask_prompt_finetune.gin": ("runs/train.gin",),
}
_ONE_OF_SIZES = "models/t5_1_1_base.gin or another size"
_PERCEPTRON = f"{_ONE_OF_SIZES}, and optimizers/perceptron.gin after runs/train.gin"
_FINE_TUNING = "runs/train.gin and optimizers/weights.gin, with --gin.PROMPT=None"
_NO_FACTORIZED = (
    "use prompts/multi_task.gin with another mode; factorized prompts are not supported"
)
_NO_CHECKPOINT = "use models/mt5_xxl.gin; there is no public mT5 checkpoint of this size"
# By file name: what is to be done, where files alone do not do it.
_ADVICE = {
    **{
        f"{name}.gin": _NO_CHECKPOINT
        for name in ("80b", "150b", "mt5_80b_prompt", "mt5_150b_prompt")
    },
    "t5_1_1_flaxformer.gin": f"use {_ONE_OF_SIZES}",
    "prompt_encoder_t5_1_1_flaxformer.gin": f"use {_ONE_OF_SIZES}",
    "ia3_t5_1_1_flaxformer.gin": f"use {_ONE_OF_SIZES}, and prompts/ia3.gin",
    "per_layer_prompt_encoder_t5_1_1_flaxformer.gin": f"use {_ONE_OF_SIZES}, and prompts/per_layer.gin",
    "perceptron_t5_1_1_prompt.gin": f"use {_PERCEPTRON}",
    "cross_entropy_t5_1_1_prompt.gin": f"use {_PERCEPTRON}, with --gin.LABEL_LOSS_KIND=\"'cross_entropy'\"",
    "multi_task_factorized_prompt_encoder_t5_1_1_flaxformer.gin": _NO_FACTORIZED,
    "multi_factorized_task_mt5_base_prompt.gin": _NO_FACTORIZED,
    "multitask_factorized_prompt_finetune.gin": _NO_FACTORIZED,
    **{
        f"{name}.gin": "use models/t5_mini.gin, the small model of this package"
        for name in (
            "load_multi_task_t5_1_1_tiny_prompt",
            "load_t5_1_1_tiny_prompt",
            "multi_task_t5_1_1_tiny_prompt",
            "t5_1_1_tiny",
            "t5_1_1_tiny_prompt",
            "train_multi_task_t5_1_1_tiny_prompt",
            "train_t5_1_1_tiny",
            "train_t5_1_1_tiny_prompt",
        )
    },
}
_T5X_RUNS = {
    "finetune.gin": f"use {_FINE_TUNING}",
    "pretrain.gin": "use runs/pretrain.gin",
    "eval.gin": "use runs/eval.gin",
    "infer.gin": "use runs/infer.gin",
    "infer_from_tfexample_file.gin": "use runs/infer.gin, with INFER_FILE, a TSV, CSV or JSONL file",
    "export.gin": "use runs/export.gin",
}


def replacement(path: str) -> tuple[str, ...]:
    """Files of this package in place of one of the paper authors'; () where there are none."""
    _, is_theirs, name = path.rpartition(AUTHORS_FOLDER)
    return REPLACEMENTS.get(name, ()) if is_theirs else ()


def reader_of_replaced(used: MutableMapping[str, tuple[str, ...]]):
    """gin's pair (open, exists) for files that are replaced; `used` gets them when they are read."""

    def open_replaced(path: str) -> io.StringIO:
        used[path] = replacement(path)
        return io.StringIO("".join(f"include '{file}'\n" for file in used[path]))

    return open_replaced, lambda path: bool(replacement(path))


def notes_of(used: Mapping[str, Sequence[str]]) -> list[str]:
    """What is logged of files that were replaced."""
    pairs = (f"{path} -> {' and '.join(files)}" for path, files in used.items())
    note = f"Replaced gin files: {', '.join(pairs)}. See docs/from_t5x.md for the differences."
    return [note] if used else []


def find(names: Sequence[str], folders: Sequence[str], shipped: Collection[str]) -> list[str]:
    """Paths of gin files, in the first folder that has them; files that are replaced as they are.

    Args:
      names: of --gin_file.
      folders: to look into, after the working directory.
      shipped: the files of this package.

    Raises:
      commands.UsageError: with all names that are in no folder, and what to use for each.
    """
    paths = {name: name if replacement(name) else _find(name, folders) for name in names}
    if missing := [name for name, path in paths.items() if path is None]:
        lines = [f"\n  --gin_file {name}: {_advice(name, shipped)}" for name in missing]
        raise commands.UsageError(
            f"gin files do not exist in any of {['.', *folders]}:{''.join(lines)}"
        )
    return [paths[name] for name in names]


def _find(name: str, folders: Sequence[str]) -> str | None:
    paths = (os.path.join(folder, name) for folder in ("", *folders))
    return next(filter(os.path.isfile, paths), None)


def _advice(name: str, shipped: Collection[str]) -> str:
    """What to use in place of a file that is in no folder."""
    folder, base = os.path.split(name)
    tail = name.rpartition("configs/")[2]
    if tail in REPLACEMENTS:
        return f"use {' and '.join(REPLACEMENTS[tail])}"
    if base in _ADVICE:
        return _ADVICE[base]
    if base in _T5X_RUNS and os.path.basename(folder) == "runs":
        return _T5X_RUNS[base]
    if example := re.search(r"t5/(byt5|mt5|t5_1_0|t5_1_1)/(\w+)\.gin$", name):
        model = f"models/{example[1]}_{example[2]}.gin"
        if model in shipped:
            return f"use {model}"
    short = os.path.join(os.path.basename(folder), base)
    nearest = difflib.get_close_matches(short, shipped, n=3)
    return f"did you mean: {', '.join(nearest)}?" if nearest else f"known: {', '.join(shipped)}"
