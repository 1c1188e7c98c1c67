"""The paper authors' gin files by their names, and T5X's: replaced, or answered with what to use."""

import gin
import pytest

from prompt_tuning.cli import gin_config, gin_file_search
from prompt_tuning.cli import main as cli

AUTHORS = """
architectures/prompt_encoder_t5_1_1_flaxformer architectures/t5_1_1_flaxformer
extended/architectures/ia3_t5_1_1_flaxformer
extended/architectures/multi_task_factorized_prompt_encoder_t5_1_1_flaxformer
extended/architectures/per_layer_prompt_encoder_t5_1_1_flaxformer
extended/models/ia3_t5_1_1 extended/models/mt5_per_layer_prompt extended/models/multi_factorized_task_mt5_base_prompt
extended/models/multi_task_t5_1_1_base_prompt extended/models/multi_task_t5_1_1_large_prompt
extended/models/multi_task_t5_1_1_prompt extended/models/multi_task_t5_1_1_small_prompt
extended/models/multi_task_t5_1_1_xl_prompt extended/models/multi_task_t5_1_1_xxl_prompt
extended/models/t5_1_1_per_layer_prompt extended/models/wayward_t5_1_1_base_prompt
extended/models/wayward_t5_1_1_large_prompt extended/models/wayward_t5_1_1_prompt
extended/runs/ia3_finetune extended/runs/multitask_factorized_prompt_finetune extended/runs/multitask_prompt_finetune
extended/test/load_multi_task_t5_1_1_tiny_prompt extended/test/multi_task_t5_1_1_tiny_prompt
extended/test/train_multi_task_t5_1_1_tiny_prompt
models/decoding/beam_search models/decoding/nucleus_sampling
models/mt5_150b_prompt models/mt5_80b_prompt models/mt5_base_prompt models/mt5_large_prompt models/mt5_prompt
models/mt5_small_prompt models/mt5_xl_prompt models/mt5_xxl_prompt
models/sizes/150b models/sizes/80b models/sizes/base models/sizes/large models/sizes/small models/sizes/xl models/sizes/xxl
models/t5_1_1_base_prompt models/t5_1_1_large_prompt models/t5_1_1_prompt models/t5_1_1_small_prompt
models/t5_1_1_xl_prompt models/t5_1_1_xxl_prompt
prompts/from_class_labels prompts/from_class_labels_numpy prompts/from_file prompts/from_sampled_vocab
prompts/from_sampled_vocab_numpy
runs/prompt_eval runs/prompt_finetune runs/prompt_infer
test/load_t5_1_1_tiny_prompt test/t5_1_1_tiny test/t5_1_1_tiny_prompt test/train_t5_1_1_tiny test/train_t5_1_1_tiny_prompt
"""
THEIRS = "prompt_tuning/configs/"
BASE, FINETUNE = f"{THEIRS}models/t5_1_1_base_prompt.gin", f"{THEIRS}runs/prompt_finetune.gin"
TASK = [
    "--gin.MIXTURE_OR_TASK_NAME='taskless_glue_sst2_v200_examples'",
    "--gin.MIXTURE_OR_TASK_MODULE='prompt_tuning.data.glue'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 8}",
    "--gin.USE_CACHED_TASKS=False",
    "--tfds_data_dir=gs://bucket/tfds",
]
CHECKPOINT = "'gs://t5-data/pretrained_models/t5x/t5_1_1_lm100k_base/checkpoint_1100000'"
TRAIN = [
    "--gin.MODEL_DIR='gs://bucket/run'",
    f"--gin.INITIAL_CHECKPOINT_PATH={CHECKPOINT}",
    "--gin.TRAIN_STEPS=1_150_000",
    *TASK,
]
LABELS = [f"--gin_file={THEIRS}prompts/from_class_labels.gin", "--gin.CLASS_LABELS=['a', 'b']"]
EVAL = [
    f"--gin.CHECKPOINT_PATH={CHECKPOINT}",
    "--gin.PROMPT_FILE='sst2.npy'",
    "--gin.utils.DatasetConfig.split='validation'",
    "--gin.utils.DatasetConfig.batch_size=128",
    *TASK,
]


@pytest.fixture(autouse=True)
def quick(quick_shapes):
    """Nothing here computes."""


def read(verb, *files, flags):
    paths = "--gin_search_paths=t5x/..,flaxformer/..,prompt_tuning/.."
    return cli.read([verb, paths, *(f"--gin_file={file}" for file in files), *flags])


@pytest.mark.parametrize("name", AUTHORS.split())
def test_every_file_of_the_authors_is_replaced_or_answered(name):
    path = f"{THEIRS}{name}.gin"
    if files := gin_file_search.replacement(path):
        assert all((gin_config.gin_folder() / file).is_file() for file in files)
        return
    with pytest.raises(cli.UsageError) as caught:
        read("train", path, flags=[])
    advice = str(caught.value).partition(f"--gin_file {path}: ")[2]
    assert advice.startswith("use "), advice


def test_a_replacement_is_of_a_file_that_the_authors_have():
    assert {name.removesuffix(".gin") for name in gin_file_search.REPLACEMENTS} <= {
        *AUTHORS.split()
    }


@pytest.mark.parametrize(
    "more",
    [
        [],
        [
            "--gin.BATCH_SIZE=32",
            "--gin.partitioning.ModelBasedPjitPartitioner.model_parallel_submesh=(4, 4, 1, 2)",
        ],
    ],
    ids=["sst2-demo.sh", "sst2-demo-xxl.sh"],
)
def test_the_training_scripts_are_read_as_they_are(more):
    model = f"{THEIRS}models/t5_1_1_{'xxl' if more else 'base'}_prompt.gin"
    options = read("train", model, flags=[*LABELS, f"--gin_file={FINETUNE}", *TRAIN, *more])
    assert gin.query_parameter("%EMBED_DIM") == (4096 if more else 768)
    assert gin.query_parameter("%CLASS_LABELS") == ["a", "b"]
    (note,) = options.notes
    ours = f"{model} -> models/t5_1_1_{'xxl' if more else 'base'}.gin, "
    assert note.startswith(f"Replaced gin files: {ours}")
    assert f"{FINETUNE} -> runs/train.gin. See docs/from_t5x.md for the differences" in note


def test_the_evaluation_script_is_read_as_it_is():
    flags = ["--gin.EVAL_OUTPUT_DIR='gs://bucket/eval'", *EVAL]
    read("eval", BASE, f"{THEIRS}runs/prompt_eval.gin", flags=flags)
    assert gin.query_parameter("%PROMPT_FILE") == "sst2.npy"


def test_inference_with_their_decoder():
    files = [f"{THEIRS}models/decoding/beam_search.gin", f"{THEIRS}runs/prompt_infer.gin"]
    read("infer", BASE, *files, flags=["--gin.INFER_OUTPUT_DIR='gs://bucket/answers'", *EVAL])
    assert gin.query_parameter("%NUM_DECODES") == 4


@pytest.mark.parametrize(
    ("files", "flags", "ours"),
    [
        (["models/ia3_t5_1_1", "runs/ia3_finetune"], [], "models/t5_1_1.gin and prompts/ia3.gin"),
        (["models/t5_1_1_per_layer_prompt"], [], "models/t5_1_1.gin and prompts/per_layer.gin"),
        (
            ["models/wayward_t5_1_1_large_prompt"],
            ["--gin.TASK_STRING='a text'"],
            "models/t5_1_1_large.gin and prompts/wayward.gin",
        ),
        (
            ["models/multi_task_t5_1_1_xl_prompt", "runs/multitask_prompt_finetune"],
            [],
            "models/t5_1_1_xl.gin and prompts/multi_task.gin",
        ),
    ],
)
def test_other_methods(files, flags, ours):
    names = [f"{THEIRS}extended/{name}.gin" for name in files]
    if len(files) == 1:
        names.append(FINETUNE)
    sizes = [f"--gin_file={THEIRS}models/sizes/base.gin"]
    options = read("train", names[0], flags=[*sizes, f"--gin_file={names[1]}", *TRAIN, *flags])
    assert f"{names[0]} -> {ours}, " in options.notes[0]


def test_a_file_of_the_user_that_includes_theirs(tmp_path):
    (tmp_path / "mine.gin").write_text(f"include '{BASE}'\nPROMPT_LENGTH = 20\n")
    options = read("train", tmp_path / "mine.gin", FINETUNE, flags=TRAIN)
    assert gin.query_parameter("%PROMPT_LENGTH") == 20
    assert f"{BASE} -> models/t5_1_1_base.gin" in options.notes[0]


def test_a_file_that_is_given_twice():
    read("train", "models/t5_1_1_base.gin", FINETUNE, FINETUNE, flags=TRAIN)


def test_a_clone_of_their_repository_is_not_read(tmp_path):
    clone = tmp_path / BASE
    clone.parent.mkdir(parents=True)
    clone.write_text("import flaxformer\n")
    options = read("train", clone, FINETUNE, flags=TRAIN)
    assert f"{clone} -> models/t5_1_1_base.gin, " in options.notes[0]


def test_all_unknown_files_are_named_at_once():
    names = {
        "t5x/examples/t5/t5_1_1/base.gin": "use models/t5_1_1_base.gin",
        "t5x/examples/scalable_t5/mt5/xl.gin": "use models/mt5_xl.gin",
        "t5x/configs/runs/finetune.gin": "use runs/train.gin and optimizers/weights.gin, with --gin.PROMPT=None",
        "configs/extended/models/ia3_t5_1_1.gin": "use models/t5_1_1.gin and prompts/ia3.gin",
        "models/t5_1_1_bas.gin": "did you mean: models/t5_1_1_base.gin, ",
    }
    with pytest.raises(cli.UsageError) as caught:
        read("train", "models/t5_1_1_base.gin", *names, flags=[])
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("gin files do not exist in any of ['.', 't5x/..', 'flaxformer/..', ")
    assert len(lines) == len(names)
    for line, (name, advice) in zip(lines, names.items(), strict=True):
        assert line.startswith(f"  --gin_file {name}: {advice}")
