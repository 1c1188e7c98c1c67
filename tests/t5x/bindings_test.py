"""T5X's command lines: each binding by itself, and the paper authors' three scripts as they are."""

import json
import pathlib
import re
import sys

import gin
import numpy as np
import pytest
import seqio

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.cli import gin_checks, gin_config
from prompt_tuning.cli import main as cli
from prompt_tuning.inference import evaluator
from prompt_tuning.t5x import bindings as t5x_bindings
from prompt_tuning.training import reporting

TASKS = """
import seqio
from prompt_tuning.data import seqio_tasks
from prompt_tuning.data.text import metrics

rows = [
    {"inputs": f"she {verb} the {how} film .", "targets": how}
    for verb in ("liked", "hated", "saw", "forgot")
    for how in ("good", "bad")
]
if "demo_films" not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
        "demo_films",
        source=seqio_tasks.InMemory({"train": 40 * rows, "validation": rows}),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=seqio_tasks.text_features(),
        metric_fns=[metrics.accuracy],
    )
"""


losses: list[float] = []


class FirstStepTakenError(Exception):
    """A run has come through its first step."""


@pytest.fixture
def run(tiny_job, tmp_path, monkeypatch):
    """Runs a command line as T5X's scripts have it, on a gin file of the user's that includes ours."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "t5_1_1_base.gin").write_text(
        f"include '{tiny_job.folder}/tiny.gin'\n"
        "TRAIN_FILE = None\nEVAL_FILE = None\nINFER_FILE = None\nTASK_FEATURE_LENGTHS = None\n"
    )
    (tmp_path / "demo_films.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(seqio, "set_tfds_data_dir_override", lambda folder: None)

    def taken(log, sums):
        losses.append(float(sums["loss"]))
        raise FirstStepTakenError

    monkeypatch.setattr(reporting.StepLog, "add", taken)

    def run(*arguments):
        return cli.run([*arguments, f"--gin_search_paths={tmp_path},none"])

    yield run
    sys.modules.pop("demo_films", None)


def task_flags(checkpoint_macro, tiny):
    return [
        "--gin.MIXTURE_OR_TASK_NAME='demo_films'",
        "--gin.MIXTURE_OR_TASK_MODULE='demo_films'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 8}",
        f"--gin.{checkpoint_macro}='{tiny.checkpoint}'",
        "--gin.USE_CACHED_TASKS=False",
        "--tfds_data_dir=gs://bucket/tfds",
    ]


@pytest.mark.parametrize(
    "more",
    [
        [],
        [
            "--gin.BATCH_SIZE=32",
            "--gin.partitioning.ModelBasedPjitPartitioner.model_parallel_submesh=(2, 2, 1, 2)",
        ],
    ],
    ids=["sst2-demo.sh", "sst2-demo-xxl.sh"],
)
def test_the_training_scripts_take_their_first_step(run, tiny, tmp_path, monkeypatch, more):
    monkeypatch.setattr(evaluator.Evaluator, "evaluate", lambda *_: {})
    losses.clear()
    with pytest.raises(FirstStepTakenError):
        run(
            "train",
            "--gin_file=models/t5_1_1_base.gin",
            "--gin_file=prompts/from_class_labels.gin",
            "--gin_file=runs/train.gin",
            "--gin.CLASS_LABELS=['positive', 'negative']",
            f"--gin.MODEL_DIR='{tmp_path}/run'",
            "--gin.TRAIN_STEPS=1_150_000",
            *task_flags("INITIAL_CHECKPOINT_PATH", tiny),
            *more,
        )
    assert len(losses) == 1 and losses[0] > 0
    text = (tmp_path / "run" / "config.gin").read_text()
    assert "TRAIN_STEPS = 1150000" in text and f"NUM_PARTITIONS = {8 if more else 1}\n" in text
    assert "CLASS_LABELS = ['positive', 'negative']" in text


def test_the_evaluation_script_gives_metrics(run, tiny, tmp_path, rng):
    np.save(tmp_path / "sst2.npy", rng.normal(size=(4, 16)).astype(np.float32))
    result = run(
        "eval",
        "--gin_file=models/t5_1_1_base.gin",
        "--gin_file=runs/eval.gin",
        f"--gin.EVAL_OUTPUT_DIR='{tmp_path}/scores'",
        "--gin.utils.DatasetConfig.split='validation'",
        "--gin.utils.DatasetConfig.batch_size=128",
        f"--gin.PROMPT_FILE='{tmp_path}/sst2.npy'",
        *task_flags("CHECKPOINT_PATH", tiny),
    )
    assert result.keys() == {"demo_films"} and 0 <= result["demo_films"]["accuracy"] <= 100
    assert gin.query_parameter("pipeline.DatasetConfig.batch_size") == 128
    (line,) = (tmp_path / "scores/inference_eval/demo_films-metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1000, **result["demo_films"]}


def test_inference_as_t5x_documents_it(run, tiny, tmp_path, rng):
    prompt_files.save(tmp_path / "p.npy", rng.normal(size=(4, 16)), {})
    (path,) = run(
        "infer",
        "--gin_file=models/t5_1_1_base.gin",
        "--gin_file=decoding/beam_search.gin",
        "--gin_file=runs/infer.gin",
        f"--gin.INFER_OUTPUT_DIR='{tmp_path}/answers'",
        f"--gin.PROMPT_FILE='{tmp_path}/p.npy'",
        "--gin.utils.DatasetConfig.split='validation'",
        "--gin.infer.mode='predict_with_aux'",
        "--gin.infer_script.infer.checkpoint_period=10",
        "--gin.utils.RestoreCheckpointConfig.mode='specific'",
        "--gin.models.EncoderDecoderModel.predict_batch_with_aux.num_decodes=2",
        "--gin.decode.beam_search.alpha=0.4",
        *task_flags("CHECKPOINT_PATH", tiny),
        "--alsologtostderr",
    )
    assert path.endswith("demo_films-predict_with_aux.jsonl-00000-of-00001")
    lines = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    assert len(lines) == 8 and all(len(line["aux"]["predictions"]) == 2 for line in lines)


@pytest.mark.parametrize(
    ("name", "value", "ours"),
    [
        ("CHECKPOINT_PATH", "'a'", [("INITIAL_CHECKPOINT_PATH", "'a'")]),
        ("TRAINABLE_REGEX", "['a']", [("TRAINABLE", "['a']")]),
        ("train.total_steps", "9", [("TRAIN_STEPS", "9")]),
        ("train_script.train.total_steps", "9", [("TRAIN_STEPS", "9")]),
        ("utils.RestoreCheckpointConfig.path", "'a'", [("INITIAL_CHECKPOINT_PATH", "'a'")]),
        ("utils.RestoreCheckpointConfig.mode", "'all'", [("RESTORE_MODE", "'all'")]),
        ("utils.RestoreCheckpointConfig.mode", "'specific'", []),
        ("utils.RestoreCheckpointConfig.dtype", "None", [("WEIGHTS_DTYPE", "'float32'")]),
        ("utils.RestoreCheckpointConfig.dtype", "'bfloat16'", [("WEIGHTS_DTYPE", "'bfloat16'")]),
        ("utils.SaveCheckpointConfig.keep", "20", [("KEEP", "20")]),
        ("utils.SaveCheckpointConfig.dtype", "'float32'", []),
        ("utils.RestoreCheckpointConfig.assignment_map", "None", []),
        ("RestoreCheckpointConfig.assignment_map", "((r'^.*prompt.*$', None),)", []),
        ("RestoreCheckpointConfig.assignment_map", "[('.*ia3_scaling', None)]", []),
        ("trainer.Trainer.num_microbatches", "None", [("NUM_MICROBATCHES", "1")]),
        ("Trainer.num_microbatches", "4", [("NUM_MICROBATCHES", "4")]),
        (
            "partitioning.PjitPartitioner.model_parallel_submesh",
            "(4, 4, 1, 2)",
            [("NUM_PARTITIONS", "32")],
        ),
        (
            "train/utils.DatasetConfig.batch_size",
            "8",
            [("train/pipeline.DatasetConfig.batch_size", "8")],
        ),
        (
            "infer_eval/utils.DatasetConfig.mixture_or_task_name",
            "'a'",
            [("eval/pipeline.DatasetConfig.mixture_or_task_name", "'a'")],
        ),
        ("utils.DatasetConfig.mixture_or_task_name", "'a'", [("MIXTURE_OR_TASK_NAME", "'a'")]),
        ("train/utils.DatasetConfig.module", "'a'", [("MIXTURE_OR_TASK_MODULE", "'a'")]),
        ("train.infer_eval_dataset_cfg", "None", [("trainer.train.eval_dataset", "None")]),
        ("USE_HARDWARE_RNG", "False", []),
        ("train.use_orbax", "False", []),
        # Ours, or nobody's.
        (
            "train/pipeline.DatasetConfig.split",
            "'a'",
            [("train/pipeline.DatasetConfig.split", "'a'")],
        ),
        ("prompt.Prompt.length", "3", [("prompt.Prompt.length", "3")]),
        ("TRAIN_STEPS", "%X", [("TRAIN_STEPS", "%X")]),
    ],
)
def test_a_binding_of_t5x_is_one_of_ours(name, value, ours):
    assert t5x_bindings.translate(name, value).bindings == ours


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("USE_HARDWARE_RNG", "True", ["expected False", "JAX_DEFAULT_PRNG_IMPL"]),
        ("utils.SaveCheckpointConfig.dtype", "'bfloat16'", ["expected 'float32' or None"]),
        ("TF_EXAMPLE_FILE_PATHS", "['a']", ["expected no binding", "INFER_FILE"]),
        ("train_eval/utils.DatasetConfig.split", "'test'", ["infer_eval/", "EVAL_STEPS"]),
        ("infer_eval/utils.DatasetConfig.pack", "True", ["expected False"]),
        ("train/utils.DatasetConfig.seed", "None", ["Set RANDOM_SEED"]),
        ("train.infer_eval_dataset_cfg", "@x()", ["expected None", "EVAL_FILE"]),
        ("PjitPartitioner.model_parallel_submesh", "'a'", ["Set NUM_PARTITIONS"]),
        ("models.EncoderDecoderModel.decode_fn", "@x", ["decoding/beam_search.gin"]),
        ("train.actions", "{}", ["expected None", "MODEL_DIR/prompts"]),
        *(
            ("RestoreCheckpointConfig.assignment_map", rules, ["only rules for prompt", "Set INI"])
            for rules in ("[('a/b', 'c')]", "[('.*prompt', None), ('.*', None)]", "5", "@rules()")
        ),
    ],
)
def test_what_has_no_meaning_here_says_what_has(name, value, parts):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value}: ")) as caught:
        t5x_bindings.translate(name, value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


OTHER_WORDS = {
    "PROMPT_REGEX": "TRAINABLE",
    "TRAINABLE_REGEX": "TRAINABLE",
    "RestoreCheckpointConfig.path": "INITIAL_CHECKPOINT_PATH",
    "train.total_steps": "TRAIN_STEPS",
    "train.relative_steps": "TRAIN_STEPS_RELATIVE",
    "train.stats_period": "LOG_PERIOD",
    "create_learning_rate_scheduler.base_learning_rate": "LEARNING_RATE",
    "T5Config.vocab_size": "NUM_EMBEDDINGS",
    "T5Config.emb_dim": "EMBED_DIM",
    "T5Config.dtype": "ACTIVATION_DTYPE",
}


def test_a_field_lies_in_the_name_of_what_it_is():
    for theirs, ours in t5x_bindings.RENAMED.items():
        field = theirs.rpartition(".")[2].lower()
        if theirs not in OTHER_WORDS:
            assert field in ours.rpartition(".")[2].lower(), (theirs, ours)
    others = {theirs: t5x_bindings.RENAMED[theirs] for theirs in OTHER_WORDS}
    assert others == OTHER_WORDS


def test_every_name_of_ours_is_one(tiny_job, monkeypatch):
    """Macros are set by a shipped gin file, and arguments are there to be bound."""
    monkeypatch.setattr(gin_checks, "check_types", lambda _: None)  # names are tested, not values
    ours = {*t5x_bindings.RENAMED.values(), *(name for name, _ in t5x_bindings.CONVERTED.values())}
    texts = [file.read_text() for file in gin_config.gin_folder().rglob("*.gin")]
    macros = {name for text in texts for name in re.findall(r"^([A-Z][A-Z_0-9]*) = ", text, re.M)}
    assert {name for name in ours if "." not in name} <= macros
    arguments = sorted(name for name in ours if "." in name)
    fields = [f"train/pipeline.DatasetConfig.{field}" for field in t5x_bindings.DATASET_FIELDS]
    settings = {"MODEL_DIR": "a", "TRAIN_STEPS": 2000}
    flags = [f"--gin.{name}=1" for name in (*arguments, *fields)]
    cli.read([*tiny_job.command("train", **settings), *flags])
    for name in (*arguments, *fields):
        assert gin.query_parameter(name) == 1


def test_what_changes_nothing_is_told(tiny_job):
    options = cli.read(
        [
            *tiny_job.command("train", MODEL_DIR="a", TRAIN_STEPS=2000),
            "--gin.train.use_orbax=False",
            "--gin.EVALUATOR_USE_MEMORY_CACHE=True",
            "--gin.SaveCheckpointConfig.period=5000",
            "--gin.EVAL_PERIOD=500",
        ]
    )
    assert [note.removeprefix("Ignored ").partition(": ")[0] for note in options.notes] == [
        "--gin.train.use_orbax=False",
        "--gin.EVALUATOR_USE_MEMORY_CACHE=True",
        "--gin.SaveCheckpointConfig.period=5000",
    ]
    assert gin.query_parameter("%EVAL_PERIOD") == 500


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--gin.utils.SaveCheckpointConfig.kep=3", ["Did you mean: SaveCheckpointConfig.keep"]),
        (
            "--gin.USE_HARDWARE_RNG=True",
            ["--gin.USE_HARDWARE_RNG=True: not supported; expected False"],
        ),
        ("--gin.infer.mode='score'", ["macro MODE. It is a setting of infer, not of train"]),
        (
            "--gin.utils.RestoreCheckpointConfig.mode='latest'",
            ["RestoreCheckpointConfig.mode='latest': unknown macro RESTORE_MODE", "of eval, not"],
        ),
        *(
            (
                f"--gin.utils.SaveCheckpointConfig.period={value}",
                [
                    f"period={value}: expected a multiple of EVAL_PERIOD, which is 1000. Set EVAL_PERIOD"
                ],
            )
            for value in (500, 1500, "'a'")
        ),
        (
            "--gin.beam_search.alpha=1",
            ["unknown macro BEAM_ALPHA. Add --gin_file=decoding/beam_search.gin"],
        ),
        ("--gin_file=configs/prompts/from_class_label.gin", ["prompts/from_class_labels.gin"]),
    ],
)
def test_a_mistake_is_answered_with_what_was_meant(tiny_job, flag, parts):
    with pytest.raises(cli.UsageError) as caught:
        cli.read([*tiny_job.command("train", MODEL_DIR="a", TRAIN_STEPS=2000), flag])
    assert all(part in str(caught.value) for part in parts), str(caught.value)
