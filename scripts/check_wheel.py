"""What a wheel must hold: all files of the package and of gin/, and nothing else.

python scripts/check_wheel.py dist/prompt_tuning-0.1.0-py3-none-any.whl
"""

import pathlib
import sys
import zipfile
from collections.abc import Iterator, Sequence

REPOSITORY = pathlib.Path(__file__).parents[1]
# Folders of the repository, by what they are in a wheel.
FOLDERS = {"prompt_tuning": "prompt_tuning", "prompt_tuning/gin_configs": "gin"}


def main(arguments: Sequence[str]) -> None:
    """Prints how many files there are, or ends with what differs."""
    (wheel,) = arguments
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = set(expected(REPOSITORY))
    if lines := [
        *_format_names("missing", wanted - held),
        *_format_names("surplus", held - wanted),
    ]:
        sys.exit(f"{wheel} does not hold what it should:\n" + "\n".join(lines))
    print(f"{wheel}: {len(held)} files, as in the repository")


def expected(repository: pathlib.Path) -> Iterator[str]:
    """Names in the wheel."""
    for inside, folder in FOLDERS.items():
        for file in sorted((repository / folder).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{inside}/{file.relative_to(repository / folder).as_posix()}"


def _format_names(what: str, names: set[str]) -> list[str]:
    return [f"  {what}: {name}" for name in sorted(names)]


if __name__ == "__main__":
    main(sys.argv[1:])
