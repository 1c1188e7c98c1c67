"""The interface of a method: what it adds to a frozen T5, and what it does inside it.

The network calls the hooks of one `Method` and knows nothing else of it. Each hook does nothing by
default, so `Method()` is the plain network: full fine-tuning, or no training at all.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import core
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from prompt_tuning import params as params_lib
from prompt_tuning.models import config as config_lib

KeysValues = tuple[Float[Array, "B H K C"], Float[Array, "B H K C"]]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A float32 parameter that a method adds.

    Attributes:
      shape: its shape.
      initializer: (rng, shape, dtype) -> array.
      axes: logical axes for partitioning; None for a copy on each device.
      is_prompt: whether it is the table [P, D] that PROMPT_INITIALIZER makes in place of
        `initializer`.
    """

    shape: tuple[int, ...]
    initializer: Callable
    axes: tuple[str | None, ...] | None = None
    is_prompt: bool = False


@dataclasses.dataclass(frozen=True)
class SoftTokens:
    """The soft tokens that the data pipeline inserts into an input.

    Attributes:
      length: how many.
      place: their position, a PROMPT_PLACE.
      num_tasks: tasks with soft tokens of their own, each named by a sentinel; 0 for one prompt.
      names: prompts among which the column PROMPT_COLUMN of an example chooses; () for one prompt.
    """

    length: int = 0
    place: str | tuple[int, ...] = "prefix"
    num_tasks: int = 0
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Method:
    """A method that adapts a frozen T5; this class is the T5 alone.

    A hook takes the module that calls it (`site`), a value, and what the value depends on; it
    returns the value that takes its place. `site.path` says where in
    the network it is, and `parameter` reads what the method has added below it.

    Attributes:
      supports_decoder_only: whether it works in a network without encoder.
      peft_type: PEFT's name for its adapters, which `checkpoints.formats` reads and writes; None
        where PEFT has no such method.
    """

    supports_decoder_only: ClassVar[bool] = False
    peft_type: ClassVar[str | None] = None

    @property
    def parts(self) -> tuple["Method", ...]:
        """The methods that this one combines: itself, or none where it is `Method()`."""
        return () if type(self) is Method else (self,)

    @property
    def gin_file(self) -> str:
        """Name of the gin file that sets it."""
        return f"prompts/{type(self).__module__.rpartition('.')[2]}.gin"

    @property
    def soft_tokens(self) -> SoftTokens:
        """What the data pipeline inserts into an input."""
        return SoftTokens()

    @property
    def num_extra_keys(self) -> int:
        """How many keys `keys_values` puts in front of those of the decoder's self-attention."""
        return 0

    def parameters(
        self, config: config_lib.T5Config, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Parameter]:
        """The parameters that it adds, by their paths.

        Args:
          config: of the network.
          shapes: of the parameters of the frozen network, by their paths.
        """
        return {}

    def count(self, config: config_lib.T5Config, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How many parameters a task costs. Arguments as of `parameters`."""
        added = self.parameters(config, shapes).values()
        return sum(math.prod(parameter.shape) for parameter in added)

    def penalty(self, params: Mapping[str, Any]) -> Float[Array, ""] | None:
        """A penalty on all parameters, added to the loss of a batch; None for no penalty."""
        return None

    def embed_input(
        self, site: nn.Module, x: Float[Array, "B S D"], soft_ids: Int[Array, "B S"]
    ) -> Float[Array, "B S D"]:
        """The embedded input; soft_ids: numbers of the soft tokens, below 0 for text."""
        return x

    def attention_mask(
        self, site: nn.Module, mask: Bool[Array, "B 1 #S S"], soft_ids: Int[Array, "B S"]
    ) -> Bool[Array, "B 1 #S S"]:
        """The mask of the encoder's self-attention: true where a query attends to a key."""
        return mask

    def layer_input(
        self, site: nn.Module, x: Float[Array, "B S D"], soft_ids: Int[Array, "B S"] | None
    ) -> Float[Array, "B S D"]:
        """The input of a layer; soft_ids as of `embed_input`, None in the decoder."""
        return x

    def keys_values(self, site: nn.Module, keys_values: KeysValues) -> KeysValues:
        """Keys and values of the decoder's self-attention, with `num_extra_keys` more in front."""
        return keys_values

    def dense_input(
        self, site: nn.Module, x: Float[Array, "B S I"], name: str
    ) -> Float[Array, "B S I"]:
        """The input of a dense layer of `site`: query or out of an attention, wi, wi_i or wo.

        Keys and values have no such hook, as an attention to few targets does not compute them: a
        factor of the keys is one of the query, and one of the values one of the input of out.
        """
        return x

    def dense_output(
        self, site: nn.Module, y: Float[Array, "B S O"], name: str, x: Float[Array, "B S I"]
    ) -> Float[Array, "B S O"]:
        """The output of a dense layer on x; see `dense_input`."""
        return y

    def sublayer_output(
        self, site: nn.Module, y: Float[Array, "B S D"], name: str
    ) -> Float[Array, "B S D"]:
        """The output of an attention or feed-forward part of a layer, before the residual."""
        return y

    def logits(
        self, site: nn.Module, logits: Float[Array, "B L V"], x: Float[Array, "B L D"]
    ) -> Float[Array, "B L V"]:
        """The logits of the output head on x."""
        return logits


NO_METHOD = Method()


def parameter(site: nn.Module, name: str) -> Array:
    """Reads a parameter that a method has added.

    Args:
      site: the module that called the hook.
      name: path of the parameter below `site`.

    Raises:
      KeyError: the parameters that the network was called with lack it.
    """
    node = site.variables.get("params", {})
    for key in name.split("/"):
        if key not in node:
            path = "/".join([*site.path, name])
            raise KeyError(f"the parameters lack {path}, which the method of this model adds")
        node = node[key]
    return node


def init_parameters(parameters: Mapping[str, Parameter], rng: Array) -> dict[str, Any]:
    """Initializes parameters, boxed with their logical axes, as a tree.

    Flax derives the rng of each from its path, as for the parameters of a module.
    """

    def init(scope: core.Scope, tree: Mapping[str, Any]) -> None:
        for name, node in tree.items():
            if isinstance(node, Mapping):
                init(scope.push(name), node)
                continue
            initializer = node.initializer
            if node.axes is not None:
                initializer = nn.with_logical_partitioning(initializer, node.axes)
            scope.param(name, initializer, node.shape, jnp.float32, unbox=False)

    tree = params_lib.unflatten(parameters)
    _, variables = core.init(init)(rng, tree)
    return variables.get("params", {})


def uniform(scale: float) -> Callable:
    """An initializer that draws from U[-scale, scale]."""

    def init(rng: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        return jax.random.uniform(rng, shape, dtype, -scale, scale)

    return init
