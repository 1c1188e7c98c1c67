"""Several methods at once."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.methods import base


@dataclasses.dataclass(frozen=True)
class Combination(base.Method):
    """Methods that act one after the other, in each hook. See `base.Method`."""

    methods: tuple[base.Method, ...]

    @property
    def parts(self):
        return self.methods

    @property
    def soft_tokens(self):
        inserted = (method.soft_tokens for method in self.methods if method.soft_tokens.length)
        return next(inserted, base.SoftTokens())

    @property
    def num_extra_keys(self):
        return sum(method.num_extra_keys for method in self.methods)

    def parameters(self, config, shapes):
        parameters: dict[str, base.Parameter] = {}
        for method in self.methods:
            more = method.parameters(config, shapes)
            if twice := sorted(parameters.keys() & more.keys()):
                raise ValueError(
                    f"two methods of {self.methods} add {twice}; expected different parameters. "
                    "Remove the gin file of one of them."
                )
            parameters |= more
        return parameters

    def penalty(self, params: Mapping[str, Any]):
        penalties = (method.penalty(params) for method in self.methods)
        return functools.reduce(_add, penalties, None)

    def _chain(self, hook, site, value, *context):
        for method in self.methods:
            value = getattr(method, hook)(site, value, *context)
        return value

    embed_input = functools.partialmethod(_chain, "embed_input")
    attention_mask = functools.partialmethod(_chain, "attention_mask")
    layer_input = functools.partialmethod(_chain, "layer_input")
    keys_values = functools.partialmethod(_chain, "keys_values")
    dense_input = functools.partialmethod(_chain, "dense_input")
    dense_output = functools.partialmethod(_chain, "dense_output")
    sublayer_output = functools.partialmethod(_chain, "sublayer_output")
    logits = functools.partialmethod(_chain, "logits")


def _add(x, y):
    return y if x is None else x if y is None else x + y


def combine(methods: Sequence[base.Method | None]) -> base.Method:
    """Makes one method of several; None stands for no method."""
    present = tuple(method for method in methods if method is not None)
    if len(present) == 1:
        return present[0]
    return Combination(present) if present else base.NO_METHOD
