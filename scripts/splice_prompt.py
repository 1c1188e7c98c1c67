"""Writes a model and a prompt to one T5X native checkpoint, without the optimizer state.

The prompt is encoder/prompt/prompt/prompt, or decoder/prompt/prompt/prompt for a model without
encoder. The paper authors' code reads such checkpoints; this package reads a prompt file and any
model instead.
"""

import argparse
import sys
from collections.abc import Sequence

from prompt_tuning.checkpoints import splicing


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the checkpoint and prints its folder."""
    options = _parser().parse_args(arguments)
    try:
        folder = splicing.splice(
            options.checkpoint_dir,
            options.prompt_path,
            options.output_dir,
            dtype=options.save_dtype,
            step=options.step,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"splice_prompt: {error}")
    print(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint_dir", required=True, metavar="DIR",
        help="the frozen model: T5X (native or under Orbax) or Hugging Face",
    )  # fmt: skip
    parser.add_argument(
        "--prompt_path", required=True, metavar="FILE", help="the prompt, a .npy file [P, D]"
    )
    parser.add_argument(
        "--output_dir",
        required=True,
        metavar="DIR",
        help="folder in which checkpoint_<step> is created",
    )
    parser.add_argument(
        "--save_dtype", choices=["float32", "bfloat16"], default="float32",
        help="dtype of the stored weights (default: float32)",
    )  # fmt: skip
    parser.add_argument(
        "--step", type=int,
        help="step of the checkpoint (default: the model's; a Hugging Face folder may have none)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    main()
