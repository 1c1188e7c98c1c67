"""A Hugging Face folder on the command line: no sizes are needed, and none that differ are accepted."""

import gin
import pytest

from prompt_tuning import cli
from prompt_tuning.checkpoints import base_model


@pytest.fixture
def command(tiny, tiny_job):
    """(verb, gin files before hugging_face.gin, macros) -> a command line on the tiny folder."""

    def make(verb, *model_files, **macros):
        files = [*model_files, "models/hugging_face.gin", f"runs/{verb}.gin"]
        data = {
            "TRAIN_FILE": tiny_job.folder / "train.tsv",
            "EVAL_FILE": tiny_job.folder / "eval.tsv",
            "INFER_FILE": tiny_job.folder / "infer.jsonl",
            "INITIAL_CHECKPOINT_PATH": tiny.checkpoint,
            "TASK_FEATURE_LENGTHS": {"inputs": 40, "targets": 8},
            **macros,
        }
        values = {
            k: v if isinstance(v, int | list | dict | None) else str(v) for k, v in data.items()
        }
        flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
        return [verb, *(f"--gin_file={file}" for file in files), *flags]

    return make


def test_every_command_takes_the_sizes_from_config_json(command, tmp_path, tiny):
    trained = cli.run(command("train", MODEL_DIR=tmp_path / "run", TRAIN_STEPS=1001))
    assert trained["step"] == 1001
    prompt = tmp_path / "run/prompts/best.npy"
    cli.run(command("eval", PROMPT_FILE=prompt, EVAL_OUTPUT_DIR=tmp_path / "scores"))
    cli.run(command("infer", PROMPT_FILE=prompt, INFER_OUTPUT_DIR=tmp_path / "answers"))
    cli.run(command("neighbors", PROMPT_FILE=prompt))
    cli.run(command("convert", PROMPT_FILE=prompt, OUTPUT=tmp_path / "adapter"))
    cli.run(
        command("eval", PROMPT_FILE=[str(tmp_path / "adapter")], EVAL_OUTPUT_DIR=tmp_path / "2")
    )
    cli.run(command("describe"))
    folder = cli.run(command("export", EXPORT_DIR=tmp_path, EXPORT_FORMAT="huggingface"))
    assert base_model.read_config(folder) == base_model.read_config(tiny.checkpoint)


@pytest.mark.parametrize(
    ("files", "macros", "message"),
    [
        ([], {"EMBED_DIM": 32}, "EMBED_DIM=32, but config.json has d_model 16"),
        (["models/t5_1_1_small.gin"], {}, "NUM_HEADS=6, but config.json has num_heads 8"),
        ([], {"INITIAL_CHECKPOINT_PATH": None}, "INITIAL_CHECKPOINT_PATH is None"),
    ],
)
def test_sizes_that_differ_are_named_with_those_of_config_json(command, files, macros, message):
    with pytest.raises(ValueError, match=message):
        cli.run(command("describe", *files, **macros))


def test_settings_of_a_model_file_before_it_stay(command, tiny_job, tmp_path):
    own = tmp_path / "models/tiny.gin"
    own.parent.mkdir()
    own.write_text((tiny_job.folder / "tiny.gin").read_text())
    for files, expected in ((["models/t5_1_1.gin"], (None, 100)), ([str(own)], (16, 4))):
        cli.read(command("describe", *files))
        found = tuple(gin.query_parameter(f"%{name}") for name in ("EMBED_DIM", "PROMPT_LENGTH"))
        assert found == expected


def test_sizes_of_another_format_must_be_set(tiny_job, tiny):
    flags = [f"--gin.INITIAL_CHECKPOINT_PATH={tiny.checkpoint!r}"]
    with pytest.raises(
        ValueError, match=r"EMBED_DIM, NUM_HEADS, .*NUM_DECODER_LAYERS not set; exp"
    ):
        cli.run(
            ["describe", "--gin_file=models/t5_1_1.gin", "--gin_file=runs/describe.gin", *flags]
        )
