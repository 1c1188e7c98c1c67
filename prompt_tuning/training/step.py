"""The training step: gradients of the trainable parameters, one update, sums to report."""

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
# Schedules rematerialization late: a tenth less memory.
CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
Step = Callable[..., tuple[state.TrainState, dict[str, jax.Array]]]


def make_step(
    model: model_lib.EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    shardings: state.TrainState,
    num_microbatches: int = 1,
) -> Step:
    """Returns the jitted step (state, frozen, batch, rng) -> (state, sums).

    Only the trainable tree has gradients. The buffers of the state are donated. With microbatches,
    gradients and sums are those of the complete batch. If the loss, the gradient or the updated
    parameters are not finite, parameters and optimizer state stay unchanged, and "skipped" is 1.

    Args:
      model: network and loss.
      optimizer: optimizer of the trainable tree.
      shardings: shardings of the state, before and after the step.
      num_microbatches: number of sequential parts of a batch.
    """
    return _jitted(_step(model, optimizer, num_microbatches), shardings)


def make_stacked_step(
    model: model_lib.EncoderDecoderModel,
    optimizer: optax.GradientTransformation,
    shardings: Sequence[state.TrainState],
    num_microbatches: int = 1,
) -> Step:
    """Returns one program for the steps of several runs that share frozen weights.

    It takes lists of states, batches of one shape and rngs, and returns lists of states and sums.
    Each run is updated as by `make_step`; one program uses an accelerator better.
    """
    one = _step(model, optimizer, num_microbatches)

    def step(states: Sequence[state.TrainState], frozen: Tree, batches: Sequence[Tree], rngs):
        stacked = [
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
            for trees in (states, batches, rngs)
        ]

        def step_of_run(of_run: Sequence[Any]):
            return one(of_run[0], frozen, *of_run[1:])

        results = jax.vmap(step_of_run)(stacked)
        return tuple(
            [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(len(states))]
            for tree in results
        )

    return _jitted(step, list(shardings))


class ThreadedStep:
    """The step of several runs that share frozen weights on a CPU, two runs at a time.

    Has the interface of `make_stacked_step`, and computes each run with `one`, a step of `make_step`.
    Two at a time, because a single step of a small model leaves cores idle.
    """

    def __init__(self, one: Step, mesh: Mesh):
        self._one, self._mesh = one, mesh
        # Each thread needs the memory of a step. Programs of several devices can deadlock if two
        # run at the same time.
        self._threads = futures.ThreadPoolExecutor(2 if mesh.size == 1 else 1, "step")

    def __call__(self, states, frozen, batches, rngs):
        def step_of_run(state, batch, rng):
            with partitioning.use(self._mesh):  # the mesh context is thread-local
                return jax.block_until_ready(self._one(state, frozen, batch, rng))

        runs = zip(states, batches, rngs, strict=True)
        results = self._threads.map(lambda run: step_of_run(*run), runs)
        return tuple(map(list, zip(*results, strict=True)))

    def lower(self, states, frozen, batches, rngs):
        """Lowers the step of one run; the others have the same program."""
        return self._one.lower(states[0], frozen, batches[0], rngs[0])


def _jitted(step: Step, shardings: Any) -> Step:
    # The state keeps its shardings, or the next step would be compiled again.
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
        # Every n-th example, so that each device has examples in each part.
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
        # After the sum over microbatches, which differ in their number of tokens.
        normalizer = model.normalizer(batch)
        grads = jax.tree.map(lambda g: g / normalizer, grads)

        def penalty(tree):
            return model.method.penalty(params_lib.merge(tree, frozen))

        if jax.eval_shape(penalty, old.trainable) is not None:
            sums["penalty"], penalty_grads = jax.value_and_grad(penalty)(old.trainable)
            grads = jax.tree.map(jnp.add, grads, penalty_grads)
        sums["gradient_norm"] = optax.tree.norm(grads)
        updates, slots = optimizer.update(grads, old.optimizer, old.trainable)
        trainable = optax.apply_updates(old.trainable, updates)
        checked = [sums["loss"], sums["gradient_norm"], optax.tree.norm(trainable)]
        finite = jnp.isfinite(jnp.stack(checked)).all()
        sums["skipped"] = 1.0 - finite.astype(jnp.float32)
        trainable, slots = jax.tree.map(
            lambda new, before: jnp.where(finite, new, before),
            (trainable, slots),
            (old.trainable, old.optimizer),
        )
        return state.TrainState(old.step + 1, trainable, slots), sums

    return step


def check_batch(size: int, num_microbatches: int, mesh: Mesh) -> None:
    """Raises ValueError unless microbatches and devices divide BATCH_SIZE."""
    counts.validate_int("NUM_MICROBATCHES", num_microbatches, 1, none="1")
    if size % num_microbatches:
        raise ValueError(
            f"NUM_MICROBATCHES is {num_microbatches}; expected a divisor of BATCH_SIZE={size}. Set "
            "NUM_MICROBATCHES to one."
        )
    partitioning.check_batch_size(size // num_microbatches, mesh, "BATCH_SIZE / NUM_MICROBATCHES")
