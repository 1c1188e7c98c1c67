"""IA3: learned factors of activations (Liu et al., 2022, section 3.3; arXiv 2205.05638)."""

import dataclasses
import re

from flax import linen as nn

from prompt_tuning.methods import base

# Dense layer of T5 -> factors in the module that it is part of.
OF_INPUTS = {"out": "value_scaling", "wo": "scaling"}
OF_OUTPUTS = {"query": "key_scaling"}


@dataclasses.dataclass(frozen=True)
class IA3(base.Method):
    """Factors, 1 at first, of keys and values of each attention and of what `wo` reads.

    A factor of the keys is one of the query, and one of the values one of what attention mixes, so
    they act there. They are replicated on every device.
    """

    peft_type = "IA3"

    def parameters(self, config, shapes):
        """Factors (heads, head size) twice for each attention and (F,) for each feed-forward part."""
        added, heads = {}, (config.num_heads, config.head_dim)
        for path in shapes:
            if parent := re.fullmatch("(.*attention)/query/kernel", path):
                names, shape = ("key_scaling", "value_scaling"), heads
            elif parent := re.fullmatch("(.*mlp)/wo/kernel", path):
                names, shape = ("scaling",), (config.mlp_dim,)
            else:
                continue
            for name in names:
                added[f"{parent[1]}/{name}/ia3_scaling"] = base.Parameter(
                    shape, nn.initializers.ones
                )
        return added

    def dense_input(self, site, x, name):
        """Scales what `out` and `wo` read."""
        return _scale(site, x, OF_INPUTS.get(name))

    def dense_output(self, site, y, name, x):
        """Scales the query."""
        return _scale(site, y, OF_OUTPUTS.get(name))


def _scale(site, x, name):
    if name is None:
        return x
    return x * base.parameter(site, f"{name}/ia3_scaling").reshape(-1).astype(x.dtype)
