"""Coverage-guided fuzzing of a reader of scripts/hostile_files.py.

An input is a finding if it is neither read nor refused with a message of this package, takes more
than 10 s or 4 GiB, or crashes the process. Findings are kept as FOLDER/READER/finding-*, and the
exit code is not 0. Requires atheris: pip install atheris, in a separate environment.

    python scripts/fuzz.py "T5X index" --minutes 3
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence

SECONDS, MEBIBYTES, MAX_LENGTH = 10, 4096, 2**20
# Values that random bytes seldom form, for JSON, headers and tables.
DICTIONARY = (
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
    """Fuzzes one reader; libFuzzer logs coverage and findings, and ends the process."""
    import atheris

    # Coverage is measured for modules imported here.
    with atheris.instrument_imports(include=["prompt_tuning"]):
        import hostile_checkpoints
        import hostile_data
        import hostile_files
    targets = hostile_checkpoints.TARGETS | hostile_data.TARGETS
    options = _parser(targets).parse_args(arguments)
    folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix="fuzz_")) / options.reader
    trial = hostile_files.Trial(targets[options.reader], folder / "files")
    (folder / "inputs").mkdir(exist_ok=True)
    (folder / "inputs" / "valid").write_bytes(trial.valid)
    (folder / "dictionary").write_text("".join(f'"{value}"\n' for value in DICTIONARY))
    flags = {
        "max_total_time": round(60 * options.minutes),
        "timeout": SECONDS,
        "rss_limit_mb": MEBIBYTES,
        "max_len": MAX_LENGTH,
        "dict": folder / "dictionary",
        "artifact_prefix": f"{folder}/finding-",
    }
    line = [sys.argv[0], *(f"-{name}={value}" for name, value in flags.items())]
    atheris.Setup([*line, str(folder / "inputs")], trial.try_content)
    atheris.Fuzz()


def _parser(readers: Sequence[str]) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("reader", choices=list(readers), metavar="READER", help=", ".join(readers))
    parser.add_argument("--minutes", type=float, default=3, help="duration (default: 3)")
    parser.add_argument(
        "--folder", metavar="DIR", help="folder for inputs and findings; default: a temporary one"
    )
    return parser


if __name__ == "__main__":
    main()
