"""Compares the parameters of two checkpoints, which may have different formats.

Prints a JSON object: whether they are equal, the parameters that differ and by how much, the
parameters that only one of them has, and both steps. The exit status is 0 if they are equal, 1 if
they differ, and 2 on an error. Optimizer states are not compared.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from prompt_tuning.checkpoints import atomic, comparison


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the comparison and exits with its status."""
    options = _parser().parse_args(arguments)
    try:
        result = comparison.compare(
            options.first,
            options.second,
            fraction=options.frac,
            seed=options.seed,
            check=options.check,
            with_step=options.compare_step,
        )
        text = json.dumps(result, indent=2, allow_nan=False)
        if options.output is not None:
            atomic.write(options.output, f"{text}\n".encode())
    except (ValueError, OSError) as error:
        print(f"diff_checkpoints: {error}", file=sys.stderr)
        sys.exit(2)
    print(text)
    sys.exit(not result["same"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "first", help="checkpoint folder: T5X (native or under Orbax) or Hugging Face"
    )
    parser.add_argument("second", help="checkpoint folder to compare with")
    parser.add_argument(
        "--frac", type=float, default=1.0, help="fraction of the parameters to compare (default: 1)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the sampled parameters (default: 0)"
    )
    parser.add_argument(
        "--check", action="append", default=[], metavar="PATTERN",
        help="parameters to compare in any case, e.g. 'encoder/layers_0/*'; may be repeated",
    )  # fmt: skip
    parser.add_argument("--compare_step", action="store_true", help="compare the steps too")
    parser.add_argument("--output", metavar="FILE", help="file to write the JSON object to as well")
    return parser


if __name__ == "__main__":
    main()
