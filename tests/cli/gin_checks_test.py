"""Settings with a wrong type or range: the macro that was typed, and how to write it."""

import gin
import pytest

from prompt_tuning.cli import main as cli

BASE = ["--gin_file=models/t5_mini.gin", "--gin_file=tasks/reviews.gin"]
TRAIN = ["train", *BASE, "--gin_file=runs/train.gin", "--gin.MODEL_DIR='run'"]
STEPS = "--gin.TRAIN_STEPS=14600"


def message(arguments):
    with pytest.raises(cli.UsageError) as caught:
        cli.read(arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("LEARNING_RATE='0.1'", ["has type str; expected a number", "Set --gin.LEARNING_RATE=0.1."]),
        ("LEARNING_RATE=-0.1", ["LEARNING_RATE=-0.1 is out of range; expected a number greater than 0"]),
        ("LEARNING_RATE=0", ["LEARNING_RATE=0.0 is out of range; expected a number greater than 0"]),
        ("PROMPT_POPULATION=0", ["PROMPT_POPULATION=0 is out of range; expected an integer of at least 1"]),
        ("WARMUP_STEPS=-1", ["WARMUP_STEPS=-1 is out of range; expected an integer of at least 0"]),
        ("LEARNING_RATE=1e999", ["LEARNING_RATE=inf is out of range"]),
        ("WARMUP_STEPS=None", ["WARMUP_STEPS=None has type NoneType; expected an integer"]),
        ("DROPOUT_RATE=1.5", ["DROPOUT_RATE=1.5 is out of range", "at least 0 and below 1"]),
        ("BATCH_SIZE='32'", ["has type str", "Set --gin.BATCH_SIZE=32."]),
        ("BATCH_SIZE=True", ["BATCH_SIZE=True has type bool; expected an integer"]),
        ("PACK='False'", ["PACK='False' has type str", "Set --gin.PACK=False."]),
        ("PACK=0", ["PACK=0 has type int", "Set --gin.PACK=False."]),
        ("TRAIN_STEPS=1e5", ["TRAIN_STEPS=100000.0 has type float", "Set --gin.TRAIN_STEPS=100000."]),
        ("TASK_FEATURE_LENGTHS=128", ['--gin.TASK_FEATURE_LENGTHS="{\'inputs\': 512, \'targets\': 8}"']),
        ("TASK_FEATURE_LENGTHS={'inputs': '9', 'targets': 8}", ["TASK_FEATURE_LENGTHS['inputs']='9'"]),
        ("LABEL_MAP=[('0', 'bad')]", ["has type list", '--gin.LABEL_MAP="{\'0\': \'bad\'}"']),
        ("LABEL_MAP={'0': 1}", ["LABEL_MAP['0']=1 has type int; expected a str"]),
        ("CLASS_LABELS='good'", ['--gin.CLASS_LABELS="[\'good\']"']),
        ("CLASS_LABELS=['good', 5]", ["CLASS_LABELS[1]=5 has type int; expected a str"]),
        ("TRAIN_FILE=5", ["TRAIN_FILE=5 has type int", '--gin.TRAIN_FILE="\'5\'"']),
        ("MODEL_DIR=None", ["MODEL_DIR=None has type NoneType; expected a str"]),
        ("TRAINABLE='.*'", ["TRAINABLE='.*' has type str", '--gin.TRAINABLE="[\'.*\']"']),
        ("DECODER='beam'", ["DECODER='beam' has type str; expected a Decoder"]),
        ("PROMPT_LENGTH='20'", ["Set --gin.PROMPT_LENGTH=20."]),
        ("EXTRA_IDS=-1", ["EXTRA_IDS=-1 is out of range; expected an integer of at least 0"]),
        ("NUM_HEADS=0", ["NUM_HEADS=0 is out of range; expected an integer of at least 1"]),
        ("LOSS_NORMALIZING_FACTOR='SUM'", ["LOSS_NORMALIZING_FACTOR='SUM'", "'NUM_REAL_TARGET_TOKENS'"]),
        ("pipeline.DatasetConfig.batch_size='8'", ["pipeline.DatasetConfig.batch_size='8' has type str"]),
        ("EVAL_PERIOD=%RANDOM_SEED\n--gin.RANDOM_SEED='0'", ["='0' has type str"]),
    ],
)  # fmt: skip
def test_a_wrong_type_or_range_is_answered_with_the_macro_and_the_fix(setting, parts):
    flags = [each.removeprefix("--gin.") for each in setting.split("\n")]
    text = message([*TRAIN, STEPS, *(f"--gin.{flag}" for flag in flags)])
    assert all(part in text for part in parts), text


def test_what_a_run_does_not_use_is_not_checked(tmp_path):
    """Settings of other commands and methods may have any value."""
    (tmp_path / "mine.gin").write_text("BEAM_ALPHA = 'x'\n")
    cli.read([*TRAIN, STEPS, f"--gin_file={tmp_path}/mine.gin"])


@pytest.mark.parametrize(
    ("verb", "files", "parts"),
    [
        ("infer", ["decoding/labels.gin"], ["LABELS='good' has type str", "[\'good\']"]),
        ("eval", ["decoding/labels.gin"], ["LABELS='good' has type str"]),
    ],
)  # fmt: skip
def test_other_commands_are_checked_too(verb, files, parts):
    files = [f"--gin_file={file}" for file in (*files, f"runs/{verb}.gin")]
    settings = ["PROMPT_FILE='a.npy'", "EVAL_OUTPUT_DIR='b'", "INFER_OUTPUT_DIR='b'"]
    flags = [
        f"--gin.{each}"
        for each in settings
        if not each.startswith({"infer": "E", "eval": "I"}[verb])
    ]
    text = message([verb, *BASE, *files, *flags, "--gin.LABELS='good'"])
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("MODEL_DIR=my_run", "--gin.MODEL_DIR=\"'my_run'\"."),
        ("MODEL_DIR=/a/b", "--gin.MODEL_DIR=\"'/a/b'\"."),
        ("PACK=false", "Set --gin.PACK=False."),
        ("PACK=none", "Set --gin.PACK=None."),
        ("BATCH_SIZE=32x", "Check the syntax of 32x."),
        ("INPUT_TEMPLATE={text}", "--gin.INPUT_TEMPLATE=\"'{text}'\"."),
        ("LABEL_MAP={'a': b}", "Check the syntax of {'a': b}."),
    ],
)
def test_what_gin_cannot_parse_is_answered_with_how_to_write_it(flag, part):
    text = message([*TRAIN, STEPS, f"--gin.{flag}"])
    assert (
        text.startswith(f"--gin.{flag} is not valid gin: expected a number, True") and part in text
    )


def test_one_of_the_two_numbers_of_steps_is_required():
    text = message(TRAIN)
    assert (
        text
        == "required settings are not set. Add:\n  --gin.TRAIN_STEPS=…  or --gin.TRAIN_STEPS_RELATIVE=…"
    )
    cli.read([*TRAIN, "--gin.TRAIN_STEPS_RELATIVE=600"])
    assert gin.query_parameter("%TRAIN_STEPS") is None
    cli.read([*TRAIN, STEPS, "--gin.TRAIN_STEPS_RELATIVE=600"])
    assert gin.query_parameter("%TRAIN_STEPS") == 14600


def test_errors_of_what_gin_makes_name_the_macros(monkeypatch, capsys):
    labels = [
        "--gin_file=decoding/labels.gin",
        "--gin_file=runs/eval.gin",
        "--gin.LABELS=['a', 'a']",
    ]
    settings = ["--gin.PROMPT_FILE=None", "--gin.PROMPT=None", "--gin.EVAL_OUTPUT_DIR='b'"]
    monkeypatch.setattr("sys.argv", ["prompt-tuning", "eval", *BASE, *labels, *settings])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().err
    assert "LABELS=['a', 'a']; expected two or more different texts" in shown
    assert "labels=" not in shown and "In call to" not in shown
