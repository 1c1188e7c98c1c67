"""The commands of `prompt-tuning`, their positional arguments and their flags."""

import dataclasses
import difflib
import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class UsageError(Exception):
    """What the user gave cannot be run; the message says what to change."""


def suggest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """Advice for an unknown name: the nearest known ones, or all."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"Did you mean: {', '.join(close)}?" if close else f"Known: {', '.join(known)}."


def load_function(command: str) -> Callable[..., Any]:
    """Imports the function of a command."""
    return getattr(importlib.import_module(VERBS[command].module), VERBS[command].function)


def _mesh(text: str) -> tuple[int, int]:
    """8x4 -> (8, 4)."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text, re.ASCII):
        raise UsageError(
            f"--mesh is {text!r}; expected DATAxMODEL, the devices along each axis, e.g. --mesh 8x4."
        )
    data, model = map(int, text.split("x"))
    return data, model


def _seconds(flag: str, text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text, re.ASCII):
        raise UsageError(
            f"{flag} is {text!r}; expected an integer number of seconds, e.g. {flag} 100."
        )
    return int(text)


Flags = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Verb:
    """A command; gin/runs/<command>.gin says what it does and needs, and is its help.

    Attributes:
      module: that is imported when the command runs.
      function: of the module. gin binds its arguments; `config_text`, where it has such, is the
        settings as text, and `run`, where it has such, what runs another command line.
      flags: positional arguments and flags of this command alone, each with what
        argparse's add_argument takes. The function gets their values by name (`dest`), those
        that are given.
      gin_files: read where no --gin_file is given.
    """

    module: str
    function: str
    flags: Flags = dataclasses.field(default_factory=dict)
    gin_files: Sequence[str] = ()


VERBS = {
    "train": Verb("prompt_tuning.training.trainer", "train"),
    "eval": Verb("prompt_tuning.inference.evaluator", "evaluate"),
    "infer": Verb(
        "prompt_tuning.inference.inferencer",
        "infer",
        flags={"--shard_id": {"type": int, "metavar": "I", "help": "in place of SHARD_ID"}},
    ),
    "export": Verb("prompt_tuning.inference.exporter", "export"),
    "convert": Verb("prompt_tuning.inference.converter", "convert"),
    "ensemble": Verb("prompt_tuning.analysis.ensembling", "ensemble"),
    "neighbors": Verb("prompt_tuning.analysis.neighbors", "neighbors"),
    "similarity": Verb("prompt_tuning.analysis.similarity", "similarity"),
    "recycle": Verb("prompt_tuning.analysis.recycling", "recycle"),
    "describe": Verb(
        "prompt_tuning.distributed.describer",
        "describe",
        flags={
            "--json": {
                "action": "store_true",
                "dest": "as_json",
                "help": "one JSON object on standard output",
            },
            "--mesh": {
                "type": _mesh,
                "metavar": "DATAxMODEL",
                "help": "e.g. 8x4: compiles a training step for 8 × 4 simulated devices, and reports "
                "the memory of each and their communication",
            },
        },
    ),
    "parameters": Verb("prompt_tuning.analysis.parameter_counts", "parameters"),
    "study": Verb("prompt_tuning.analysis.studies", "study"),
    "tasks": Verb(
        "prompt_tuning.analysis.tasks",
        "tasks",
        flags={
            "pattern": {
                "nargs": "?",
                "default": "",
                "metavar": "PATTERN",
                "help": "part of a name, or a complete name with wildcards * and ?; default: all",
            },
            "--examples": {
                "type": int,
                "default": 0,
                "metavar": "N",
                "help": "shows N examples of the task or mixture with the name PATTERN",
            },
            "--split": {
                "metavar": "SPLIT",
                "help": "split of the examples; default: train, if it exists",
            },
        },
        gin_files=("models/t5_mini.gin", "runs/tasks.gin"),
    ),
}
FLAGS: Flags = {
    "--gin_file": {
        "action": "append",
        "default": [],
        "metavar": "FILE",
        "help": "gin file; several are read in order, later over earlier: "
        "a model, then perhaps a task, a prompt and a decoder, then a run",
    },
    "--gin_bindings": {
        "action": "append",
        "default": [],
        "metavar": "BINDING",
        "help": "e.g. 'BATCH_SIZE = 32'; --gin.BATCH_SIZE=32 is the same",
    },
    "--gin_search_paths": {
        "default": "",
        "metavar": "DIRS",
        "help": "comma-separated folders of gin files of your own",
    },
    "--tfds_data_dir": {"metavar": "DIR", "help": "folder of TFDS data sets"},
    "--seqio_additional_cache_dirs": {
        "default": "",
        "metavar": "DIRS",
        "help": "comma-separated folders of cached tasks, for USE_CACHED_TASKS",
    },
    "--coordinator_address": {
        "metavar": "HOST:PORT",
        "help": "where process 0 listens, with several processes",
    },
    "--process_count": {"type": int, "metavar": "N", "help": "number of processes"},
    "--process_index": {"type": int, "metavar": "I", "help": "number of this process"},
    "--initialization_timeout": {
        "type": functools.partial(_seconds, "--initialization_timeout"),
        "metavar": "SECONDS",
        "help": "how long processes wait for each other at the start; default: 300",
    },
    "--heartbeat_timeout": {
        "type": functools.partial(_seconds, "--heartbeat_timeout"),
        "metavar": "SECONDS",
        "help": "how long a process may be silent before the others report it and exit; default: 100",
    },
    "--multiprocess_gpu": {
        "action": "store_true",
        "help": "several processes, GPU or TPU, that find each other through the cluster",
    },
    **{
        flag: {
            "action": "store_true",
            "help": "accepted as T5X does; the log is always written to standard error",
        }
        for flag in ("--logtostderr", "--alsologtostderr")
    },
}
