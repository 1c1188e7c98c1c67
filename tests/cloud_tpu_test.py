"""scripts/cloud_tpu: the commands of --dry_run, errors, and shellcheck of all shell scripts."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
FOLDER = REPOSITORY / "scripts" / "cloud_tpu"
SCRIPTS = {
    "create": [],
    "install": [],
    "train": ["--", "--gin_file=x.gin"],
    "collect": ["--model_dir=gs://b/run", "--output=o"],
    "clean_up": [],
}
TPU = ["gcloud", "compute", "tpus", "tpu-vm"]
HERE = ["--name=t", "--zone=z"]


def call(script, *arguments, **settings):
    line = ["bash", str(FOLDER / f"{script}.sh"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, **settings)


def dry(script, *arguments):
    """The commands that a script would run, as lists of arguments."""
    shown = call(script, *HERE, "--dry_run", *arguments, check=True)
    assert shown.stderr == ""
    return [shlex.split(line) for line in shown.stdout.splitlines()]


def test_create_has_type_version_and_project():
    machine = ["--accelerator-type=v3-8", "--version=tpu-ubuntu2204-base"]
    assert dry("create") == [[*TPU, "create", "t", *machine, "--zone=z"]]
    slice_flags = ["--accelerator_type=v3-32", "--version=v 2", "--spot", "--project=p"]
    machine = ["--accelerator-type=v3-32", "--version=v 2", "--spot"]
    assert dry("create", *slice_flags) == [
        [*TPU, "create", "t", *machine, "--zone=z", "--project=p"]
    ]


def test_install_reaches_every_worker():
    archive, copy, remote = dry("install", "--python=python3.12")
    assert archive[:4] == ["git", "-C", str(REPOSITORY), "archive"] and archive[-1] == "HEAD"
    assert copy == [*TPU, "scp", "prompt-tuning.tar.gz", "t:", "--worker=all", "--zone=z"]
    assert remote[:7] == [*TPU, "ssh", "t", "--worker=all"] and remote[8:] == ["--zone=z"]
    steps = remote[7].removeprefix("--command=").split(" && ")
    assert steps == [
        "sudo apt-get -o DPkg::Lock::Timeout=600 update -q",
        "sudo apt-get -o DPkg::Lock::Timeout=600 install -yq python3.12 python3.12-venv",
        "rm -rf prompt-tuning",
        "mkdir prompt-tuning",
        "tar -xzf prompt-tuning.tar.gz -C prompt-tuning",
        "python3.12 -m venv prompt-tuning/.venv",
        "prompt-tuning/.venv/bin/pip install -q './prompt-tuning[gcs]' 'jax[tpu]'",
        "prompt-tuning/.venv/bin/prompt-tuning --version",
    ]


def write_program(worker, text):
    """Writes a shell script in place of a worker's prompt-tuning."""
    program = worker / "prompt-tuning" / ".venv" / "bin" / "prompt-tuning"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{text}")
    program.chmod(0o755)


@pytest.mark.parametrize("flags", [[], ["--slice"], ["--command=eval"]])
def test_train_passes_arguments_to_every_worker_unchanged(tmp_path, flags):
    words = ["--gin_file=runs/train.gin", "--gin.MODEL_DIR='gs://a b/$x'", '--gin.A=["c"]']
    ((*command, remote, zone),) = dry("train", *flags, "--", *words)
    assert [*command, zone] == [*TPU, "ssh", "t", "--worker=all", "--zone=z"]
    # Run the command as a worker's shell does.
    write_program(tmp_path, 'printf "%s\\n" "$@"\nexit 3\n')
    (tmp_path / "train.pid").write_text(f"{os.getpid()}\n")  # of another program
    line = remote.removeprefix("--command=")
    shown = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    verb = "eval" if flags == ["--command=eval"] else "train"
    received = (tmp_path / f"{verb}.log").read_text().splitlines()
    assert received == [verb, *words, *(["--multiprocess_gpu"] if flags == ["--slice"] else [])]
    assert shown.returncode == 3 and words[1] in shown.stdout


def test_a_second_train_follows_the_running_one(tmp_path):
    ((*_, remote, _),) = dry("train", "--", "x")
    line = ["bash", "-c", remote.removeprefix("--command=")]
    write_program(
        tmp_path,
        "echo >> starts\necho started\nwhile [ ! -e stop ]; do sleep 0.05; done\necho done\n",
    )
    settings = {"cwd": tmp_path, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **settings) as first:
        assert first.stdout.readline() == "started\n"
        with subprocess.Popen(line, **settings) as second:
            assert second.stdout.readline() == "started\n"
            (tmp_path / "stop").touch()
            assert second.stdout.read() == "done\n"
        assert first.stdout.read() == "done\n"
    assert (tmp_path / "starts").read_text() == "\n"


def test_collect_copies_from_a_bucket_or_a_worker():
    log = [*TPU, "scp", "t:train.log", "my o", "--worker=0", "--zone=z"]
    assert dry("collect", "--model_dir=gs://b/run/", "--output=my o") == [
        ["mkdir", "-p", "my o"],
        ["gcloud", "storage", "cp", "--recursive", "gs://b/run", "my o"],
        log,
    ]
    assert dry("collect", "--model_dir=run", "--output=my o")[1:] == [
        [*TPU, "scp", "--recurse", "t:run", "my o", "--worker=0", "--zone=z"],
        log,
    ]


def test_clean_up_deletes_the_tpu():
    assert dry("clean_up") == [[*TPU, "delete", "t", "--quiet", "--zone=z"]]


def test_runs_the_printed_command(tmp_path):
    program = tmp_path / "gcloud"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\nexit 7\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shown = call("clean_up", "--name=my t", "--zone=z", env=environment)
    assert shown.returncode == 7  # gcloud's
    assert shlex.split(shown.stdout)[1:] == (tmp_path / "words").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_errors(script):
    shown = call(script, "--help", check=True).stdout
    assert f"Usage: scripts/cloud_tpu/{script}.sh --name=NAME" in shown and "--dry_run" in shown
    assert "source=" not in shown
    for arguments, part in (
        (["--name=t"], "--zone= is required"),
        ([*HERE, "--zon=z"], "unknown flag --zon="),
        ([*HERE, "--spto"], "unknown flag --spto"),
        ([*HERE, "now"], "unexpected argument now"),
    ):
        shown = call(script, *arguments, "--dry_run", *SCRIPTS[script])
        assert shown.returncode == 2 and shown.stdout == "", shown
        assert part in shown.stderr and f"{script}.sh: " in shown.stderr


def test_train_requires_arguments():
    shown = call("train", *HERE, "--dry_run")
    assert shown.returncode == 2 and "required after --" in shown.stderr


def test_shellcheck_accepts_all_shell_scripts():
    linter = shutil.which(
        "shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    assert linter, "pip install -e '.[test]' installs it"
    scripts = [*REPOSITORY.glob("scripts/**/*.sh"), REPOSITORY / ".ci" / "run"]
    assert len(scripts) >= 9
    shown = subprocess.run(
        [linter, "--external-sources", *map(str, scripts)],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stdout
