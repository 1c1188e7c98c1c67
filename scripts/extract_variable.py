"""Saves one variable of a checkpoint as a .npy file, without reading the others.

The checkpoint has T5X's format (native or under Orbax) or Hugging Face's. Names are T5X's:
token_embedder/embedding, encoder/layers_0/attention/query/kernel, …
"""

import argparse
import io
import sys
from collections.abc import Sequence

import numpy as np

from prompt_tuning.checkpoints import atomic, base_model


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the variable to the file."""
    options = _parser().parse_args(arguments)
    try:
        array = base_model.read_variable(
            options.checkpoint_dir, options.variable_path, options.restore_dtype
        )
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        atomic.write(options.output_path, content.getbuffer())
    except (ValueError, OSError) as error:
        sys.exit(f"extract_variable: {error}")
    print(f"{options.output_path}: {array.dtype} {array.shape}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint_dir", required=True, metavar="DIR", help="local or gs://")
    parser.add_argument(
        "--variable_path",
        required=True,
        metavar="PATH",
        help="name of the variable; the prefix target/ is optional",
    )
    parser.add_argument(
        "--restore_dtype", choices=["float32", "bfloat16"], default="float32",
        help="dtype of the file (default: float32; numpy shows bfloat16 as V2)",
    )  # fmt: skip
    parser.add_argument("--output_path", required=True, metavar="FILE", help=".npy file to write")
    return parser


if __name__ == "__main__":
    main()
