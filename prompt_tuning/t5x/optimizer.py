"""The optimizer in the form that T5X's trainer calls: optax's, over the trainable parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from prompt_tuning import params as params_lib
from prompt_tuning.training import optimizers, run

Tree = Mapping[str, Any]


class OptimizerState(struct.PyTreeNode):
    """T5X's counter of steps, and the slots of what is trained."""

    step: Any
    param_states: Any


class Optimizer(struct.PyTreeNode):
    """Parameters with the state of their optimizer, as T5X's train state holds them."""

    optimizer_def: "OptimizerDef" = struct.field(pytree_node=False)
    state: OptimizerState
    target: Tree

    def apply_gradient(self, grads: Tree, learning_rate: Any = None) -> "Optimizer":
        """One step. The rate is the optimizer's own; T5X tells the one that it is given."""
        del learning_rate
        return self.optimizer_def.apply_gradient(self, grads)

    def state_dict(self) -> dict[str, Any]:
        """All leaves by name, without nodes that hold none."""
        slots = params_lib.unflatten(named_leaves(self.state.param_states))
        return {
            "target": params_lib.unflatten(params_lib.flatten(self.target)),
            "state": {"step": self.state.step, "param_states": slots},
        }

    def restore_state(self, state_dict: Tree) -> "Optimizer":
        """The same structure with other leaves, of which T5X makes shardings too."""
        step, slots = state_dict["state"]["step"], state_dict["state"]["param_states"]
        slots, target = params_lib.flatten(slots), params_lib.flatten(state_dict["target"])
        mine = named_leaves(self.state.param_states)
        slots = [_typed(slots[name], leaf) for name, leaf in mine.items()]
        state = OptimizerState(_typed(step, self.state.step), _like(self.state.param_states, slots))
        paths = params_lib.flatten(self.target)
        return self.replace(state=state, target=_like(self.target, [target[p] for p in paths]))


class OptimizerDef:
    """Our optimizer in T5X's interface: slots for what is trained, and the rest never moves.

    Attributes:
      trainable: patterns of what is trained.
    """

    def __init__(self, optimizer: run.OptimizerFactory, trainable: Sequence[str]):
        """`optimizer` is called with start_step=, the step of the checkpoint."""
        self._make, self.trainable = optimizer, tuple(trainable)

    def create(self, target: Tree) -> Optimizer:
        """At step 0; a checkpoint's step comes with its state."""
        tuned, _ = params_lib.split(target, self.trainable)
        return Optimizer(self, OptimizerState(0, self.slots(tuned, 0)), target)

    def slots(self, tuned: Tree, step: int) -> Any:
        """The state at the start of training, from `step`, of the trainable parameters."""
        return self._transformation(step).init(tuned)

    def apply_gradient(self, old: Optimizer, grads: Tree) -> Optimizer:
        """One step of what is trained; T5X differentiates all, and XLA drops what is not used."""
        tuned, frozen = params_lib.split(old.target, self.trainable)
        gradient, _ = params_lib.split(grads, self.trainable)
        transformation = self._transformation(0)  # the step is in the state
        updates, slots = transformation.update(gradient, old.state.param_states, tuned)
        new = params_lib.merge(optax.apply_updates(tuned, updates), frozen)
        return old.replace(
            state=OptimizerState(old.state.step + 1, slots),
            target=_like(old.target, list(params_lib.flatten(new).values())),
        )

    def derive_logical_axes(self, optimizer: Optimizer, param_logical_axes: Tree) -> Optimizer:
        """Axes in place of leaves: a slot of a parameter's path and shape lies as that does."""
        shapes = params_lib.flatten(optimizer.target)
        axes = params_lib.flatten(param_logical_axes)

        def of_slot(name: str, slot: Any) -> Any:
            path = next((path for path in shapes if name.endswith(f"/{path}")), None)
            return axes[path] if path and shapes[path].shape == slot.shape else None

        slots = {
            name: of_slot(name, x) for name, x in named_leaves(optimizer.state.param_states).items()
        }
        slots = params_lib.unflatten(slots)
        return optimizer.restore_state(
            {"target": param_logical_axes, "state": {"step": None, "param_states": slots}}
        )

    def _transformation(self, step: int) -> optax.GradientTransformation:
        return optimizers.for_trainable(self._make(start_step=step), self.trainable)


def named_leaves(tree: Any) -> dict[str, Any]:
    """{path: leaf} in the order of leaves; None is one, as T5X puts it where no axes are."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _like(tree: Any, leaves: Sequence[Any]) -> Any:
    """The tree with other leaves, in its order."""
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=lambda x: x is None), leaves)


def _typed(leaf: Any, like: Any) -> Any:
    """A leaf in its type: under Orbax T5X reads steps as float32. What is no array stays."""
    wanted = getattr(like, "dtype", jnp.int32)
    return leaf.astype(wanted) if getattr(leaf, "dtype", wanted) != wanted else leaf
