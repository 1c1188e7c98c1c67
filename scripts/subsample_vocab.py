"""Samples rows of a checkpoint's token embedding as an initial prompt, usable as PROMPT_FILE.

Rows are sampled from the first --population_size tokens, which are the most frequent ones, without
replacement if there are enough. Only the embedding is read.
"""

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from prompt_tuning.checkpoints import base_model, prompt_files
from prompt_tuning.methods import initializers


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the prompt and its card."""
    options = _parser().parse_args(arguments)
    try:
        embedding = base_model.read_variable(
            options.checkpoint_dir, options.embeddings_path, options.restore_dtype
        )
        if embedding.ndim != 2 or options.prompt_length < 1:
            raise ValueError(
                f"--embeddings_path {options.embeddings_path} has shape {embedding.shape} and "
                f"--prompt_length is {options.prompt_length}; expected a table [V, D] and a "
                "positive integer"
            )
        population = options.population_size if options.population_size > 0 else len(embedding)
        prompt = initializers.SampledVocabulary(population)(
            jax.random.key(options.seed), options.prompt_length, jnp.asarray(embedding), None
        )
        card = {
            "length": options.prompt_length,
            "embed_dim": embedding.shape[1],
            "base_model": options.checkpoint_dir,
            "created_by": f"subsample_vocab --seed={options.seed} --population_size={population}",
        }
        prompt_files.save(options.output_path, prompt, card)
    except (ValueError, OSError) as error:
        sys.exit(f"subsample_vocab: {error}")
    print(f"{options.output_path}: {prompt.shape}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint_dir", required=True, metavar="DIR",
        help="the model: T5X (native or under Orbax) or Hugging Face",
    )  # fmt: skip
    parser.add_argument("--output_path", required=True, metavar="FILE", help=".npy file to write")
    parser.add_argument(
        "--embeddings_path", default="token_embedder/embedding", metavar="PATH",
        help="table (default: token_embedder/embedding)",
    )  # fmt: skip
    parser.add_argument(
        "--restore_dtype", choices=["float32", "bfloat16"], default="float32",
        help="dtype to which the embedding is rounded (default: float32); the prompt is float32",
    )  # fmt: skip
    parser.add_argument(
        "--prompt_length", type=int, default=100, help="number of rows, P (default: 100)"
    )
    parser.add_argument(
        "--population_size", type=int, default=5000,
        help="number of first rows to sample from; 0 or less for all (default: 5000)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=42, help="seed of the sample (default: 42)")
    return parser


if __name__ == "__main__":
    main()
