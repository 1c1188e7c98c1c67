"""What a run changes (TrainState), and the model it works on (LoadedModel)."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from prompt_tuning import params as params_lib
from prompt_tuning import partitioning
from prompt_tuning.checkpoints import base_model
from prompt_tuning.data import vocabularies
from prompt_tuning.models import model as model_lib
from prompt_tuning.prompts import initializers

Tree = Mapping[str, Any]


class TrainState(NamedTuple):
    """What a step changes and a checkpoint keeps: the frozen weights are not in it."""

    step: jax.Array
    trainable: Tree
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its parameters on a mesh.

    Attributes:
      model: network, loss and decoder.
      vocabulary: that it was trained with.
      params: all parameters, the prompt among them, placed on the mesh.
      mesh: the devices.
      checkpoint: where the base came from, or None for random weights.
      step: of the checkpoint, or None where it does not say.
      digest: identity of the base.
    """

    model: model_lib.EncoderDecoderModel
    vocabulary: vocabularies.SentencePiece
    params: Tree
    mesh: Mesh
    checkpoint: str | None
    step: int | None
    digest: str

    @property
    def soft_ids(self) -> np.ndarray:
        """See the function of this name."""
        return soft_ids(self.model)


def soft_ids(model: model_lib.EncoderDecoderModel) -> np.ndarray:
    """The ids of the prompt, beyond the vocabulary; none for a model without prompt."""
    length = 0 if model.prompt is None else model.prompt.length
    return model.config.vocab_size + np.arange(length, dtype=np.int32)


def load_model(
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.SentencePiece,
    *,
    checkpoint: str | None,
    prompt_initializer: initializers.Initializer | None = None,
    num_partitions: int = 1,
    seed: int = 0,
) -> LoadedModel:
    """Reads the base, makes the prompt, and places both on the devices.

    What can be wrong with the settings is looked at before the weights are read.

    Args:
      model: what to fill.
      vocabulary: its vocabulary.
      checkpoint: INITIAL_CHECKPOINT_PATH, a T5X or Hugging Face folder; None for random
        weights, which only pre-training wants.
      prompt_initializer: makes the prompt from the base's embedding.
      num_partitions: devices that share one copy of the weights.
      seed: of what is random.
    """
    vocabulary.check_fits(model.config.vocab_size)
    if checkpoint is not None:
        base_model.check_config(checkpoint, model.config)
    mesh = partitioning.make_mesh(num_partitions)
    boxed = model.abstract_params()
    abstract = params_lib.flatten(nn.unbox(boxed))
    base = params_lib.unflatten({p: x for p, x in abstract.items() if p != model.PROMPT_PATH})

    def make_prompt(embedding: jax.Array) -> jax.Array:
        rng = jax.random.fold_in(jax.random.key(seed), 1)
        initializer = prompt_initializer or initializers.SampledVocabulary()
        return initializer(rng, abstract[model.PROMPT_PATH].shape[0], embedding, vocabulary.encode)

    if model.prompt is not None:
        jax.eval_shape(make_prompt, abstract[model.EMBEDDING_PATH])
    if checkpoint is None:
        logging.info("random weights: no INITIAL_CHECKPOINT_PATH")
        params, step = jax.jit(model.init)(jax.random.key(seed)), 0
        digest = params_lib.structure_digest(base, f"random {seed}")
    else:
        params, step = base_model.load(checkpoint, base)
        # The same model in whatever dtype it is held.
        wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), base)
        digest = base_model.digest(checkpoint, wide)
    if getattr(prompt_initializer, "base_model_digest", None) not in (None, digest):
        # No error: the same weights in another folder or format have another identity.
        logging.warning(
            "the card of PROMPT_FILE names another base model than INITIAL_CHECKPOINT_PATH %s; "
            "if it is not the same model, answers will be wrong",
            checkpoint,
        )
    if model.prompt is not None:
        flat = params_lib.flatten(params)
        prompt = make_prompt(jnp.asarray(flat[model.EMBEDDING_PATH]))
        params = params_lib.unflatten({**flat, model.PROMPT_PATH: prompt})
    params = jax.device_put(params, partitioning.shardings(boxed, mesh))
    return LoadedModel(model, vocabulary, params, mesh, checkpoint, step, digest)
