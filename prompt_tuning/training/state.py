"""The state of a training step (TrainState) and a model with its weights (LoadedModel)."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import base_model
from prompt_tuning.data import vocabularies
from prompt_tuning.data.batches import soft_tokens as soft_tokens_lib
from prompt_tuning.distributed import partitioning
from prompt_tuning.methods import initializers
from prompt_tuning.models import model as model_lib

Tree = Mapping[str, Any]
# PROMPT_INITIALIZER: of a prompt, or of all parameters of a method.
PromptInitializer = initializers.Initializer | initializers.FromLeaves


class TrainState(NamedTuple):
    """What a training step updates and a state on disk contains: no frozen weights."""

    step: jax.Array
    trainable: Tree
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its parameters on a mesh.

    Attributes:
      model: network, loss and decoder.
      vocabulary: vocabulary of the model.
      params: all parameters, adapters included, on the mesh.
      mesh: the devices.
      checkpoint: path of the base model, or None for random weights.
      step: step of the checkpoint, or None if unknown.
      digest: identity of the base model.
    """

    model: model_lib.EncoderDecoderModel
    vocabulary: vocabularies.Vocabulary
    params: Tree
    mesh: Mesh
    checkpoint: str | None
    step: int | None
    digest: str

    @property
    def soft_tokens(self) -> soft_tokens_lib.SoftTokens:
        """The soft tokens of the method; see the function `soft_tokens`."""
        return soft_tokens(self.model, self.vocabulary)


def soft_tokens(
    model: model_lib.EncoderDecoderModel, vocabulary: vocabularies.Vocabulary | None = None
) -> soft_tokens_lib.SoftTokens:
    """Returns the ids, from V on, that the method of a model inserts into inputs, if any.

    Args:
      model: model with its method.
      vocabulary: vocabulary whose sentinels select the prompt of a task; without it only the
        number of soft tokens is valid.
    """
    soft = model.method.soft_tokens
    return soft_tokens_lib.SoftTokens(
        model.config.vocab_size + np.arange(soft.length, dtype=np.int32),
        soft.place,
        soft.num_tasks,
        0 if vocabulary is None else vocabulary.sentinels_end,
        soft.names,
    )


def load_model(
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.Vocabulary,
    *,
    checkpoint: str | None,
    prompt_initializer: PromptInitializer | None = None,
    num_partitions: int = 1,
    seed: int = 0,
) -> LoadedModel:
    """Loads the base model, initializes the adapter parameters, and puts both on the devices.

    Settings are checked before the weights are read.

    Args:
      model: model to load.
      vocabulary: vocabulary of the model.
      checkpoint: INITIAL_CHECKPOINT_PATH, a T5X or Hugging Face folder; None for random
        weights (pre-training).
      prompt_initializer: see `init_adapter`.
      num_partitions: devices that share one copy of the weights.
      seed: seed of random weights and of the initialization of adapter parameters.
    """
    vocabulary.check_fits(model.config.vocab_size)
    soft_tokens(model, vocabulary)  # checks the prompt's position
    if checkpoint is not None:
        base_model.check_config(checkpoint, model.config)
    mesh = partitioning.make_mesh(num_partitions)
    boxed = model.abstract_params()
    abstract = params_lib.flatten(nn.unbox(boxed))
    base = params_lib.unflatten({p: x for p, x in abstract.items() if p not in model.adapter_paths})
    where = partitioning.shardings(boxed, mesh)
    shapes = {path: abstract[path] for path in sorted(model.adapter_paths)}
    initialize = functools.partial(
        init_adapter, model, prompt_initializer, shapes, jax.random.key(seed), vocabulary.encode
    )
    jax.eval_shape(initialize, abstract[model.EMBEDDING_PATH])
    jax.eval_shape(model.method.penalty, nn.unbox(boxed))
    if checkpoint is None:
        logging.info("Initializing random weights, because INITIAL_CHECKPOINT_PATH is not set.")
        # Each device initializes only its shards.
        params = jax.jit(model.init, out_shardings=where)(jax.random.key(seed))
        step = 0
        digest = params_lib.structure_digest(base, f"random {seed}")
    else:
        params, step = base_model.load(checkpoint, base, where)
        digest = base_model.digest(checkpoint, base)
    warn_of_another_base(prompt_initializer, checkpoint, digest)
    flat = params_lib.flatten(params)
    adapter_shardings = {p: x for p, x in params_lib.flatten(where).items() if p in shapes}
    # Under jit, because several processes may share the embedding.
    leaves = jax.jit(initialize, out_shardings=adapter_shardings)(flat[model.EMBEDDING_PATH])
    params = params_lib.unflatten({**flat, **leaves})
    return LoadedModel(model, vocabulary, params, mesh, checkpoint, step, digest)


def base_digest(model: model_lib.EncoderDecoderModel, checkpoint: str | None) -> str:
    """Computes `LoadedModel.digest` without loading the weights."""
    if checkpoint is None:
        return "random"
    base_model.check_config(checkpoint, model.config)
    abstract = params_lib.flatten(nn.unbox(model.abstract_params()))
    base = {path: leaf for path, leaf in abstract.items() if path not in model.adapter_paths}
    return base_model.digest(checkpoint, params_lib.unflatten(base))


def with_adapter(
    loaded: LoadedModel, start: PromptInitializer | None, seed: int = 0
) -> LoadedModel:
    """Replaces the adapter parameters of a model by those of an initializer.

    `seed` is used as in `load_model`. Raises as `init_adapter`; warns as `load_model` about another
    base model.
    """
    warn_of_another_base(start, loaded.checkpoint, loaded.digest)
    flat, model = params_lib.flatten(loaded.params), loaded.model
    boxed = model.abstract_params()
    abstract = params_lib.flatten(nn.unbox(boxed))
    where = params_lib.flatten(partitioning.shardings(boxed, loaded.mesh))
    shapes = {path: abstract[path] for path in sorted(model.adapter_paths)}
    adapter_shardings = {path: where[path] for path in shapes}
    initialize = functools.partial(
        init_adapter, model, start, shapes, jax.random.key(seed), loaded.vocabulary.encode
    )
    leaves = jax.jit(initialize, out_shardings=adapter_shardings)(flat[model.EMBEDDING_PATH])
    return dataclasses.replace(loaded, params=params_lib.unflatten({**flat, **leaves}))


def warn_of_another_base(
    start: PromptInitializer | None, checkpoint: str | None, digest: str | None
) -> None:
    """Warns if the parameters of `start` were trained with another base model."""
    if getattr(start, "base_model_digest", None) not in (None, digest):
        # No error: a prompt may be tried with a similar model.
        logging.warning(
            "PROMPT_FILE was trained with another base model than INITIAL_CHECKPOINT_PATH %s, by "
            "its card. Predictions will be wrong unless the models are equal: set the base model "
            "of the prompt.",
            checkpoint,
        )


def init_adapter(
    model: model_lib.EncoderDecoderModel,
    start: PromptInitializer | None,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    rng: jax.Array,
    encode: initializers.Encode,
    embedding: jax.Array,
) -> dict[str, jax.Array]:
    """Initializes the adapter parameters, {path: values}.

    `start` gives either all of them (FromLeaves) or the prompt, which is sampled from the
    vocabulary by default; others use their default initializers.

    Raises:
      ValueError: the parameters of `start` do not fit the model.
    """
    if isinstance(start, initializers.FromLeaves):
        return start.fit(shapes)
    if isinstance(start, initializers.FromArray) and shapes.keys() != {model.prompt_path}:
        raise ValueError(
            f"{start.setting} holds a single prompt, but the model's adapter parameters are "
            f"{list(shapes) or 'none'}; expected the same. Set the gin file of the method that the "
            "file was trained with (prompts/…), and no other."
        )
    values = {}
    if shapes.keys() - {model.prompt_path}:
        # Under jit, parameters that are not returned are not computed.
        initialized = params_lib.flatten(model.init_adapter(jax.random.fold_in(rng, 2)))
        values = {path: initialized[path] for path in shapes}
    if model.prompt_path is not None:
        make = start or initializers.SampledVocabulary()
        (length, width), rng = shapes[model.prompt_path].shape, jax.random.fold_in(rng, 1)
        # A method may learn only the first features of each token as the prompt.
        values[model.prompt_path] = make(rng, length, embedding, encode)[:, :width]
    return values
