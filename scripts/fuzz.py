"""Coverage-guided fuzzing of a reader: inputs that reach new code of this package are kept and changed further.

A file that is neither read nor refused with a message of this package, takes over 10 s or over 4 GiB, or ends the
process, is a finding: it is reported, kept as FOLDER/READER/finding-*, and the exit code is not 0.
Needs atheris, which the package does not: pip install atheris, into an environment of its own.

    python scripts/fuzz.py "T5X index" --minutes 3
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence

SECONDS, MEBIBYTES, LONGEST = 10, 4096, 2**20
# What JSON, headers and tables have at places where a random byte seldom makes sense.
WORDS = (
    "null",
    "true",
    "NaN",
    "-1",
    "1e999",
    "[]",
    "{}",
    "[[[[[[",
    "999999999999",
    "shape",
    "/etc/",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzzes one reader; libFuzzer reports inputs, coverage and findings, and ends the process."""
    import atheris

    # What is imported here is counted as covered or not.
    with atheris.instrument_imports(include=["prompt_tuning"]):
        import hostile_files
    options = _parser(hostile_files.TARGETS).parse_args(arguments)
    folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix="fuzz_")) / options.reader
    trial = hostile_files.Trial(options.reader, folder / "files")
    (folder / "inputs").mkdir(exist_ok=True)
    (folder / "inputs" / "valid").write_bytes(trial.valid)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in WORDS))
    flags = {
        "max_total_time": round(60 * options.minutes),
        "timeout": SECONDS,
        "rss_limit_mb": MEBIBYTES,
        "max_len": LONGEST,
        "dict": folder / "words",
        "artifact_prefix": f"{folder}/finding-",
    }
    line = [sys.argv[0], *(f"-{name}={value}" for name, value in flags.items())]
    atheris.Setup([*line, str(folder / "inputs")], trial.try_content)
    atheris.Fuzz()


def _parser(readers: Sequence[str]) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("reader", choices=list(readers), metavar="READER", help=", ".join(readers))
    parser.add_argument("--minutes", type=float, default=3, help="default: 3")
    parser.add_argument(
        "--folder", metavar="DIR", help="for inputs and findings; default: a new one"
    )
    return parser


if __name__ == "__main__":
    main()
