"""The training step: a gradient for what is trained, one update, and sums to report."""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from prompt_tuning import params as params_lib
from prompt_tuning.distributed import partitioning
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import counts, state

Tree = Mapping[str, Any]
# Computing again what the backward pass needs only when it needs it: a tenth less memory.
CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
Step = Callable[..., tuple[state.TrainState, dict[str, jax.Array]]]


def make_step(
    model: model_lib.EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    shardings: state.TrainState,
    num_microbatches: int = 1,
) -> Step:
    """The jitted step (state, frozen, batch, rng) -> (state, sums).

    The gradient is taken for the trainable tree only. The state's buffers are reused.
    With microbatches, gradients and sums are those of the whole batch. Where loss, gradient or what
    they make of the trainable tree is not finite, it and the optimizer stay as they are: "skipped"
    is 1 among the sums.

    Args:
      model: network and loss.
      optimizer: of the trainable tree.
      shardings: where each leaf of the state lies, before the step and after it.
      num_microbatches: parts of a batch that are computed one after the other.
    """
    return _jitted(_step(model, optimizer, num_microbatches), shardings)


def make_stacked_step(
    model: model_lib.EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    shardings: Sequence[state.TrainState],
    num_microbatches: int = 1,
) -> Step:
    """The step of several runs over the same frozen weights, in one program that fills an accelerator.

    Of states, batches of one shape, and rngs it takes lists, and it gives a list of states and
    one of sums; each run is moved as `make_step` moves it.
    """
    one = _step(model, optimizer, num_microbatches)

    def step(states: Sequence[state.TrainState], frozen: Tree, batches: Sequence[Tree], rngs):
        stacked = [
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
            for trees in (states, batches, rngs)
        ]

        def move(of_run: Sequence[Any]):
            return one(of_run[0], frozen, *of_run[1:])

        found = jax.vmap(move)(stacked)
        return tuple(
            [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(len(states))]
            for tree in found
        )

    return _jitted(step, list(shardings))


class ThreadedStep:
    """The step of several runs over the same frozen weights on a CPU: two of them at a time.

    Takes and gives what `make_stacked_step`'s does, and computes each run with `one`, of `make_step`,
    as it is alone: by itself a step of a small model leaves cores idle.
    """

    def __init__(self, one: Step, mesh: Mesh):
        self._one, self._mesh = one, mesh
        # Each takes the memory of a step. Programs of several devices wait for each other for ever
        # where two run at once in different orders.
        self._threads = futures.ThreadPoolExecutor(2 if mesh.size == 1 else 1, "step")

    def __call__(self, states, frozen, batches, rngs):
        def move(each):
            with partitioning.use(self._mesh):  # which is a thread's own
                return jax.block_until_ready(self._one(each[0], frozen, *each[1:]))

        found = self._threads.map(move, zip(states, batches, rngs, strict=True))
        return tuple(map(list, zip(*found, strict=True)))

    def lower(self, states, frozen, batches, rngs):
        """Of one run, as jax.jit's: the others have the same program."""
        return self._one.lower(states[0], frozen, batches[0], rngs[0])


def _jitted(step: Step, shardings: Any) -> Step:
    # A state that comes out as it went in, or the next step would be compiled anew.
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options=CPU_OPTIONS if jax.default_backend() == "cpu" else None,
    )


def _step(
    model: model_lib.EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    num_microbatches: int,
) -> Step:
    def gradients(trainable: Tree, frozen: Tree, batch: Tree, rng: jax.Array):
        def loss(tree):
            _, sums = model.loss(params_lib.merge(tree, frozen), batch, rng)
            return sums["loss"], sums

        (_, sums), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        return grads, sums

    def accumulate(trainable: Tree, frozen: Tree, batch: Tree, rng: jax.Array):
        if num_microbatches == 1:
            return gradients(trainable, frozen, batch, rng)
        # Every n-th row, so that each device has rows in each part.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradients(trainable, frozen, *part)), None

        parts = parts, jax.random.split(rng, num_microbatches)
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradients, trainable, frozen, *first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, parts)[0]

    def step(old: state.TrainState, frozen: Tree, batch: Tree, rng: jax.Array):
        rng = jax.random.fold_in(rng, old.step)
        grads, sums = accumulate(old.trainable, frozen, batch, rng)
        # After the sum over microbatches: their tokens differ in number.
        whole = model.normalizer(batch)
        grads = jax.tree.map(lambda g: g / whole, grads)

        def penalty(tree):
            return model.method.penalty(params_lib.merge(tree, frozen))

        if jax.eval_shape(penalty, old.trainable) is not None:
            sums["penalty"], more = jax.value_and_grad(penalty)(old.trainable)
            grads = jax.tree.map(jnp.add, grads, more)
        sums["gradient_norm"] = optax.tree.norm(grads)
        updates, slots = optimizer.update(grads, old.optimizer, old.trainable)
        trainable = optax.apply_updates(old.trainable, updates)
        told = [sums["loss"], sums["gradient_norm"], optax.tree.norm(trainable)]
        finite = jnp.isfinite(jnp.stack(told)).all()
        sums["skipped"] = 1.0 - finite.astype(jnp.float32)
        trainable, slots = jax.tree.map(
            lambda new, before: jnp.where(finite, new, before),
            (trainable, slots),
            (old.trainable, old.optimizer),
        )
        return state.TrainState(old.step + 1, trainable, slots), sums

    return step


def check_batch(size: int, num_microbatches: int, mesh: Mesh) -> None:
    """Raises ValueError where BATCH_SIZE cannot be divided among microbatches and devices."""
    counts.check("NUM_MICROBATCHES", num_microbatches, 1, none="1")
    if size % num_microbatches:
        raise ValueError(
            f"NUM_MICROBATCHES is {num_microbatches}; expected a divisor of BATCH_SIZE={size}. Set "
            "NUM_MICROBATCHES to one."
        )
    partitioning.check_batch_size(size // num_microbatches, mesh, "BATCH_SIZE / NUM_MICROBATCHES")
