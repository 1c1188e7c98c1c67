"""The command line: flags, gin files, macros, help, and what a mistake is answered with."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import gin
import pytest
import seqio

import prompt_tuning
from prompt_tuning.checkpoints import base_model
from prompt_tuning.cli import commands, gin_config
from prompt_tuning.cli import main as cli
from prompt_tuning.distributed import interrupts, processes

REPOSITORY = pathlib.Path(prompt_tuning.__file__).parents[1]
TINY_GIN = "include 'models/t5_1_1_small.gin'\nPROMPT_LENGTH = 5\n"


@pytest.fixture
def describe(tmp_path):
    """A command line on a model file of the user's."""
    (tmp_path / "mine.gin").write_text(TINY_GIN)
    return ["describe", f"--gin_file={tmp_path}/mine.gin", "--gin_file=runs/describe.gin"]


def prompt_length(arguments):
    cli.read(arguments)
    return gin.query_parameter("%PROMPT_LENGTH")


def message(arguments):
    with pytest.raises(cli.UsageError) as caught:
        cli.read(arguments)
    return str(caught.value)


def test_later_settings_win(describe, tmp_path):
    (tmp_path / "more.gin").write_text("PROMPT_LENGTH = 6\n")
    more = f"--gin_file={tmp_path}/more.gin"
    assert prompt_length(describe) == 5
    assert prompt_length([*describe, more]) == 6
    assert prompt_length([*describe, "--gin.PROMPT_LENGTH=7", more]) == 7
    assert prompt_length([*describe, "--gin.PROMPT_LENGTH=7", "--gin.PROMPT_LENGTH=8"]) == 8
    assert prompt_length([*describe, "--gin_bindings=PROMPT_LENGTH = 9"]) == 9
    both = ["--gin.PROMPT_LENGTH=7", "--gin_bindings=PROMPT_LENGTH = 9"]
    assert prompt_length([*describe, *both]) == 9
    assert prompt_length([*describe, *reversed(both)]) == 7


def test_nothing_is_left_of_earlier_settings(describe):
    cli.run([*describe, "--gin.PROMPT_LENGTH=7"])
    assert prompt_length(describe) == 5


def test_files_are_found_in_search_paths_then_shipped_ones(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "t5_1_1_small.gin").write_text(TINY_GIN.replace("small", "base"))
    files = ["--gin_file=models/t5_1_1_small.gin", "--gin_file=runs/describe.gin"]
    assert prompt_length(["describe", *files, f"--gin_search_paths=none,{tmp_path}"]) == 5
    assert gin.query_parameter("%EMBED_DIM") == 768
    assert prompt_length(["describe", *files]) == 100
    # What Python is started with `-m` in has the working folder on its path.
    monkeypatch.syspath_prepend(tmp_path)
    assert prompt_length(["describe", *files]) == 100
    monkeypatch.chdir(tmp_path)
    assert prompt_length(["describe", *files]) == 5


def test_the_package_of_a_wheel_holds_its_gin_files(tmp_path, monkeypatch):
    assert gin_config.gin_folder() == REPOSITORY / "gin"
    shutil.copytree(REPOSITORY / "gin", tmp_path / "gin_configs")
    monkeypatch.setattr(prompt_tuning, "__file__", str(tmp_path / "__init__.py"))
    assert gin_config.gin_folder() == tmp_path / "gin_configs"
    cli.read(["describe", "--gin_file=models/t5_1_1_small.gin", "--gin_file=runs/describe.gin"])


def test_describe_prints_json(describe, capsys):
    facts = cli.run([*describe, "--json"])
    assert json.loads(capsys.readouterr().out) == facts
    assert facts["trainable_params"] == 5 * 512


def test_describe_simulates_the_devices_of_a_mesh(tiny_job):
    command = tiny_job.command("describe", BATCH_SIZE=6)
    line = [sys.executable, "-m", "prompt_tuning", *command, "--mesh=3x4", "--json"]
    shown = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    facts = json.loads(shown.stdout)["mesh"]
    assert (facts["data"], facts["model"], facts["batch_size"]) == (3, 4, 6)
    assert "for 12 simulated devices" in shown.stderr


def test_flags_of_data_and_of_several_processes(describe, monkeypatch):
    given = []

    @contextlib.contextmanager
    def together(settings, **told):
        assert "describer.describe" in settings
        given.append(told)
        yield

    monkeypatch.setattr(seqio, "set_tfds_data_dir_override", given.append)
    monkeypatch.setattr(seqio, "add_global_cache_dirs", given.append)
    monkeypatch.setattr(processes, "together", together)
    several = ["--coordinator_address=host:1", "--process_count=2", "--process_index=1"]
    data = ["--tfds_data_dir=gs://data", "--seqio_additional_cache_dirs=a,b"]
    cli.run([*describe, *data, *several])
    told = {"coordinator_address": "host:1", "process_count": 2, "process_index": 1}
    unset = dict.fromkeys([*told, "initialization_timeout", "heartbeat_timeout"])
    unset["preemption"] = False  # of training alone
    assert given == ["gs://data", ["a", "b"], unset | told]
    given.clear()
    timeouts = ["--initialization_timeout=9", "--heartbeat_timeout=8"]
    cli.run([*describe, "--multiprocess_gpu", *timeouts, "--alsologtostderr"])
    assert given == [unset | {"initialization_timeout": 9, "heartbeat_timeout": 8}]


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt, 130), (interrupts.Terminated, 143)],
)
def test_exit_codes_of_signals(monkeypatch, error, code):
    def run(_):
        raise error

    monkeypatch.setattr(cli, "run", run)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code


def test_a_command_ends_by_sigterm_before_its_work(tmp_path):
    """While it reads its settings, say."""
    program = (
        "import os, signal, sys; from prompt_tuning.cli import main as cli; sys.argv = ['prompt-tuning']; "
        "cli.run = lambda _: os.kill(os.getpid(), signal.SIGTERM); cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (143, "prompt-tuning: terminated\n")


@pytest.mark.parametrize(("error", "code"), [("KeyboardInterrupt", 130), ("OSError", 2)])
def test_an_error_ends_the_process_whatever_its_threads_do(error, code):
    """Where one compiles, Python's own end aborts."""
    program = (
        "import atexit; from prompt_tuning.cli import main as cli; atexit.register(print, 'tidied up')\n"
        f"def run(_): print('told'); raise {error}\n"
        "cli.run = run; cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (code, "told\n")


def test_one_of_several_processes_ends_as_jax_has_it():
    """Process 0 serves the others until they have ended."""
    program = (
        "import atexit, jax; from prompt_tuning.cli import main as cli; atexit.register(print, 'tidied up')\n"
        "jax.distributed.is_initialized = lambda: True; cli.end_process(2)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "tidied up\n")


def test_a_verb_brings_its_gin_files_and_gives_its_flags_by_name(describe, monkeypatch):
    told = {}

    files = [word.removeprefix("--gin_file=") for word in describe[1:]]
    verb = commands.Verb(
        "prompt_tuning.distributed.describer",
        "describe",
        flags={"pattern": {"nargs": "?"}, "--as-many": {"type": int, "dest": "count"}},
        gin_files=files,
    )
    monkeypatch.setitem(commands.VERBS, "describe", verb)
    monkeypatch.setattr(cli.gin, "get_configurable", lambda function: told.update)
    cli.run(["describe", "*.glue", "--as-many=3"])
    assert told == {"pattern": "*.glue", "count": 3}


@pytest.mark.parametrize("verb", commands.VERBS)
def test_help_says_what_is_needed(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run([verb, "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for part in (
        "Requires:",
        f"Example: prompt-tuning {verb} ",
        *commands.FLAGS,
        "models/t5_mini.gin",
    ):
        assert part in text
    assert "…" not in text, "an example works as printed"


def test_main_help_names_the_commands(capsys):
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    text = capsys.readouterr().out
    assert all(verb in text for verb in commands.VERBS)
    assert "Prompt tuning for T5 on JAX (Lester et al., 2021)." in text
    assert "import prompt_tuning" not in text  # that is for Python


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train"], ["--gin_file is not set", "Requires:", "Example: prompt-tuning train "]),
        (["train", "--gin_fil=x"], ["--gin_fil=x", "Did you mean: --gin_file"]),
        (["train", "now"], ["now", "Known: --gin_file"]),
        (["train", "--mesh=8x4"], ["--mesh=8x4"]),
        (["describe", "--msh=8x4"], ["--msh=8x4", "Did you mean: --mesh"]),
        (["train", "--gin.TRAIN_STEPS"], ["expected --gin.TRAIN_STEPS=VALUE"]),
        (["train", "--process_count=2"], ["--process_count is set", "--coordinator_address"]),
        (["train", "--heartbeat_timeout=0"], ["--heartbeat_timeout is '0'", "number of seconds"]),
        (["train", "--process_index=0"], ["--process_index is set", "--multiprocess_gpu"]),
        (["train", "--gin_file=models/t5mini.gin"], ["did you mean: models/t5_mini.gin"]),
        (["train", "--gin_file=models/t5_mini.gin"], ["Add --gin_file=runs/train.gin"]),
        (["train", "--gin_file=runs/eval.gin"], ["Add --gin_file=runs/train.gin"]),
        (["train", "--gin_file=runs/train.gin"], ["no model", "models/t5_1_1.gin"]),
    ],
)
def test_a_mistake_in_flags_is_answered_with_what_was_meant(arguments, parts):
    text = message(arguments)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--gin.PROMPT_LENGHT=7", ["PROMPT_LENGHT", "Did you mean: PROMPT_LENGTH"]),
        ("--gin_bindings=PROMPT_LENGHT = 7", ["PROMPT_LENGHT", "Did you mean: PROMPT_LENGTH"]),
        ("--gin.ZZZ=7", ["ZZZ", "Known: ", "EMBED_DIM"]),
        ("--gin.BEAM_ALPHA=7", ["BEAM_ALPHA", "Add --gin_file=decoding/beam_search.gin"]),
        ("--gin.VOCABULARY_FILE=a/b", ["--gin.VOCABULARY_FILE=a/b", "inner quotes"]),
        ("--gin.VOCABULARY_FILE=a", ["--gin.VOCABULARY_FILE=a", "inner quotes"]),
        ("--gin.prompt.Prompt.lenght=7", ["--gin.prompt.Prompt.lenght", "'lenght'"]),
        ("--gin.modul.Prompt=7", ["--gin.modul.Prompt=7", "No configurable"]),
        ("--gin.EMBED_DIM=%MY_WIDTH", ["MY_WIDTH is used but not set"]),
        ("--gin.EMBED_DIM=%gin.REQUIRED", ["required settings are not set", "--gin.EMBED_DIM=…"]),
    ],
)
def test_a_mistake_in_a_setting_is_answered_with_what_was_meant(describe, flag, parts):
    text = message([*describe, flag])
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("CHECKPOINT_PATH = 'a'", ["sets CHECKPOINT_PATH, which", "Set INITIAL_CHECKPOINT_PATH"]),
        ("PROMPT_REGEX = ['.*']", ["sets PROMPT_REGEX, which", "Set TRAINABLE"]),
        ("BATCHSIZE = 8", ["sets BATCHSIZE, which is not a setting. Did you mean: BATCH_SIZE"]),
        (
            "USE_HARDWARE_RNG = True",
            ["a gin file sets USE_HARDWARE_RNG=True: not supported; expected False"],
        ),
        (
            "utils.DatasetConfig.split = 'a'",
            ["command line", "add --gin.utils.DatasetConfig.split='a'"],
        ),
        (
            "import __main__ as t\nt.train.eval_period = 3",
            ["command line", "add --gin.t.train.eval_period=3"],
        ),
        ("from t5x import utils", ["No module named 't5x'", "docs/from_t5x.md"]),
    ],
)
def test_what_nothing_reads_in_a_file_is_answered_with_what_was_meant(
    describe, tmp_path, line, parts
):
    start = "from __gin__ import dynamic_registration\n" if "import" in line else ""
    (tmp_path / "mine.gin").write_text(f"{start}{line}\n{TINY_GIN}")
    text = message(describe)
    assert all(part in text for part in parts), text


def test_a_file_may_have_macros_of_its_own_and_those_of_other_runs(describe, tmp_path):
    own = "MY_LENGTH = 6\nPROMPT_LENGTH = %MY_LENGTH\nEVAL_STEPS = 3\n"
    t5x = "USE_HARDWARE_RNG = False\nEVALUATOR_USE_MEMORY_CACHE = True\n"
    (tmp_path / "mine.gin").write_text(f"{TINY_GIN}{own}{t5x}MY_WIDTH = 512\n")
    options = cli.read([*describe, "--gin.EMBED_DIM=%MY_WIDTH"])
    (note,) = options.notes
    assert note.startswith("Ignored EVALUATOR_USE_MEMORY_CACHE of a gin file: ")


@pytest.mark.parametrize("text", ["50%OFF {text}", "it's 50%OFF", '"50%OFF" it\'s'])
def test_a_percent_sign_in_a_string_is_no_macro(describe, text):
    cli.read([*describe, f"--gin.INPUT_TEMPLATE={text!r}"])
    assert gin.query_parameter("%INPUT_TEMPLATE") == text


def test_a_model_after_what_it_sets_back_is_refused():
    files = ["prompts/from_embedded_string.gin", "models/t5_1_1_small.gin", "runs/describe.gin"]
    text = message(["describe", *(f"--gin_file={file}" for file in files)])
    assert "is not the first of" in text and "models/t5_1_1_small.gin" in text


def test_a_file_that_is_not_gin_is_named(describe, tmp_path):
    (tmp_path / "mine.gin").write_text("PROMPT_LENGTH == 3\n")
    assert f"--gin_file {tmp_path}/mine.gin" in message(describe)
    (tmp_path / "mine.gin").write_text("include 'models/none.gin'\n")
    assert "models/none.gin" in message(describe)


def test_exit_codes(describe, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prompt-tuning", *describe, "--gin.PROMPT_LENGHT=1"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("prompt-tuning: --gin.PROMPT_LENGHT=1: unknown macro")
    monkeypatch.setattr(sys, "argv", ["prompt-tuning", "trian"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "invalid choice: 'trian' (choose from 'train'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["prompt-tuning", *describe])
    cli.main()


def test_runs_as_a_module(tmp_path):
    line = [sys.executable, "-m", "prompt_tuning", "--version"]
    shown = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == prompt_tuning.__version__


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_compiled_programs_are_kept_between_runs(tmp_path, chosen):
    program = (
        "from prompt_tuning.cli import main as cli; cli.start_process(); import jax; "
        "print(jax.config.jax_compilation_cache_dir)"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        environment["JAX_COMPILATION_CACHE_DIR"] = chosen
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == (chosen or str(tmp_path / "prompt_tuning" / "compiled"))


@pytest.fixture
def hugging_face(tiny, tiny_job):
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


def test_every_command_takes_the_sizes_from_config_json(hugging_face, tmp_path, tiny):
    trained = cli.run(hugging_face("train", MODEL_DIR=tmp_path / "run", TRAIN_STEPS=1001))
    assert trained["step"] == 1001
    prompt = tmp_path / "run/prompts/best.npy"
    cli.run(hugging_face("eval", PROMPT_FILE=prompt, EVAL_OUTPUT_DIR=tmp_path / "scores"))
    cli.run(hugging_face("infer", PROMPT_FILE=prompt, INFER_OUTPUT_DIR=tmp_path / "answers"))
    cli.run(hugging_face("neighbors", PROMPT_FILE=prompt))
    cli.run(hugging_face("convert", PROMPT_FILE=prompt, OUTPUT=tmp_path / "adapter"))
    cli.run(
        hugging_face(
            "eval", PROMPT_FILE=[str(tmp_path / "adapter")], EVAL_OUTPUT_DIR=tmp_path / "2"
        )
    )
    cli.run(hugging_face("describe"))
    folder = cli.run(hugging_face("export", EXPORT_DIR=tmp_path, EXPORT_FORMAT="huggingface"))
    assert base_model.read_config(folder) == base_model.read_config(tiny.checkpoint)


@pytest.mark.parametrize(
    ("files", "macros", "message"),
    [
        ([], {"EMBED_DIM": 32}, "EMBED_DIM=32, but config.json has d_model 16"),
        (["models/t5_1_1_small.gin"], {}, "NUM_HEADS=6, but config.json has num_heads 8"),
        ([], {"INITIAL_CHECKPOINT_PATH": None}, "INITIAL_CHECKPOINT_PATH=None"),
    ],
)
def test_sizes_that_differ_are_named_with_those_of_config_json(
    hugging_face, files, macros, message
):
    with pytest.raises(ValueError, match=message):
        cli.run(hugging_face("describe", *files, **macros))


def test_settings_of_a_model_file_before_it_stay(hugging_face, tiny_job, tmp_path):
    own = tmp_path / "models/tiny.gin"
    own.parent.mkdir()
    own.write_text((tiny_job.folder / "tiny.gin").read_text())
    for files, expected in ((["models/t5_1_1.gin"], (None, 100)), ([str(own)], (16, 4))):
        cli.read(hugging_face("describe", *files))
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
