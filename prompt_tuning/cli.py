"""The command `prompt-tuning`: flags -> gin -> a call. The only file that knows gin.

gin-config 0.5 uses importlib.util without importing it; hence the import below.
"""

import argparse
import difflib
import importlib.util
import logging
import os
import pathlib
import re
import sys
from collections.abc import Sequence

import gin

import prompt_tuning

VERBS = {
    "train": (
        "prompt_tuning.runtime.trainer",
        "train",
        "Tune a prompt (or whatever TRAINABLE names) on a frozen T5.",
        "prompt-tuning train --gin_file=models/t5_mini.gin --gin_file=tasks/reviews.gin \\\n"
        "    --gin_file=runs/train.gin --gin.MODEL_DIR=\"'my_run'\"",
    ),
    "eval": (
        "prompt_tuning.runtime.evaluator",
        "evaluate",
        "Evaluate a base checkpoint with a prompt file.",
        "prompt-tuning eval --gin_file=models/t5_mini.gin --gin_file=tasks/reviews.gin \\\n"
        "    --gin_file=runs/eval.gin --gin.PROMPT_FILE=\"'my_run/prompts/best.npy'\" \\\n"
        "    --gin.EVAL_OUTPUT_DIR=\"'my_eval'\"",
    ),
    "infer": (
        "prompt_tuning.runtime.inferencer",
        "infer",
        "Answer inputs with a base checkpoint and a prompt file.",
        "prompt-tuning infer --gin_file=models/t5_mini.gin --gin_file=tasks/reviews.gin \\\n"
        "    --gin_file=runs/infer.gin --gin.PROMPT_FILE=\"'my_run/prompts/best.npy'\" \\\n"
        "    --gin.INFER_OUTPUT_DIR=\"'my_answers'\"",
    ),
    "neighbors": (
        "prompt_tuning.analysis.neighbors",
        "neighbors",
        "Print the words that each prompt vector is near.",
        "prompt-tuning neighbors --gin_file=models/t5_mini.gin --gin_file=runs/neighbors.gin \\\n"
        "    --gin.PROMPT_FILE=\"'my_run/prompts/best.npy'\"",
    ),
    "describe": (
        "prompt_tuning.runtime.describer",
        "describe",
        "Count parameters and bytes without allocating a weight.",
        "prompt-tuning describe --gin_file=models/t5_1_1_xxl.gin --gin_file=runs/describe.gin",
    ),
}

# What T5X's documents bind on the command line -> the macro that means it here.
T5X_BINDINGS = {
    "utils.SaveCheckpointConfig.keep": "KEEP",
    "utils.SaveCheckpointConfig.period": "EVAL_PERIOD",
    "trainer.Trainer.num_microbatches": "NUM_MICROBATCHES",
    "partitioning.PjitPartitioner.num_partitions": "NUM_PARTITIONS",
    "train/utils.DatasetConfig.batch_size": "BATCH_SIZE",
    "utils.DatasetConfig.batch_size": "BATCH_SIZE",
    "utils.create_learning_rate_scheduler.base_learning_rate": "LEARNING_RATE",
    "utils.create_learning_rate_scheduler.factors": "LEARNING_RATE_FACTORS",
    "utils.create_learning_rate_scheduler.warmup_steps": "WARMUP_STEPS",
    "decoding.beam_search.alpha": "BEAM_ALPHA",
    "decoding.beam_search.num_decodes": "NUM_DECODES",
    "decoding.temperature_sample.temperature": "TEMPERATURE",
    "decoding.temperature_sample.topk": "TOPK",
    "decoding.temperature_sample.topp": "TOPP",
}


class UsageError(Exception):
    """What the user gave cannot be run; the message says what to change."""


def gin_folder() -> pathlib.Path:
    """The folder of the shipped gin files: inside the package, or beside it in a checkout."""
    package = pathlib.Path(prompt_tuning.__file__).parent
    inside = package / "gin_configs"
    return inside if inside.is_dir() else package.parent / "gin"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prompt-tuning", description=prompt_tuning.__doc__, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=prompt_tuning.__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="command")
    for verb, (_, _, summary, example) in VERBS.items():
        sub = verbs.add_parser(
            verb,
            help=summary,
            description=f"{summary}\n\n{_requirements(verb)}\n\nexample:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_flags(sub)
        if verb == "describe":
            sub.add_argument(
                "--json", action="store_true", help="one JSON object on standard output"
            )
    return parser


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="gin file; several are read in order, later over earlier; "
        f"shipped ones: {', '.join(sorted(p.name for p in gin_folder().iterdir() if p.is_dir()))}/…",
    )
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="BINDING",
        help="e.g. 'BATCH_SIZE = 32'",
    )
    parser.add_argument(
        "--gin_search_paths",
        default="",
        metavar="DIRS",
        help="comma-separated folders of gin files",
    )
    parser.add_argument("--tfds_data_dir", metavar="DIR", help="folder of TFDS data sets")
    parser.add_argument(
        "--coordinator_address", help="host:port of process 0, with several processes"
    )
    parser.add_argument("--process_count", type=int, help="number of processes")
    parser.add_argument("--process_index", type=int, help="number of this process")
    parser.epilog = "--gin.NAME=VALUE sets a macro; VALUE is gin, so a string needs inner quotes."


def _requirements(verb: str) -> str:
    """The header of the run file of a verb: what it provides and requires."""
    lines = (gin_folder() / "runs" / f"{verb}.gin").read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    return "\n".join(line.lstrip("# ") if line.strip() == "#" else line[2:] for line in header)


def _split_gin_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--gin.NAME=VALUE` out: (other arguments, bindings `NAME = VALUE`)."""
    others, bindings = [], []
    for argument in arguments:
        if not argument.startswith("--gin."):
            others.append(argument)
            continue
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not equals:
            raise UsageError(f"{argument} has no value; expected --gin.{name}=VALUE")
        bindings.append(f"{T5X_BINDINGS.get(name, name)} = {value}")
    return others, bindings


def _macros() -> dict[str, str]:
    """Macros of the parsed files, with their values as text."""
    return dict(
        re.findall(r"^([A-Z][A-Z0-9_]*) = (.*(?:\n {4}.*)*)", gin.config_str(), re.MULTILINE)
    )


def _parse_gin(options: argparse.Namespace, bindings: Sequence[str]) -> None:
    """Reads files, then bindings; all macros known, all required ones set."""
    if not options.gin_file:
        raise UsageError(
            f"no --gin_file; expected a model, perhaps a task, and a run, as in\n"
            f"  {VERBS[options.verb][3]}"
        )
    folders = [*filter(None, options.gin_search_paths.split(",")), str(gin_folder())]
    files = [_find(name, folders) for name in options.gin_file]
    for folder in folders:
        gin.add_config_file_search_path(folder)
    bindings = [*options.gin_bindings, *bindings]
    # gin logs an error for each folder that an included file is not in.
    logging.disable()
    try:
        gin.parse_config_files_and_bindings(files, None, finalize_config=False)
        known = _macros()
        for binding in bindings:
            _check_macro(binding.partition("=")[0].strip(), known)
        gin.parse_config(bindings)
    except (SyntaxError, NameError, ValueError, ImportError, OSError, TypeError) as error:
        raise UsageError(f"gin: {error}") from error
    finally:
        logging.disable(logging.NOTSET)
    missing = [name for name, value in _macros().items() if value.strip() == "%gin.REQUIRED"]
    if missing:
        flags = "\n  ".join(f"--gin.{name}=…" for name in missing)
        raise UsageError(f"missing settings of these gin files:\n  {flags}")
    gin.finalize()


def _find(name: str, folders: Sequence[str]) -> str:
    for folder in ("", *folders):
        if os.path.isfile(path := os.path.join(folder, name)):
            return path
    shipped = [str(p.relative_to(gin_folder())) for p in gin_folder().rglob("*.gin")]
    nearest = difflib.get_close_matches(name, shipped, n=3)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    raise UsageError(f"--gin_file {name} is in none of {['.', *folders]}{hint}")


def _check_macro(name: str, known: dict[str, str]) -> None:
    if "." in name or "/" in name or name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=3)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else f"; known: {', '.join(known)}"
    raise UsageError(f"unknown macro {name}{hint}")


def _prepare(options: argparse.Namespace) -> None:
    """What must be set before the first array or data set is made."""
    if options.coordinator_address:
        import jax

        jax.distributed.initialize(
            options.coordinator_address, options.process_count, options.process_index
        )
    if options.tfds_data_dir:
        import seqio

        seqio.set_tfds_data_dir_override(options.tfds_data_dir)


def run(arguments: Sequence[str]):
    """Runs a command line (without the program's name); returns what its function returns."""
    others, bindings = _split_gin_flags(arguments)
    options = _parser().parse_args(others)
    module, name, _, _ = VERBS[options.verb]
    from prompt_tuning.runtime import reporting

    reporting.set_up_logging()
    _parse_gin(options, bindings)
    _prepare(options)
    function = gin.get_configurable(getattr(importlib.import_module(module), name))
    if options.verb == "describe":
        return function(as_json=options.json)
    return function(config_text=gin.config_str())


def main() -> None:
    """Entry point: errors that a user can mend are one message and exit code 2."""
    try:
        run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except (UsageError, ValueError, OSError) as error:
        # gin adds where it was called from, behind the message.
        message = str(error).split("\n  In call to configurable")[0]
        print(f"prompt-tuning: {message}", file=sys.stderr)
        sys.exit(2)


assert importlib.util  # see the module's docstring
