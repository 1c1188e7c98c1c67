"""What a run would hold in memory and on disk, without allocating a weight."""

import json
from collections.abc import Callable, Sequence

import jax
import optax
from flax import linen as nn

from prompt_tuning import optimizers
from prompt_tuning import params as params_lib
from prompt_tuning.models import model as model_lib
from prompt_tuning.runtime import reporting


def describe(
    *,
    model: model_lib.EncoderDecoderModel,
    trainable: Sequence[str],
    optimizer: Callable[..., optax.GradientTransformation],
    as_json: bool = False,
) -> dict[str, float]:
    """`prompt-tuning describe`: prints counts and bytes of a model and of training it.

    Returns:
      {"total_params", "trainable_params", "percent_trainable", "weights_bytes",
      "optimizer_bytes", "checkpoint_bytes"}; bytes in the dtypes held while training.
    """
    params = nn.unbox(model.abstract_params())
    tuned, _ = params_lib.split(params, trainable)
    tuner = optimizers.for_trainable(optimizer(start_step=0), tuple(trainable))
    slots = jax.tree.leaves(jax.eval_shape(tuner.init, tuned))
    optimizer_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in slots)
    facts = {
        "total_params": params_lib.count(params),
        "trainable_params": params_lib.count(tuned),
        "percent_trainable": 100 * params_lib.count(tuned) / params_lib.count(params),
        "weights_bytes": params_lib.size_in_bytes(params),
        "optimizer_bytes": optimizer_bytes,
        "checkpoint_bytes": params_lib.size_in_bytes(tuned) + optimizer_bytes,
    }
    print(json.dumps(facts) if as_json else _table(facts))
    return facts


def _table(facts: dict[str, float]) -> str:
    return reporting.table(
        [
            ("total parameters", f"{facts['total_params']:,}"),
            ("trainable parameters", f"{facts['trainable_params']:,}"),
            ("percent trainable", f"{facts['percent_trainable']:.4f} %"),
            ("weights in memory", f"{facts['weights_bytes'] / 2**20:,.1f} MiB"),
            ("optimizer in memory", f"{facts['optimizer_bytes'] / 2**20:,.3f} MiB"),
            ("state on disk, about", f"{facts['checkpoint_bytes'] / 2**20:,.3f} MiB"),
        ]
    )
