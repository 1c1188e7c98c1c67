"""Puts a prompt into a checkpoint: a T5X native checkpoint with encoder/prompt/prompt/prompt.

Of a model without encoder it is decoder/prompt/prompt/prompt.

For programs that want model and prompt in one checkpoint, as the paper authors' code does. The optimizer's
state is left out. This package needs no such checkpoint: it takes a prompt file beside any model.
"""

import argparse
import sys
from collections.abc import Sequence

from prompt_tuning.checkpoints import splicing


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses, splices."""
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
        help="the frozen model: T5X's, native or under Orbax, or Hugging Face's",
    )  # fmt: skip
    parser.add_argument(
        "--prompt_path", required=True, metavar="FILE", help="the prompt, .npy [P, D]"
    )
    parser.add_argument(
        "--output_dir", required=True, metavar="DIR", help="checkpoint_<step> is made in it"
    )
    parser.add_argument(
        "--save_dtype", choices=["float32", "bfloat16"], default="float32",
        help="of the stored weights (default: float32)",
    )  # fmt: skip
    parser.add_argument(
        "--step", type=int,
        help="of the checkpoint that is written (default: the model's; a Hugging Face folder has none)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    main()
