"""How many parameters a task costs, by method (paper section 4, figure 4 and appendix table).

Each method is counted on the parameter tree of a real model, by the shapes of its kernels.
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
    """Full fine-tuning: every weight."""
    return sum(map(math.prod, shapes.values()))


def prefix_tuning(shapes: Shapes, length: int) -> int:
    """Li & Liang (2021), section 4.2: P keys and P values in each attention, P·J each; when used.

    `methods.prefix`, as PEFT, has those of the decoder's self-attention only: a third where stacks are equal.
    """
    return sum(length * shape[1] for shape in _kernels(shapes, "(key|value)"))


def prefix_tuning_in_training(shapes: Shapes, length: int) -> int:
    """Li & Liang (2021), section 4.3: P·D, and a network D → 512 → all keys and values of a token."""
    width, out = _width(shapes), prefix_tuning(shapes, 1)
    return length * width + (width + 1) * HIDDEN + (HIDDEN + 1) * out


def p_tuning(shapes: Shapes, length: int) -> int:
    """Liu et al. (2021), section 3.2: P·D, a two-layer LSTM of both directions (D/2 each), two D × D layers.

    When used P·D are left. An LSTM of h units on D inputs has 4(Dh + h² + 2h).
    """
    width = _width(shapes)
    half = width // 2
    lstm = 2 * 2 * 4 * (width * half + half * half + 2 * half)
    return length * width + lstm + 2 * (width + 1) * width


def warp(shapes: Shapes, length: int) -> int:
    """Hambardzumyan et al. (2021), section 3: P vectors in the input and one for each of 2 classes."""
    return (length + CLASSES) * _width(shapes)


def adapters(shapes: Shapes, _: int) -> int:
    """Houlsby et al. (2019), section 2.1: 2·D·m + m + D behind each self-attention and feed-forward, m 64."""
    parts = r".*/(pre_attention|pre_self_attention|pre_mlp)_layer_norm/scale"
    places = [path for path in shapes if re.fullmatch(parts, path)]
    width = _width(shapes)
    return len(places) * (2 * width * BOTTLENECK + BOTTLENECK + width)


def low_rank(shapes: Shapes, _: int) -> int:
    """LoRA, Hu et al. (2022), section 4: r·(in + out) for each query and value kernel, r 8."""
    return sum(RANK * sum(shape) for shape in _kernels(shapes, "(query|value)"))


def _kernels(shapes: Shapes, names: str) -> list[tuple[int, ...]]:
    pattern = rf".*attention/{names}/kernel"
    return [shape for path, shape in shapes.items() if re.fullmatch(pattern, path)]


def _width(shapes: Shapes) -> int:
    return shapes[model_lib.EncoderDecoderModel.EMBEDDING_PATH][1]


# Methods of the literature that this package does not have, by shapes and prompt length; the last
# ones do not depend on the length.
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
    """{length: {method: parameters of a task}}."""
    flat = params_lib.flatten(nn.unbox(model.abstract_params()))
    shapes = {path: leaf.shape for path, leaf in flat.items() if path not in model.adapter_paths}
    return {length: _count(model.config, shapes, length) for length in lengths}


def _count(config: config_lib.T5Config, shapes: Shapes, length: int) -> dict[str, int]:
    one = prompt.Prompt(length)
    methods = {
        "prompt tuning": one,
        "per-layer prompts (deep prompts)": combination.combine(
            [one, per_layer.LayerPrompt(length)]
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
    """`prompt-tuning parameters`: what a task costs, by method, size and length.

    Args:
      models: {size: network}.
      lengths: prompt lengths; the first table has them all, the second the one before the last.
      output_dir: OUTPUT_DIR for parameters.json and parameters.png (figure 4); None writes nothing.

    Returns:
      {size: {length: {method: parameters}}}.
    """
    found = {size: counts(model, lengths) for size, model in models.items()}
    print(reporting.table(_by_length(found)))
    print()
    print(reporting.table(_by_method(found, lengths[-2:][0])))
    if output_dir is not None:
        folder = epath.Path(output_dir)
        reporting.write_text(folder / "parameters.json", json.dumps(found, indent=2) + "\n")
        plot(found, folder / "parameters.png")
    return found


def _by_length(found: Mapping[str, Counts]) -> list[list[str]]:
    rows = [["size", "prompt length", "trained", "total", "% trained"]]
    for size, of_lengths in found.items():
        for length, methods in of_lengths.items():
            trained = methods["prompt tuning"]
            total = methods["full fine-tuning"] + trained
            share = f"{100 * trained / total:.5f}"
            rows.append([size, str(length), f"{trained:,}", f"{total:,}", share])
    return rows


def _by_method(found: Mapping[str, Counts], length: int) -> list[list[str]]:
    columns = {size: of_lengths[length] for size, of_lengths in found.items()}
    rows = [[f"trained, length {length}", *columns]]
    for method in next(iter(columns.values())):
        rows.append([method, *(f"{methods[method]:,}" for methods in columns.values())])
    return rows


def plot(found: Mapping[str, Counts], path: epath.PathLike) -> None:
    """Share of a model that a task costs against the model's size, as the paper's figure 4."""
    lengths = list(next(iter(found.values())))
    sizes = [next(iter(of.values()))["full fine-tuning"] for of in found.values()]

    def shares(method: str, length: int) -> list[float]:
        pairs = zip(found.values(), sizes, strict=True)
        return [100 * of[length][method] / size for of, size in pairs]

    shown = lengths[-2:][0]
    title = f"prompt length {shown}; bands: {lengths[0]} to {lengths[-1]}"
    with figures.figure(path, "model", "parameters of a task, % of the model's", title) as axes:
        methods = next(iter(found.values()))[shown]
        for number, method in enumerate(methods):
            look = figures.style(number)
            axes.plot(
                sizes, shares(method, shown), label=method, zorder=len(methods) - number, **look
            )
            if method in BANDS:
                ends = shares(method, lengths[0]), shares(method, lengths[-1])
                axes.fill_between(sizes, *ends, alpha=0.15, color=look["color"])
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(sizes, list(found))
        axes.minorticks_off()
        figures.legend(axes)
