"""Checks that a wheel has all files of the package and of gin/, and no others.

python scripts/check_wheel.py dist/prompt_tuning-0.1.0-py3-none-any.whl
"""

import pathlib
import sys
import zipfile
from collections.abc import Iterator, Sequence

REPOSITORY = pathlib.Path(__file__).parents[1]
# Folder in a wheel -> folder of the repository.
FOLDERS = {"prompt_tuning": "prompt_tuning", "prompt_tuning/gin_configs": "gin"}


def main(arguments: Sequence[str]) -> None:
    """Prints the number of files, or exits with the differences."""
    (wheel,) = arguments
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected_names = set(expected(REPOSITORY))
    if lines := [
        *_format_names("missing", expected_names - names),
        *_format_names("surplus", names - expected_names),
    ]:
        sys.exit(f"{wheel} differs from the repository:\n" + "\n".join(lines))
    print(f"{wheel}: {len(names)} files, as in the repository")


def expected(repository: pathlib.Path) -> Iterator[str]:
    """Yields the names that a wheel should have."""
    for prefix, folder in FOLDERS.items():
        for file in sorted((repository / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{prefix}/{file.relative_to(repository / folder).as_posix()}"


def _format_names(kind: str, names: set[str]) -> list[str]:
    return [f"  {kind}: {name}" for name in sorted(names)]


if __name__ == "__main__":
    main(sys.argv[1:])
