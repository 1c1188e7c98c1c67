"""scripts/t5x_commands.py with programs that only write files."""

import shlex
import sys

import pytest

from prompt_tuning.cli import gin_config
from prompt_tuning.cli import main as cli

# Replaces `python` and `prompt-tuning`: writes their files. The first training hangs after its save.
PROGRAM = f"""#!{sys.executable}
import json, pathlib, re, sys, time
import numpy as np

words = sys.argv[1:]
with open("commands.log", "a") as log:
    log.write(" ".join(words) + "\\n")
if "-c" in words:
    sys.exit()
macros = dict(re.findall(r"--gin\\.(\\w+)='?([^']*)'?(?=\\n|$)", "\\n".join(words)))
is_t5x = words[0] == "-m"
verb = words[1].removeprefix("t5x.") if is_t5x else words[0]
folder = pathlib.Path(macros.get({{"train": "MODEL_DIR", "eval": "EVAL_OUTPUT_DIR", "infer": "INFER_OUTPUT_DIR"}}.get(verb, ""), "exported"))
folder.mkdir(parents=True, exist_ok=True)
offset = 0 if is_t5x or verb != BROKEN_VERB else 5
if verb in ("train", "eval"):
    (folder / "inference_eval").mkdir(exist_ok=True)
    lines = [{{"step": step, "accuracy": step / 200 + offset}} for step in (14100, 14200)]
    (folder / "inference_eval" / "validation-metrics.jsonl").write_text("\\n".join(map(json.dumps, lines)))
if verb == "train":
    prompts = folder / "prompts"
    prompts.mkdir(exist_ok=True)
    is_resumed = (folder / "checkpoint_14100").exists()
    if not is_resumed:
        np.save(prompts / "prompt_14100.npy", np.ones(3))
        (folder / "checkpoint_14100").mkdir()
        time.sleep(60 if folder.name == "t5x_run" else 0)
    is_broken = is_resumed and BROKEN_VERB == "resume" or not is_t5x and BROKEN_VERB == "prompt"
    np.save(prompts / "prompt_14200.npy", np.ones(3) * (1 + is_broken))
if verb == "infer":
    answers = "".join(json.dumps({{"prediction": str(i + offset)}}) + "\\n" for i in range(3))
    (folder / "restaurants-predict.jsonl-00000-of-00001").write_text(answers)
"""


@pytest.fixture
def run_script(load_script, tmp_path, monkeypatch):
    """(verb whose results differ) -> the script's output folder."""

    def run(broken_verb=None):
        for name in ("python", "prompt-tuning"):
            program = tmp_path / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(PROGRAM.replace("BROKEN_VERB", repr(broken_verb)))
            program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
        load_script("t5x_commands").main([str(tmp_path / "out")])
        return tmp_path / "out"

    return run


def test_runs_the_commands_of_the_document(run_script, capsys):
    folder = run_script()
    lines = (folder / "commands.log").read_text().splitlines()
    verbs = [words.split(" --")[0] for words in lines if not words.startswith("-c")]
    train = ["-m t5x.train"] * 3
    answers = ["-m t5x.eval", "eval", "-m t5x.infer", "infer"]
    assert verbs == ["export", *train, *answers, "-m t5x.train", "train"]
    shown = capsys.readouterr().out
    assert "equal prompt: " in shown and "equal predictions of infer: ['0', '1', '2']" in shown


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("resume", "prompt: [0-9a-f]{64}, expected [0-9a-f]{64}"),
        ("eval", r"accuracy of eval: \[75.5, 76.0\], expected \[70.5, 71.0\]"),
        ("infer", r"predictions of infer: \['5', '6', '7'\], expected \['0', '1', '2'\]"),
        (
            "prompt",
            r"steps of prompts that differ by at most 0.0001: \[14100\], expected \[14100, 14",
        ),
        ("train", r"steps of accuracies that differ by at most 1.0: \[\], expected \[14100, 14200"),
    ],
)
def test_a_difference_is_an_error(run_script, verb, message):
    with pytest.raises(SystemExit, match=message):
        run_script(verb)


def test_a_failed_command_is_an_error_with_its_log(load_script, tmp_path):
    shell = load_script("t5x_commands").Shell(tmp_path, "NAME=value")
    with pytest.raises(SystemExit, match=r"(?s)it exited with 2:\n.*value is wrong"):
        shell.run("it", """bash -c 'echo "'$NAME' is wrong" >&2; exit 2'""")


def test_translated_commands_have_valid_settings(load_script, monkeypatch, tmp_path):
    script = load_script("t5x_commands")
    monkeypatch.setenv("GIN", str(gin_config.gin_folder()))
    variables, export, *commands = script.read_commands()
    assert variables.startswith("GIN=") and export.startswith("prompt-tuning export ")
    for verb, command in zip(("train", "eval", "infer"), commands, strict=True):
        assert command.startswith(f"python -m t5x.{verb} ")
        words = shlex.split(script.to_prompt_tuning(command, {}))
        assert words[:2] == ["prompt-tuning", verb]
        cli.read(words[1:])
