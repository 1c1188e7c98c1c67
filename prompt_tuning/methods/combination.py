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
        added: dict[str, base.Parameter] = {}
        for method in self.methods:
            parameters = method.parameters(config, shapes)
            if twice := sorted(added.keys() & parameters.keys()):
                raise ValueError(
                    f"two methods of {self.methods} add {twice}; leave one of them out"
                )
            added |= parameters
        return added

    def penalty(self, params: Mapping[str, Any]):
        penalties = (method.penalty(params) for method in self.methods)
        return functools.reduce(_add, penalties)

    def embed_input(self, *args):
        return self._chain("embed_input", *args)

    def attention_mask(self, *args):
        return self._chain("attention_mask", *args)

    def layer_input(self, *args):
        return self._chain("layer_input", *args)

    def keys_values(self, *args):
        return self._chain("keys_values", *args)

    def dense_input(self, *args):
        return self._chain("dense_input", *args)

    def dense_output(self, *args):
        return self._chain("dense_output", *args)

    def sublayer_output(self, *args):
        return self._chain("sublayer_output", *args)

    def logits(self, *args):
        return self._chain("logits", *args)

    def _chain(self, hook, site, value, *context):
        for method in self.methods:
            value = getattr(method, hook)(site, value, *context)
        return value


def _add(x, y):
    return y if x is None else x if y is None else x + y


def combine(methods: Sequence[base.Method | None]) -> base.Method:
    """Makes one method of several; None stands for no method."""
    present = tuple(method for method in methods if method is not None)
    if len(present) == 1:
        return present[0]
    return Combination(present) if present else base.NO_METHOD
