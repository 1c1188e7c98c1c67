"""What a run survives, tried at length: kills, signals, damage, full disks, many processes, hostile files.

Each case runs commands on t5_mini in processes of their own and gives a row of the table in
docs/reliability.md. The tests have a short form of each.
"""

import argparse
import importlib
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

# Name -> module of this folder with a function of the same name: (folder, tries) -> row, a dict with
# "tried", what was done, and "found", what came of it, as a person reads them, and "passed".
# `tries` is None for the number that the docs' table has.
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
    """Runs the cases, prints each as a JSON line, and all as a table; exit code 1 where one failed."""
    options = _parser().parse_args(arguments)
    rows = []
    for name in options.cases or CASES:
        folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix="torture_")) / name
        folder.mkdir(parents=True)
        began = time.monotonic()
        row = getattr(importlib.import_module(CASES[name]), name)(folder, options.tries)
        rows.append({"case": name, **row, "seconds": round(time.monotonic() - began)})
        print(json.dumps(rows[-1]), flush=True)
    print(_table(rows), file=sys.stderr)
    if not all(row["passed"] for row in rows):
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all"
    )
    parser.add_argument("--tries", type=int, metavar="N", help="in place of each case's own number")
    parser.add_argument("--folder", metavar="DIR", help="for runs and logs; default: a new one")
    return parser


def _table(rows: Sequence[dict]) -> str:
    lines = ["| case | tried | found | seconds |", "|---|---|---|---|"]
    lines += [f"| {r['case']} | {r['tried']} | {r['found']} | {r['seconds']} |" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
