"""Models of this package inside T5X's trainer, evaluator and inferencer (see gin/t5x/).

T5X calls methods and checks no classes. T5X is imported only where its metrics are made.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from flax.linen import partitioning as flax_partitioning
from jaxtyping import Array, Float, Int

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import base_model
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.data import pipeline, vocabularies
from prompt_tuning.data.text import labels
from prompt_tuning.models import decoding
from prompt_tuning.models import model as model_lib
from prompt_tuning.t5x import optimizer as optimizer_lib
from prompt_tuning.training import adapter_files, counts, run, state

Tree = Mapping[str, Any]
PROMPT = (".*/prompt/.*",)


class Model:
    """An encoder-decoder or decoder-only model with the interface of T5X's models.

    Attributes:
      model: network, loss and decoder.
      vocabulary: vocabulary of the model.
      checkpoint: INITIAL_CHECKPOINT_PATH, from which T5X starts.
      optimizer_def: optimizer for T5X; None for evaluation and inference.
    """

    def __init__(
        self,
        model: model_lib.EncoderDecoderModel,
        vocabulary: vocabularies.Vocabulary,
        *,
        checkpoint: str | None = None,
        prompt_initializer: state.PromptInitializer | None = None,
        optimizer: run.OptimizerFactory | None = None,
        trainable: Sequence[str] = PROMPT,
        seed: int = 0,
    ):
        """Wraps a model; arrays are made when T5X asks for them.

        Args:
          model: with its prompt.
          vocabulary: of the model.
          checkpoint: INITIAL_CHECKPOINT_PATH, in T5X's format; None for random weights.
          prompt_initializer: PROMPT_INITIALIZER, as of our trainer.
          optimizer: called with start_step=; None to answer only.
          trainable: TRAINABLE, patterns of what the optimizer moves.
          seed: of the prompt's start: the same prompt as our trainer starts with.

        Raises:
          ValueError: the checkpoint is not in T5X's format, or the vocabulary not the model's.
        """
        vocabulary.check_fits(model.config.vocab_size)
        counts.validate_int("RANDOM_SEED", seed, 0, counts.MAX_SEED)
        if checkpoint is not None and huggingface.is_checkpoint(epath.Path(checkpoint)):
            raise ValueError(
                f"INITIAL_CHECKPOINT_PATH {checkpoint} is in Hugging Face's format; expected "
                "T5X's, a folder checkpoint_<step>. Convert it with `prompt-tuning export`."
            )
        self.model, self.vocabulary, self.checkpoint = model, vocabulary, checkpoint
        self._start, self._seed = prompt_initializer, seed
        self._soft = state.soft_tokens(model, vocabulary)
        self.optimizer_def = (
            None if optimizer is None else optimizer_lib.OptimizerDef(optimizer, trainable)
        )

    @property
    def FEATURE_CONVERTER_CLS(self) -> Callable:
        """seqio's converter, with the soft tokens of the model."""
        from prompt_tuning.t5x import feature_converter

        return functools.partial(feature_converter.SoftTokenConverter, self._soft)

    @property
    def input_vocabulary(self):
        """seqio's, to be compared with the task's."""
        return self.vocabulary.for_seqio()

    output_vocabulary = input_vocabulary

    def get_initial_variables(
        self, rng: Array, input_shapes: Tree, input_types: Tree | None = None
    ) -> dict[str, Any]:
        """Random parameters, with their logical axes as "params_axes"; any batch is the same."""
        del input_shapes, input_types
        boxes = params_lib.flatten(self.model.abstract_params())
        axes = {f"{path}_axes": _axes(box) for path, box in boxes.items()}
        return {"params": self.model.init(rng), "params_axes": params_lib.unflatten(axes)}

    def loss_fn(
        self, params: Tree, batch: model_lib.Batch, dropout_rng: Array | None
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The loss to minimise, and T5X's metrics; dropout acts where an rng is given."""
        batch = _without_positions(batch)
        loss, sums = self.model.loss(params, batch, dropout_rng)
        sums = {**sums, "loss": loss, "z_loss": sums["z_loss"] / self.model.normalizer(batch)}
        return loss, _metrics(sums, batch)

    def eval_fn(self, params: Tree, batch: model_lib.Batch) -> tuple[Array, dict[str, Any]]:
        """As `loss_fn`, without dropout."""
        return self.loss_fn(params, batch, None)

    def predict_batch(
        self, params: Tree, batch: model_lib.Batch, rng: Array | None = None
    ) -> Int[Array, "B L"]:
        """The best decode of each row, as long as its targets have room."""
        return self.predict_batch_with_aux(params, batch, rng)[0]

    def predict_batch_with_aux(
        self, params: Tree, batch: model_lib.Batch, rng: Array | None = None
    ) -> tuple[Int[Array, "B L"], dict[str, Array]]:
        """The best decode of each row, and {"scores": [B]}."""
        ids, decoder = batch["encoder_input_tokens"], self.model.decoder
        if isinstance(decoder, decoding.LabelRanking):
            rows = labels.label_ids(decoder.labels, self.vocabulary)
            neutral = self._soft.empty_input() if decoder.normalization == "calibration" else None
            tokens, scores = self.model.rank_labels(params, ids, rows, neutral)
        else:
            length = batch["decoder_input_tokens"].shape[1]
            tokens, scores = self.model.predict(params, ids, length, rng)
        return tokens[:, 0], {"scores": scores[:, 0]}

    def score_batch(self, params: Tree, batch: model_lib.Batch) -> Float[Array, " B"]:
        """log p(targets | inputs) of each row."""
        return self.model.score(params, _without_positions(batch))

    def added(self) -> dict[str, np.ndarray]:
        """Initializes the adapter parameters, {path: values}, as `prompt-tuning train` with this seed."""
        abstract = params_lib.flatten(nn.unbox(self.model.abstract_params()))
        shapes = {path: abstract[path] for path in sorted(self.model.adapter_paths)}
        embedding = jnp.asarray(base_model.read_embedding(self.checkpoint))
        rng = jax.random.key(self._seed)
        state.warn_of_another_base(self._start, self.checkpoint, self.base_digest)
        made = state.init_adapter(
            self.model, self._start, shapes, rng, self.vocabulary.encode, embedding
        )
        return jax.device_get(made)

    @functools.cached_property
    def base_digest(self) -> str | None:
        """Digest of the checkpoint that T5X starts from, for the cards of prompts."""
        if self.checkpoint is None:
            return None
        boxes = params_lib.flatten(nn.unbox(self.model.abstract_params()))
        wide = {
            path: jax.ShapeDtypeStruct(box.shape, jnp.float32)
            for path, box in boxes.items()
            if path not in self.model.adapter_paths
        }
        return base_model.digest(self.checkpoint, params_lib.unflatten(wide))


def _axes(box: Any) -> flax_partitioning.AxisMetadata:
    names = box.names if isinstance(box, nn.LogicallyPartitioned) else (None,) * box.ndim
    return flax_partitioning.AxisMetadata(names=tuple(names))


def _without_positions(batch: model_lib.Batch) -> dict[str, Array]:
    """Removes positions: tokens of a segment are contiguous, so distances within a row are the same."""
    return {name: x for name, x in batch.items() if not name.endswith("_positions")}


def _metrics(sums: Mapping[str, Array], batch: model_lib.Batch) -> dict[str, Any]:
    """T5X's metrics of a batch, under its names."""
    from clu import metrics as clu_metrics
    from t5x import metrics as t5x_metrics

    average, per_step = clu_metrics.Average, t5x_metrics.AveragePerStep
    rate = t5x_metrics.TimeRate.from_model_output
    targets, devices = batch["decoder_target_tokens"], jax.device_count()
    rows, places = jnp.asarray(targets.shape[0]), jnp.asarray(targets.size)
    cross_entropy = sums["loss"] - sums["z_loss"]
    weights = jnp.sum(batch["decoder_loss_weights"])
    metrics = {
        "accuracy": clu_metrics.Accuracy(total=sums["correct"], count=sums["tokens"]),
        "loss_per_nonpadding_target_token": average(total=sums["loss"], count=weights),
        "non_padding_fraction/loss_weights": average(total=weights, count=places),
        "timing/seconds": t5x_metrics.Time(),
        "timing/seqs": t5x_metrics.Sum(rows),
        "timing/seqs_per_second": rate(numerator=rows),
        "timing/seqs_per_second_per_core": rate(numerator=rows / devices),
        "timing/steps_per_second": t5x_metrics.StepsPerTime.from_model_output(),
        "timing/target_tokens_per_second": rate(numerator=places),
        "timing/target_tokens_per_second_per_core": rate(numerator=places / devices),
    }
    losses = {"loss": sums["loss"], "z_loss": sums["z_loss"], "cross_ent_loss": cross_entropy}
    for name, total in losses.items():
        metrics[name] = per_step(total=total)
        metrics[f"{name}_per_all_target_tokens"] = average(total=total, count=places)
    filled, capacity = 0, 0
    for side, tokens in (("encoder", "encoder_input_tokens"), ("decoder", "decoder_target_tokens")):
        segments = batch.get(f"{side}_segment_ids", (batch[tokens] != 0).astype(jnp.int32))
        examples, count = jnp.sum(jnp.max(segments, axis=-1)), jnp.sum(segments != 0)
        size = jnp.asarray(segments.size)
        metrics[f"effective_batch_size/{side}"] = per_step(total=examples)
        metrics[f"non_padding_fraction/{side}"] = average(total=count, count=size)
        filled, capacity = filled + count, capacity + size
    return metrics | {"non_padding_fraction/overall": average(total=filled, count=capacity)}


@dataclasses.dataclass(frozen=True)
class FromBase:
    """A hook of T5X's restoring: gives a base checkpoint what it lacks, prompt and slots.

    So T5X makes no random model beside it (`fallback_to_scratch`), and the prompt starts from
    the checkpoint's embedding. The optimizer counts from the checkpoint's step.

    Attributes:
      model: whose prompt it is.
    """

    model: Model

    def __call__(
        self, state_dict: Tree, target_state_dict: Tree, *, is_resuming: bool = False
    ) -> Tree:
        """A checkpoint's content with all that `target_state_dict` names; its own when resuming."""
        if is_resuming:
            return state_dict
        added = self.model.added()
        target = functools.reduce(_put, added.items(), state_dict["target"])
        kept = {"step": state_dict["state"]["step"]}
        if "param_states" in target_state_dict["state"]:
            optimizer, step = self.model.optimizer_def, base_model.read_step(self.model.checkpoint)
            tuned, _ = params_lib.split(target_state_dict["target"], optimizer.trainable)
            # What is not added is not read here, and slots depend on shapes.
            start = {
                path: added.get(path, jnp.zeros(x.shape, x.dtype))
                for path, x in params_lib.flatten(tuned).items()
            }
            slots = jax.device_get(optimizer.slots(params_lib.unflatten(start), step))
            kept["param_states"] = params_lib.unflatten(optimizer_lib.named_leaves(slots))
        return {**state_dict, "target": target, "state": kept}


def _put(tree: Tree, item: tuple[str, Any]) -> dict[str, Any]:
    """The tree with a leaf at a path."""
    path, leaf = item
    name, _, rest = path.partition("/")
    return {**tree, name: _put(tree.get(name, {}), (rest, leaf)) if rest else leaf}


@dataclasses.dataclass(frozen=True)
class PromptFiles:
    """A hook of T5X's saving: writes the prompt with its card, and leaves the state as it is.

    Attributes:
      model: whose prompt it is.
      model_dir: MODEL_DIR; files are prompts/prompt_<step>.npy in it.
      task: for the card.
    """

    model: Model
    model_dir: epath.PathLike
    task: str

    def __call__(self, state_dict: Tree, parameter_infos: Any) -> tuple[Tree, Any]:
        """Called with what is to be saved."""
        flat, added = params_lib.flatten(state_dict["target"]), self.model.model.adapter_paths
        leaves = {path: np.asarray(flat[path], np.float32) for path in sorted(added)}
        step = int(state_dict["state"]["step"])
        if jax.process_index() == 0:
            adapter_files.save(
                self.model_dir,
                f"prompt_{step}",
                leaves,
                self.model.model,
                base_model=self.model.checkpoint,
                base_model_digest=self.model.base_digest,
                task=self.task,
                step=step,
                metrics={},
            )
        return state_dict, parameter_infos


def task(source: pipeline.Source, split: str, vocabulary: vocabularies.Vocabulary) -> str:
    """SOURCE as T5X finds it: registered with seqio, reading with the model's vocabulary."""
    from prompt_tuning.data.tasks import registry

    return registry.add_with_vocabulary(vocabulary, source, split)
