"""Reads gin files and bindings into gin's configuration, with checks; the command line uses gin here only."""

import argparse
import os
import pathlib
import re
from collections.abc import Sequence

import gin

import prompt_tuning
from prompt_tuning.cli import commands, gin_checks, gin_file_search, gin_files
from prompt_tuning.t5x import bindings as t5x_bindings

UsageError = commands.UsageError
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


def shipped_files() -> list[str]:
    """Files for this command; those for T5X's programs are not."""
    folder = gin_folder()
    files = [file.relative_to(folder) for file in folder.rglob("*.gin")]
    return sorted(str(file) for file in files if file.parts[0] != FOR_T5X)


def read(options: argparse.Namespace, bindings: Sequence[str]) -> None:
    """Reads files, then bindings; every macro is known and every required one set."""
    run_file = gin_folder() / "runs" / f"{options.verb}.gin"
    names = options.gin_file or commands.VERBS[options.verb].gin_files
    if not names:
        raise UsageError(f"--gin_file is not set; {options.verb} requires:\n{header(run_file)}")
    folders = [*filter(None, options.gin_search_paths.split(",")), str(gin_folder())]
    files = gin_file_search.find(names, folders, shipped_files())
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
    gin_checks.bind_alternatives(read_macros())
    _check_complete(options.verb)
    gin.finalize()
    gin_checks.check_types(commands.load_function(options.verb))


def _bind(bindings: Sequence[str], verb: str) -> list[str]:
    """Sets macros and arguments, and translates T5X's bindings; returns notes on those that change nothing."""
    known, notes, periods = read_macros(), [], []
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
                advice = _set_in(macro, verb) or commands.suggest(macro, known)
                raise UsageError(f"{flag}: unknown macro {macro}. {advice}")
            try:
                _parse(gin.parse_config, f"{macro} = {text}", flag, gin_checks.advise(name, value))
            except UsageError as error:
                if "No configurable matching" not in str(error):
                    raise
                raise UsageError(
                    f"{error}\n{commands.suggest(name, t5x_bindings.names())}"
                ) from error
    for period in periods:
        _check_multiple(*period)
    return notes


def _check_multiple(flag: str, value: str, macro: str) -> None:
    """Raises UsageError for a period of T5X that is not a multiple of the macro which replaces it."""
    ours = read_macros().get(macro, "")
    if not (value.isdecimal() and ours.isdecimal() and int(value) % int(ours) == 0):
        raise UsageError(
            f"{flag}: expected a multiple of {macro}, which is {ours or 'not set'}. Set {macro} to the "
            "same number of steps, or to a divisor of it."
        )


def _check_read() -> list[str]:
    """Finds macros of gin files that nothing reads; returns notes on those of T5X.

    A shipped file may set what another shipped file reads: those macros are known.
    """
    macros, notes = read_macros(), []
    ours = gin_files.used_macros(gin.config_str()).union(
        *(_assigned(file) for file in shipped_files())
    )
    for name in sorted(macros.keys() - ours):
        try:
            meant = t5x_bindings.translate(name, macros[name])
        except ValueError as error:
            raise UsageError(f"a gin file sets {error}") from error
        for other, _ in meant.bindings:
            advice = f"Set {other}." if other != name else commands.suggest(name, sorted(ours))
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
        _parse(gin.parse_config_file, file, f"--gin_file {file}")
    except UsageError as error:
        # The last line of gin's message is the statement.
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


def _parse(parse, what: str, flag: str, advice: str = "") -> None:
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


def read_macros() -> dict[str, str]:
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
    files = [file for file in shipped_files() if macro in _assigned(file)]
    others = {f"runs/{each}.gin": each for each in commands.VERBS if each != verb}
    if here := [file for file in files if file not in others]:
        return f"Add --gin_file={' or '.join(here)}."
    where = " and ".join(others[file] for file in files)
    return f"It is a setting of {where}, not of {verb}." if where else ""


def _check_complete(verb: str) -> None:
    macros, text = read_macros(), gin.config_str()
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
