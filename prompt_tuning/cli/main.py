"""The command `prompt-tuning`: reads flags and gin files, and calls the function of the command."""

import argparse
import contextlib
import inspect
import logging
import math
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import gin

import prompt_tuning
from prompt_tuning.cli import commands, gin_checks, gin_config

UsageError = commands.UsageError
# Flags of a run with several processes.
MULTIPROCESS_FLAGS = (
    "process_count",
    "process_index",
    "initialization_timeout",
    "heartbeat_timeout",
)


def _parser() -> argparse.ArgumentParser:
    title = prompt_tuning.__doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="prompt-tuning", description=title, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=prompt_tuning.__version__)
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="command")
    for verb in commands.VERBS:
        text = gin_config.header(gin_config.gin_folder() / "runs" / f"{verb}.gin")
        sub = subparsers.add_parser(
            verb,
            help=text.partition("\n")[0],
            description=text,
            epilog="--gin.NAME=VALUE sets a macro; VALUE is gin, so a string needs inner quotes: "
            "--gin.NAME=\"'text'\"\n\nshipped gin files:\n  "
            + "\n  ".join(gin_config.shipped_files()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for flag, options in _flags(verb).items():
            sub.add_argument(flag, **options)
    return parser


def _flags(verb: str) -> commands.Flags:
    return {**commands.VERBS[verb].flags, **commands.FLAGS}


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the bindings `NAME = VALUE` of --gin.NAME=VALUE and --gin_bindings, in order."""
    options, unknown = _parser().parse_known_args([_as_flag(each) for each in arguments])
    if unknown:
        raise UsageError(
            f"unknown argument {unknown[0]}. {commands.suggest(unknown[0], _flags(options.verb))}"
        )
    given = [name for name in MULTIPROCESS_FLAGS if getattr(options, name) is not None]
    if given and not (options.coordinator_address or options.multiprocess_gpu):
        raise UsageError(
            f"--{given[0]} is set without an address of process 0. Add --coordinator_address=HOST:PORT, "
            "or --multiprocess_gpu on a cluster that JAX detects, such as Slurm."
        )
    return options, options.gin_bindings


def _as_flag(argument: str) -> str:
    """--gin.NAME=VALUE as the flag that argparse knows; others as they are."""
    if not argument.startswith("--gin."):
        return argument
    name, equals, value = argument.removeprefix("--gin.").partition("=")
    if not equals:
        raise UsageError(f"{argument} has no value; expected --gin.{name}=VALUE.")
    return f"--gin_bindings={name} = {value}"


def _prepare(options: argparse.Namespace) -> None:
    """What must be set before the first array or data set is made."""
    if mesh := getattr(options, "mesh", None):
        import jax

        # Devices that are not there: nothing is run on them.
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", math.prod(mesh))
    if options.tfds_data_dir:
        from prompt_tuning.data import sources

        sources.set_tfds_data_dir(options.tfds_data_dir)
    if options.seqio_additional_cache_dirs:
        from prompt_tuning.data import sources

        sources.add_cache_dirs(options.seqio_additional_cache_dirs.split(","))


def _together(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Within it this process is one of several, where flags say so."""
    if not (options.coordinator_address or options.multiprocess_gpu):
        return contextlib.nullcontext()
    from prompt_tuning.distributed import processes

    told = {name: getattr(options, name) for name in ("coordinator_address", *MULTIPROCESS_FLAGS)}
    # Only the training loop asks JAX where to stop.
    return processes.together(gin.config_str(), preemption=options.verb == "train", **told)


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads flags and gin files; then gin knows every setting, and nothing of earlier ones."""
    options, bindings = _parse(arguments)
    gin_config.read(options, bindings)
    return options


def run(arguments: Sequence[str]) -> Any:
    """Runs a command line (without the program's name); returns what its function returns.

    Raises UsageError, ValueError and OSError with a message for the user.
    """
    options = read(arguments)
    from prompt_tuning.training import reporting

    reporting.set_up_logging()
    for note in options.notes:
        logging.info(note)
    _prepare(options)
    verb, function = commands.VERBS[options.verb], commands.load_function(options.verb)
    names = [each.get("dest", flag.lstrip("-")) for flag, each in verb.flags.items()]
    values = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in values.items() if value is not None}
    parameters = inspect.signature(function).parameters
    if "config_text" in parameters:
        given["config_text"] = gin.config_str()
    if "run" in parameters:
        # Gin files of the commands that it runs lie where this one's do.
        paths = [f"--gin_search_paths={options.gin_search_paths}"]
        given["run"] = lambda others: run([*others, *paths])
        given["read_config"] = lambda others: read([*others, *paths]) and gin.config_str()
    with _together(options):
        return gin.get_configurable(function)(**given)


def start_process() -> None:
    """Sets what holds for a whole process: before JAX is imported and before threads start."""
    from prompt_tuning.cli import host_memory, standard_streams
    from prompt_tuning.distributed import interrupts

    standard_streams.open_closed()
    interrupts.catch()
    host_memory.keep_freed()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "prompt_tuning", "compiled")
    )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def end_process(code: int) -> NoReturn:
    """Ends the process, and where it is alone at once: threads that compile abort one that tidies up."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.exit(code)  # the others are to come to their end too: see `processes` and `watch`
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Entry point: user errors are one message and exit code 2; Ctrl-C gives 130, SIGTERM 143."""
    from prompt_tuning.distributed import interrupts

    start_process()
    try:
        run(sys.argv[1:])
    except interrupts.Terminated:
        print("prompt-tuning: terminated", file=sys.stderr)
        end_process(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        print("prompt-tuning: interrupted", file=sys.stderr)
        end_process(128 + signal.SIGINT)
    except (UsageError, ValueError, OSError) as error:
        print(f"prompt-tuning: {gin_checks.name_macros(str(error))}", file=sys.stderr)
        end_process(2)
