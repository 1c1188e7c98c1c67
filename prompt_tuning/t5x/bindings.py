"""What T5X's command lines bind, in our settings: T5X's documents, the paper authors' scripts.

A binding is looked up by its last two names, `Class.parameter` or `function.parameter`,
since T5X's are written with and without their module (`train.model_dir`,
`train_script.train.model_dir`). Macros of the same name and meaning are in no table.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Another name for the same.
RENAMED = {
    "CHECKPOINT_PATH": "INITIAL_CHECKPOINT_PATH",
    "FEATURE_LENGTHS": "TASK_FEATURE_LENGTHS",
    "PROMPT_REGEX": "TRAINABLE",
    "TRAINABLE_REGEX": "TRAINABLE",
    "RestoreCheckpointConfig.path": "INITIAL_CHECKPOINT_PATH",
    "SaveCheckpointConfig.keep": "KEEP",
    "train.model_dir": "MODEL_DIR",
    "train.total_steps": "TRAIN_STEPS",
    "train.relative_steps": "TRAIN_STEPS_RELATIVE",
    "train.eval_period": "EVAL_PERIOD",
    "train.eval_steps": "EVAL_STEPS",
    "train.stats_period": "LOG_PERIOD",
    "train.random_seed": "RANDOM_SEED",
    "evaluate.output_dir": "EVAL_OUTPUT_DIR",
    "infer.output_dir": "INFER_OUTPUT_DIR",
    "infer.mode": "MODE",
    "infer.num_shards": "NUM_SHARDS",
    "infer.shard_id": "SHARD_ID",
    "Evaluator.num_examples": "EVALUATOR_NUM_EXAMPLES",
    "JSONLogger.write_n_results": "JSON_WRITE_N_RESULTS",
    "PjitPartitioner.num_partitions": "NUM_PARTITIONS",
    "EncoderDecoderModel.z_loss": "Z_LOSS",
    "EncoderDecoderModel.label_smoothing": "LABEL_SMOOTHING",
    "EncoderDecoderModel.loss_normalizing_factor": "LOSS_NORMALIZING_FACTOR",
    "predict_batch_with_aux.num_decodes": "NUM_DECODES",
    "beam_search.alpha": "BEAM_ALPHA",
    "beam_search.num_decodes": "NUM_DECODES",
    "temperature_sample.num_decodes": "NUM_DECODES",
    "temperature_sample.temperature": "TEMPERATURE",
    "temperature_sample.topk": "TOPK",
    "temperature_sample.topp": "TOPP",
    "create_learning_rate_scheduler.base_learning_rate": "LEARNING_RATE",
    "create_learning_rate_scheduler.factors": "LEARNING_RATE_FACTORS",
    "create_learning_rate_scheduler.warmup_steps": "WARMUP_STEPS",
    "create_learning_rate_scheduler.decay_factor": "DECAY_FACTOR",
    "create_learning_rate_scheduler.steps_per_decay": "STEPS_PER_DECAY",
    "create_learning_rate_scheduler.steps_per_cycle": "STEPS_PER_CYCLE",
    "create_learning_rate_scheduler.step_offset": "STEP_OFFSET",
    "create_learning_rate_scheduler.min_learning_rate": "optimizers.learning_rate_schedule.min_learning_rate",
    "Adafactor.weight_decay_rate": "WEIGHT_DECAY_RATE",
    "Adafactor.decay_rate": "optimizers.adafactor.decay_rate",
    "Adafactor.clipping_threshold": "optimizers.adafactor.clipping_threshold",
    "Adafactor.factored": "optimizers.adafactor.factored",
    "Adafactor.multiply_by_parameter_scale": "optimizers.adafactor.multiply_by_parameter_scale",
    "Adafactor.epsilon1": "optimizers.adafactor.epsilon1",
    "T5Config.vocab_size": "NUM_EMBEDDINGS",
    "T5Config.emb_dim": "EMBED_DIM",
    "T5Config.num_heads": "NUM_HEADS",
    "T5Config.head_dim": "HEAD_DIM",
    "T5Config.mlp_dim": "MLP_DIM",
    "T5Config.num_encoder_layers": "NUM_ENCODER_LAYERS",
    "T5Config.num_decoder_layers": "NUM_DECODER_LAYERS",
    "T5Config.mlp_activations": "MLP_ACTIVATIONS",
    "T5Config.dropout_rate": "DROPOUT_RATE",
    "T5Config.dtype": "ACTIVATION_DTYPE",
    "T5Config.remat_policy": "REMAT_POLICY",
}


def _product(submesh: Any) -> int:
    return 1 if submesh is None else math.prod(map(operator.index, submesh))


# Another name, and another way to say it.
CONVERTED: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    # The mesh is laid out by JAX: how many devices share the weights is what is left to say.
    "PjitPartitioner.model_parallel_submesh": ("NUM_PARTITIONS", _product),
    "Trainer.num_microbatches": ("NUM_MICROBATCHES", lambda count: count or 1),
    "RestoreCheckpointConfig.dtype": ("WEIGHTS_DTYPE", lambda dtype: dtype or "float32"),
}
_NEW_RUN = "Remove it: prompt files and states are always float32"
_NO_FILES = "Set INFER_FILE to a TSV, CSV or JSONL file: files of tf.train.Example are not read"
_SEED = "Set RANDOM_SEED to an integer"
_RULES = "Set NUM_PARTITIONS: the partitioning rules in prompt_tuning/distributed/partitioning.py are fixed"
# What we have one way of: the values that say this way, and why.
_RNG = "Set the environment variable JAX_DEFAULT_PRNG_IMPL=unsafe_rbg"
FIXED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "USE_HARDWARE_RNG": ((False,), _RNG),
    "ACTIVATION_PARTITIONING_DIMS": ((1,), _RULES),
    "TF_EXAMPLE_FILE_PATHS": ((), _NO_FILES),
    "TF_EXAMPLE_FILE_TYPE": ((), _NO_FILES),
    "create_task_from_tfexample_file.inputs_key": ((), _NO_FILES),
    "create_task_from_tfexample_file.targets_key": ((), _NO_FILES),
    "train.use_hardware_rng": ((False,), _RNG),
    "train.actions": ((None,), "Remove it: the best prompt of a run is in MODEL_DIR/prompts"),
    "SaveCheckpointConfig.dtype": (("float32", None), _NEW_RUN),
    "SaveCheckpointConfig.checkpoint_steps": ((None,), "Set EVAL_PERIOD"),
    "RestoreCheckpointConfig.mode": (("specific",), ""),
    "RestoreCheckpointConfig.strict": (
        (True,),
        "Use a checkpoint with exactly the parameters of the model",
    ),
    "PjitPartitioner.logical_axis_rules": ((), _RULES),
    "PjitPartitioner.ici_mesh_shape": ((None,), "Set NUM_PARTITIONS"),
    "PjitPartitioner.dcn_mesh_shape": ((None,), "Set NUM_PARTITIONS"),
    "PjitPartitioner.params_on_devices": ((True,), "Remove it: weights are always on the devices"),
    "PjitPartitioner.backend": ((None,), "Set the environment variable JAX_PLATFORMS"),
    "standard_logical_axis_rules.activation_partitioning_dims": ((1,), _RULES),
    "standard_logical_axis_rules.parameter_partitioning_dims": ((1,), _RULES),
    "EncoderDecoderModel.decode_fn": (
        (),
        "Add --gin_file=decoding/beam_search.gin or decoding/nucleus_sampling.gin after the model",
    ),
    "beam_search.max_decode_len": ((None,), "Set TASK_FEATURE_LENGTHS['targets']"),
    "temperature_sample.max_decode_steps": ((None,), "Set TASK_FEATURE_LENGTHS['targets']"),
    "Adafactor.step_offset": ((0,), "Set START_STEP, from which the optimizer counts"),
    "Adafactor.epsilon2": ((1e-3,), "Remove it: optax.adafactor always scales by at least 0.001"),
    "Adafactor.beta1": ((None,), "Remove it: Adafactor has no momentum in prompt-tuning"),
    "infer.file_extension": (("jsonl",), "Remove it: predictions are always written as JSON lines"),
}
_FILES = "each file format is read and written by one library"
_KEPT = "examples are always cached in memory"
# What changes no result: any value will do.
IGNORED = {
    "EVALUATOR_USE_MEMORY_CACHE": _KEPT,
    "Evaluator.use_memory_cache": _KEPT,
    "Evaluator.logger_cls": "metrics are always written to the log, to TensorBoard and to JSON lines",
    "train.use_orbax": _FILES,
    "evaluate.use_orbax": _FILES,
    "infer.use_orbax": _FILES,
    "train.run_eval_before_training": "a run is always evaluated before its first step",
    "train.concurrent_metrics": "metrics are always computed between the steps",
    "train.gc_period": "Python's garbage collection is not changed",
    "evaluate.fallback_init_rng": "the prompt comes from PROMPT_FILE, all else from the checkpoint",
    "infer.fallback_init_rng": "the prompt comes from PROMPT_FILE, all else from the checkpoint",
    "infer.checkpoint_period": "predictions are written continuously, and a rerun resumes from them",
    "infer.checkpoint_ds_iter": "a rerun resumes from the predictions that are written",
    "infer.merge_chunked_results": "predictions are not written in chunks",
    "SaveCheckpointConfig.save_dataset": "the position in the data is always saved",
    "SaveCheckpointConfig.keep_dataset_checkpoints": "each state contains its position in the data",
    "RestoreCheckpointConfig.restore_dataset": "the position in the data is always restored",
    "RestoreCheckpointConfig.fallback_to_scratch": "the prompt is never read from the checkpoint",
    "standard_logical_axis_rules.additional_rules": "the prompt is always replicated on each device",
}
# utils.DatasetConfig's: T5X's scope -> ours.
SCOPES = {"": "", "train": "train/", "infer_eval": "eval/"}
DATASET_FIELDS = (
    "mixture_or_task_name",
    "task_feature_lengths",
    "split",
    "batch_size",
    "shuffle",
    "seed",
    "use_cached",
    "pack",
)
DATASET_MACROS = {
    "mixture_or_task_name": "MIXTURE_OR_TASK_NAME",
    "module": "MIXTURE_OR_TASK_MODULE",
}
DATASET_IGNORED = (
    "use_custom_packing_ops",
    "use_memory_cache",
    "num_prefetch_threads",
    "num_workers",
)


class Translation(NamedTuple):
    """Our bindings for one of T5X's, and what is to be told where there are none.

    `multiple_of` is the macro of ours whose multiple the value must be.
    """

    bindings: list[tuple[str, str]]
    note: str = ""
    multiple_of: str = ""


def names() -> list[str]:
    """Bindings of T5X's that are known, as its documents write them, without modules."""
    datasets = (f"DatasetConfig.{field}" for field in (*DATASET_FIELDS, "module"))
    return [*RENAMED, *CONVERTED, *FIXED, *IGNORED, *SPECIAL, *datasets]


def is_known(name: str) -> bool:
    """Whether `name` is a binding of T5X's in the tables, with or without module and scope."""
    return _key(name) in names()


def _key(name: str) -> str:
    path = name.rpartition("/")[2]
    return ".".join(path.split(".")[-2:]).replace("ModelBasedPjit", "Pjit")


def translate(name: str, value: str) -> Translation:
    """Our bindings for the binding `name` = `value`; itself where it is not one of T5X's.

    Raises ValueError where it has no meaning here; the message says what to set instead.
    """
    scope, _, path = name.rpartition("/")
    key = _key(name)
    owner, _, field = key.rpartition(".")
    if owner == "DatasetConfig" and not path.startswith("pipeline."):
        return _dataset(scope, field, value, name)
    if key in SPECIAL:
        return SPECIAL[key](key, value, name)
    if key == "RestoreCheckpointConfig.mode" and _literal(value) != "specific":
        return Translation([("RESTORE_MODE", value)])
    if key in RENAMED:
        return Translation([(RENAMED[key], value)])
    if key in CONVERTED:
        ours, convert = CONVERTED[key]
        try:
            return Translation([(ours, repr(convert(ast.literal_eval(value))))])
        except (ValueError, TypeError, SyntaxError) as error:
            raise ValueError(f"{name}={value}: not supported ({error}). Set {ours}.") from error
    if key in FIXED:
        accepted, reason = FIXED[key]
        return _fixed(name, value, accepted, reason)
    if key in IGNORED:
        return Translation([], IGNORED[key])
    return Translation([(name, value)])


def _fixed(name: str, value: str, accepted: tuple[Any, ...], reason: str) -> Translation:
    if any(value == repr(each) for each in accepted) or _literal(value) in accepted:
        return Translation([])
    expected = " or ".join(map(repr, accepted)) or "no binding of this name"
    raise ValueError(f"{name}={value}: not supported; expected {expected}. {reason}.")


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _dataset(scope: str, field: str, value: str, name: str) -> Translation:
    if field in DATASET_IGNORED:
        return Translation([], "examples are always read, cached and packed in the same way")
    if scope not in SCOPES:
        raise ValueError(
            f"{name}={value}: the scope {scope}/ is not supported; expected train/ or "
            "infer_eval/. Remove it: EVAL_STEPS uses the data of infer_eval/."
        )
    if field == "trim_output_features":
        return _fixed(name, value, (True,), "Increase TASK_FEATURE_LENGTHS")
    if field == "seed" and _literal(value) is None:
        raise ValueError(f"{name}={value}: not supported; expected an integer. {_SEED}.")
    if field == "pack" and scope == "infer_eval":
        return _fixed(name, value, (False,), "Remove it: evaluation data are never packed")
    if field == "module" or (field in DATASET_MACROS and not scope):
        return Translation([(DATASET_MACROS[field], value)])
    return Translation([(f"{SCOPES[scope]}pipeline.DatasetConfig.{field}", value)])


def _no_evaluation(key: str, value: str, name: str) -> Translation:
    ours = {
        "train.infer_eval_dataset_cfg": ("trainer.train.eval_dataset", "None"),
        "train.train_eval_dataset_cfg": ("EVAL_STEPS", "0"),
    }
    if _literal(value) is not None:
        raise ValueError(
            f"{name}={value}: not supported; expected None. Set MIXTURE_OR_TASK_NAME or EVAL_FILE."
        )
    return Translation([ours[key]])


def _save_period(_key: str, value: str, _name: str) -> Translation:
    note = "prompt and state are saved at each evaluation"
    return Translation([], note, "" if _literal(value) is None else "EVAL_PERIOD")


def _assignment_map(_key: str, value: str, name: str) -> Translation:
    """What a run adds is never read from the checkpoint, and all else is read as it is."""
    rules = _literal(value) or ()
    try:
        own = all("prompt" in rule or "ia3_scaling" in rule for rule, _ in rules)
    except (TypeError, ValueError):
        own = False
    if not own:
        raise ValueError(
            f"{name}={value}: not supported; expected only rules for prompt or ia3_scaling, "
            "which are never read from the checkpoint. Set INITIAL_CHECKPOINT_PATH to a "
            "checkpoint with the model's parameter names."
        )
    return Translation([], "prompt and ia3_scaling are never read from the checkpoint")


SPECIAL: Mapping[str, Callable[[str, str, str], Translation]] = {
    "train.infer_eval_dataset_cfg": _no_evaluation,
    "train.train_eval_dataset_cfg": _no_evaluation,
    "SaveCheckpointConfig.period": _save_period,
    "RestoreCheckpointConfig.assignment_map": _assignment_map,
}
