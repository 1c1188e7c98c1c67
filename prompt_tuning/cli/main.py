"""The command `prompt-tuning`: flags -> gin -> a call. The only file that knows gin."""

import argparse
import contextlib
import difflib
import importlib
import inspect
import logging
import math
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import gin

import prompt_tuning
from prompt_tuning.cli import commands, gin_checks, gin_file_search, gin_files
from prompt_tuning.t5x import bindings as t5x_bindings

UsageError = commands.UsageError
# Flags of a run of several processes, without the address of process 0.
_TIMEOUTS = ("initialization_timeout", "heartbeat_timeout")
MULTIPROCESS_FLAGS = ("process_count", "process_index", *_TIMEOUTS)
FOR_T5X = "t5x"  # the folder of gin files that T5X's programs read


def gin_folder() -> pathlib.Path:
    """The folder of the shipped gin files: inside the package, or beside it in a checkout."""
    package = pathlib.Path(prompt_tuning.__file__).parent
    inside = package / "gin_configs"
    return inside if inside.is_dir() else package.parent / "gin"


def header(file: pathlib.Path) -> str:
    """The comment that a gin file opens with: what it provides, requires, a command, the result."""
    lines = file.read_text().split("\n")
    count = next(i for i, line in enumerate([*lines, ""]) if not line.startswith("#"))
    return "\n".join(line[2:] for line in lines[:count])


def _parser() -> argparse.ArgumentParser:
    title = prompt_tuning.__doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="prompt-tuning", description=title, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=prompt_tuning.__version__)
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="command")
    for verb in commands.VERBS:
        text = header(gin_folder() / "runs" / f"{verb}.gin")
        sub = subparsers.add_parser(
            verb,
            help=text.partition("\n")[0],
            description=text,
            epilog="--gin.NAME=VALUE sets a macro; VALUE is gin, so a string needs inner quotes: "
            "--gin.NAME=\"'text'\"\n\nshipped gin files:\n  " + "\n  ".join(_shipped()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for flag, options in _flags(verb).items():
            sub.add_argument(flag, **options)
    return parser


def _flags(verb: str) -> commands.Flags:
    return {**commands.VERBS[verb].flags, **commands.FLAGS}


def _shipped() -> list[str]:
    """Files for this command; those for T5X's programs are not."""
    folder = gin_folder()
    files = [file.relative_to(folder) for file in folder.rglob("*.gin")]
    return sorted(str(file) for file in files if file.parts[0] != FOR_T5X)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the bindings `NAME = VALUE` of --gin.NAME=VALUE and --gin_bindings, in order."""
    options, unknown = _parser().parse_known_args([_as_flag(each) for each in arguments])
    if unknown:
        raise UsageError(
            f"unknown argument {unknown[0]}. {_nearest(unknown[0], _flags(options.verb))}"
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


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"Did you mean: {', '.join(close)}?" if close else f"Known: {', '.join(known)}."


def _parse_gin(options: argparse.Namespace, bindings: Sequence[str]) -> None:
    """Reads files, then bindings; every macro is known and every required one set."""
    run_file = gin_folder() / "runs" / f"{options.verb}.gin"
    names = options.gin_file or commands.VERBS[options.verb].gin_files
    if not names:
        raise UsageError(f"--gin_file is not set; {options.verb} requires:\n{header(run_file)}")
    folders = [*filter(None, options.gin_search_paths.split(",")), str(gin_folder())]
    files = gin_file_search.find(names, folders, _shipped())
    for name, file in zip(names, files, strict=True):
        _check_reader(name, file)
    gin.clear_config()
    gin.config._LOCATION_PREFIXES[:] = ["", *folders]
    # Without gin's reader that takes a folder for a Python package: it logs each miss as an error,
    # and fails where there is a folder `models` or `runs` on Python's path.
    replaced: dict[str, tuple[str, ...]] = {}
    gin.config._FILE_READERS[:] = [
        gin_file_search.reader_of_replaced(replaced),
        (gin_files.open_once(), os.path.isfile),
    ]
    try:
        for file in files:
            _read_file(file)
    finally:
        gin.config._FILE_READERS[:] = [(open, os.path.isfile)]
    _check_order(files)
    options.notes = [
        *gin_file_search.notes_of(replaced),
        *_bind(bindings, options.verb),
        *_check_read(),
    ]
    gin_checks.bind_alternatives(_macros())
    _check_complete(options.verb)
    gin.finalize()
    gin_checks.check_types(_function(options.verb))


def _bind(bindings: Sequence[str], verb: str) -> list[str]:
    """Sets macros and arguments, T5X's by our names; returns what is to be told of those without."""
    known, notes, periods = _macros(), [], []
    for binding in bindings:
        name, _, value = (part.strip() for part in binding.partition("="))
        flag, ours = f"--gin.{name}={value}", t5x_bindings.Translation([(name, value)])
        if name not in known:
            try:
                ours = t5x_bindings.translate(name, value)
            except ValueError as error:
                raise UsageError(f"--gin.{error}") from error
        if ours.note:
            notes.append(f"Ignored {flag}: {ours.note}.")
        if ours.multiple_of:
            periods.append((flag, value, ours.multiple_of))
        for macro, text in ours.bindings:
            if macro not in known and "." not in macro:
                advice = _set_in(macro, verb) or _nearest(macro, known)
                raise UsageError(f"{flag}: unknown macro {macro}. {advice}")
            try:
                _read(gin.parse_config, f"{macro} = {text}", flag, gin_checks.advise(name, value))
            except UsageError as error:
                if "No configurable matching" not in str(error):
                    raise
                raise UsageError(f"{error}\n{_nearest(name, t5x_bindings.names())}") from error
    for period in periods:
        _check_multiple(*period)
    return notes


def _check_multiple(flag: str, value: str, macro: str) -> None:
    """A period of T5X's that another setting of ours stands for, which is read when all are bound."""
    ours = _macros().get(macro, "")
    if not (value.isdecimal() and ours.isdecimal() and int(value) % int(ours) == 0):
        raise UsageError(
            f"{flag}: expected a multiple of {macro}, which is {ours or 'not set'}. Set {macro} to the "
            "same number of steps, or to a divisor of it."
        )


def _check_read() -> list[str]:
    """Finds macros of gin files that nothing reads; returns what is to be told of T5X's.

    A shipped file may set what another shipped file reads: those macros are known.
    """
    macros, notes = _macros(), []
    ours = gin_files.used_macros(gin.config_str()).union(*(_assigned(file) for file in _shipped()))
    for name in sorted(macros.keys() - ours):
        try:
            meant = t5x_bindings.translate(name, macros[name])
        except ValueError as error:
            raise UsageError(f"a gin file sets {error}") from error
        for other, _ in meant.bindings:
            advice = f"Set {other}." if other != name else _nearest(name, sorted(ours))
            raise UsageError(f"a gin file sets {name}, which is not a setting. {advice}")
        if meant.note:
            notes.append(f"Ignored {name} of a gin file: {meant.note}.")
    return notes


def _check_reader(name: str, path: str) -> None:
    """Raises UsageError for a file that T5X's programs read."""
    if pathlib.Path(path).resolve().parent == (gin_folder() / FOR_T5X).resolve():
        verb = pathlib.Path(path).stem.removeprefix("prompt_")
        raise UsageError(
            f"--gin_file {name} is for `python -m t5x.{verb}`; expected a gin file of prompt-tuning. "
            f"Use --gin_file=runs/{verb}.gin."
        )


def _read_file(file: str) -> None:
    try:
        _read(gin.parse_config_file, file, f"--gin_file {file}")
    except UsageError as error:
        # gin tells the line last.
        name, equals, value = str(error).rpartition("\n")[2].strip().partition(" = ")
        if equals and t5x_bindings.is_known(name):
            raise UsageError(
                f"{error}\nT5X bindings are accepted only on the command line. Remove it from the file and "
                f"add --gin.{name}={value}"
            ) from error
        if "No module named 't5x" in str(error):
            raise UsageError(
                f"{error}\nGin files of T5X are not supported; expected those of prompt-tuning. See "
                "docs/from_t5x.md for the file to use instead, and pass T5X bindings on the command line."
            ) from error
        raise


def _read(parse, what: str, flag: str, advice: str = "") -> None:
    try:
        parse(what)
    except SyntaxError as error:
        raise UsageError(f"{flag} is not valid gin: {advice or error}") from error
    except (NameError, AttributeError, ValueError, ImportError, OSError) as error:
        raise UsageError(f"{flag}: {error}") from error


def _check_order(files: Sequence[str]) -> None:
    """A model file after another file would undo what that one sets."""
    is_model = [gin_files.is_model(file) for file in files]
    if is_model != sorted(is_model, reverse=True):
        raise UsageError(
            f"the gin file of the model is not the first of {files}, and would reset what the files "
            "before it set. Put it first."
        )


def _macros() -> dict[str, str]:
    """Macros that are set, with their values as text."""
    return dict(
        re.findall(r"^([A-Z][A-Z0-9_]*) = (.*(?:\n {4}.*)*)", gin.config_str(), re.MULTILINE)
    )


def _assigned(file: str) -> set[str]:
    """Macros that a shipped file sets."""
    text = (gin_folder() / file).read_text()
    return set(re.findall(r"^([A-Z][A-Z0-9_]*) = ", text, re.MULTILINE))


def _set_in(macro: str, verb: str) -> str:
    """The shipped files that set a macro, as advice; "" where none does."""
    files = [file for file in _shipped() if macro in _assigned(file)]
    others = {f"runs/{each}.gin": each for each in commands.VERBS if each != verb}
    if here := [file for file in files if file not in others]:
        return f"Add --gin_file={' or '.join(here)}."
    where = " and ".join(others[file] for file in files)
    return f"It is a setting of {where}, not of {verb}." if where else ""


def _function(verb: str) -> Callable[..., Any]:
    command = commands.VERBS[verb]
    return getattr(importlib.import_module(command.module), command.function)


def _check_complete(verb: str) -> None:
    macros, text = _macros(), gin.config_str()
    function = f"{commands.VERBS[verb].module.rpartition('.')[2]}.{commands.VERBS[verb].function}"
    if f"\n{function}." not in text:
        raise UsageError(f"no gin file configures {verb}. Add --gin_file=runs/{verb}.gin.")
    used = gin_files.used_macros(text)
    if "MODEL" not in macros and "MODEL" in used:
        raise UsageError(f"no model is set, e.g. models/t5_1_1_base.gin. {_set_in('MODEL', verb)}")
    if unset := used - macros.keys():
        name = min(unset)
        advice = _set_in(name, verb) or f"Add --gin.{name}=VALUE."
        raise UsageError(f"macro {name} is used but not set. {advice}")
    gin_checks.check_missing(macros)


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
    _parse_gin(options, bindings)
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
    verb, function = commands.VERBS[options.verb], _function(options.verb)
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
