"""Trainable parameters per task and method (paper section 4, figure 4 and appendix table).

Each method is counted from the shapes in the parameter tree of a model.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from flax import linen as nn

from prompt_tuning import params as params_lib
from prompt_tuning.analysis import figures
from prompt_tuning.methods import combination, ia3, per_layer, prompt
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import reporting

Shapes = Mapping[str, tuple[int, ...]]
Counts = Mapping[int, Mapping[str, int]]
LENGTHS = (1, 5, 20, 50, 100, 150)
BANDS = ("prompt tuning", "prefix tuning")
CLASSES, BOTTLENECK, RANK, HIDDEN = 2, 64, 8, 512


def full(shapes: Shapes, _: int) -> int:
    """Full fine-tuning: all weights."""
    return sum(map(math.prod, shapes.values()))


def prefix_tuning(shapes: Shapes, length: int) -> int:
    """Li & Liang (2021), section 4.2: P keys and P values in each attention, P·J each; at inference.

    `methods.prefix`, as PEFT, has prefixes only in the decoder's self-attention.
    """
    return sum(length * shape[1] for shape in _kernels(shapes, "(key|value)"))


def prefix_tuning_in_training(shapes: Shapes, length: int) -> int:
    """Li & Liang (2021), section 4.3: P·D, and an MLP D → 512 → all keys and values of a token."""
    width, out = _width(shapes), prefix_tuning(shapes, 1)
    return length * width + (width + 1) * HIDDEN + (HIDDEN + 1) * out


def p_tuning(shapes: Shapes, length: int) -> int:
    """Liu et al. (2021), section 3.2: P·D, a two-layer bidirectional LSTM (D/2 each), two D × D layers.

    At inference only P·D remain. An LSTM of h units on D inputs has 4(Dh + h² + 2h).
    """
    width = _width(shapes)
    half = width // 2
    lstm = 2 * 2 * 4 * (width * half + half * half + 2 * half)
    return length * width + lstm + 2 * (width + 1) * width


def warp(shapes: Shapes, length: int) -> int:
    """Hambardzumyan et al. (2021), section 3: P vectors in the input and one per class (2)."""
    return (length + CLASSES) * _width(shapes)


def adapters(shapes: Shapes, _: int) -> int:
    """Houlsby et al. (2019), section 2.1: 2·D·m + m + D after each self-attention and MLP, m = 64."""
    norms = r".*/(pre_attention|pre_self_attention|pre_mlp)_layer_norm/scale"
    sublayers = [path for path in shapes if re.fullmatch(norms, path)]
    width = _width(shapes)
    return len(sublayers) * (2 * width * BOTTLENECK + BOTTLENECK + width)


def low_rank(shapes: Shapes, _: int) -> int:
    """LoRA, Hu et al. (2022), section 4: r·(in + out) per query and value kernel, r = 8."""
    return sum(RANK * sum(shape) for shape in _kernels(shapes, "(query|value)"))


def _kernels(shapes: Shapes, names: str) -> list[tuple[int, ...]]:
    pattern = rf".*attention/{names}/kernel"
    return [shape for path, shape in shapes.items() if re.fullmatch(pattern, path)]


def _width(shapes: Shapes) -> int:
    return shapes[model_lib.EncoderDecoderModel.EMBEDDING_PATH][1]


# Methods that this package does not implement, as functions of shapes and prompt length.
FORMULAS: Mapping[str, Callable[[Shapes, int], int]] = {
    "WARP": warp,
    "P-tuning, in training": p_tuning,
    "prefix tuning": prefix_tuning,
    "prefix tuning, in training": prefix_tuning_in_training,
    "LoRA": low_rank,
    "adapters": adapters,
    "full fine-tuning": full,
}


def counts(model: model_lib.EncoderDecoderModel, lengths: Sequence[int]) -> Counts:
    """Returns {length: {method: trainable parameters per task}}."""
    flat = params_lib.flatten(nn.unbox(model.abstract_params()))
    shapes = {path: leaf.shape for path, leaf in flat.items() if path not in model.adapter_paths}
    return {length: _count(model.config, shapes, length) for length in lengths}


def _count(config: config_lib.T5Config, shapes: Shapes, length: int) -> dict[str, int]:
    single = prompt.Prompt(length)
    methods = {
        "prompt tuning": single,
        "per-layer prompts (deep prompts)": combination.combine(
            [single, per_layer.LayerPrompt(length)]
        ),
        "IA3": ia3.IA3(),
    }
    implemented = {name: method.count(config, shapes) for name, method in methods.items()}
    return implemented | {name: count(shapes, length) for name, count in FORMULAS.items()}


def parameters(
    *,
    models: Mapping[str, model_lib.EncoderDecoderModel],
    lengths: Sequence[int] = LENGTHS,
    output_dir: str | None = None,
) -> dict[str, Any]:
    """`prompt-tuning parameters`: prints trainable parameters by method, size and length.

    Args:
      models: {size: network}.
      lengths: prompt lengths; the second table and the plot show the last but one.
      output_dir: OUTPUT_DIR for parameters.json and parameters.png (figure 4); None to write nothing.

    Returns:
      {size: {length: {method: parameters}}}.
    """
    table = {size: counts(model, lengths) for size, model in models.items()}
    print(reporting.table(_by_length(table)))
    print()
    print(reporting.table(_by_method(table, lengths[-2:][0])))
    if output_dir is not None:
        folder = epath.Path(output_dir)
        reporting.write_text(folder / "parameters.json", json.dumps(table, indent=2) + "\n")
        plot(table, folder / "parameters.png")
    return table


def _by_length(table: Mapping[str, Counts]) -> list[list[str]]:
    rows = [["size", "prompt length", "trained", "total", "% trained"]]
    for size, by_length in table.items():
        for length, methods in by_length.items():
            trained = methods["prompt tuning"]
            total = methods["full fine-tuning"] + trained
            share = f"{100 * trained / total:.5f}"
            rows.append([size, str(length), f"{trained:,}", f"{total:,}", share])
    return rows


def _by_method(table: Mapping[str, Counts], length: int) -> list[list[str]]:
    columns = {size: by_length[length] for size, by_length in table.items()}
    rows = [[f"trained, length {length}", *columns]]
    for method in next(iter(columns.values())):
        rows.append([method, *(f"{methods[method]:,}" for methods in columns.values())])
    return rows


def plot(table: Mapping[str, Counts], path: epath.PathLike) -> None:
    """Plots trainable parameters as a share of the model's size, as in the paper's figure 4."""
    lengths = list(next(iter(table.values())))
    sizes = [next(iter(x.values()))["full fine-tuning"] for x in table.values()]

    def shares(method: str, length: int) -> list[float]:
        pairs = zip(table.values(), sizes, strict=True)
        return [100 * x[length][method] / size for x, size in pairs]

    shown = lengths[-2:][0]
    title = f"prompt length {shown}; bands: {lengths[0]} to {lengths[-1]}"
    with figures.figure(path, "model", "trainable parameters, % of the model", title) as axes:
        methods = next(iter(table.values()))[shown]
        for number, method in enumerate(methods):
            style = figures.style(number)
            axes.plot(
                sizes, shares(method, shown), label=method, zorder=len(methods) - number, **style
            )
            if method in BANDS:
                ends = shares(method, lengths[0]), shares(method, lengths[-1])
                axes.fill_between(sizes, *ends, alpha=0.15, color=style["color"])
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(sizes, list(table))
        axes.minorticks_off()
        figures.legend(axes)
