"""Long trials of reliability: kills, signals, damage, full disks, several processes, long input.

Each case runs commands in separate processes and returns a row of the table in docs/reliability.md.
The tests have short forms of them.
"""

import argparse
import importlib
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

# Name -> module of this folder with a function of this name: (folder, tries) -> row, a dict with
# "trial" and "result" as text, and "passed". `tries` is None for the default of the case.
CASES: dict[str, str] = {
    "kill": "torture_kills",
    "sigterm": "torture_kills",
    "damage": "torture_damage",
    "disk_full": "torture_disk",
    "processes": "torture_processes",
    "infer": "torture_infer",
    "infer_memory": "torture_infer",
    "train_memory": "torture_infer",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs cases and prints JSON lines and a table; exits with 1 if a case fails."""
    options = _parser().parse_args(arguments)
    rows = []
    for name in options.cases or CASES:
        folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix="torture_")) / name
        folder.mkdir(parents=True)
        start = time.monotonic()
        row = getattr(importlib.import_module(CASES[name]), name)(folder, options.tries)
        rows.append({"case": name, **row, "seconds": round(time.monotonic() - start)})
        print(json.dumps(rows[-1]), flush=True)
    print(_table(rows), file=sys.stderr)
    if not all(row["passed"] for row in rows):
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)}; default: all"
    )
    parser.add_argument(
        "--tries", type=int, metavar="N", help="size of a case in place of its default"
    )
    parser.add_argument(
        "--folder", metavar="DIR", help="folder for runs and logs; default: a temporary one"
    )
    return parser


def _table(rows: Sequence[dict]) -> str:
    lines = ["| case | trial | result | seconds |", "|---|---|---|---|"]
    lines += [f"| {r['case']} | {r['trial']} | {r['result']} | {r['seconds']} |" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
