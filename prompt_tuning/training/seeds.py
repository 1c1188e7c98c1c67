"""The seeds of RANDOM_SEED, and one run folder per seed."""

import re
from collections.abc import Sequence

from etils import epath

from prompt_tuning.checkpoints import train_state
from prompt_tuning.training import counts


def folders(seed: int | Sequence[int], model_dir: epath.PathLike) -> dict[int, epath.Path]:
    """Returns {seed: run folder}: MODEL_DIR for one seed, else MODEL_DIR/seed_<seed>.

    Args:
      seed: RANDOM_SEED.
      model_dir: MODEL_DIR.

    Raises:
      ValueError: RANDOM_SEED is invalid, or MODEL_DIR has runs in the other layout, whose prompts
        could be confused with those of this command.
    """
    root = epath.Path(model_dir)
    if not isinstance(seed, list | tuple):
        counts.validate_int("RANDOM_SEED", seed, 0, counts.MAX_SEED)
        children = sorted(root.iterdir()) if root.is_dir() else ()
        runs = [
            x.name for x in children if re.fullmatch(r"seed_\d+", x.name) and train_state.steps(x)
        ]
        if runs:
            raise ValueError(
                f"MODEL_DIR {root} holds the runs {', '.join(runs)}, and RANDOM_SEED={seed} is a single "
                f"seed, whose run is in MODEL_DIR itself; expected a sequence of seeds, or a folder without "
                f"runs. Set RANDOM_SEED=({seed},), or another MODEL_DIR"
            )
        return {seed: root}
    if not seed or len(set(seed)) < len(seed):
        raise ValueError(
            f"RANDOM_SEED is {seed!r}; expected an integer, or several different ones. Set "
            "RANDOM_SEED to (0, 1, 2) to tune three prompts"
        )
    for value in seed:
        counts.validate_int("RANDOM_SEED", value, 0, counts.MAX_SEED)
    if train_state.steps(root):
        raise ValueError(
            f"MODEL_DIR {root} holds the run of a single seed, and RANDOM_SEED={seed!r} is a sequence, whose "
            "runs are in MODEL_DIR/seed_<seed>; expected a single seed, or a folder without a run. Set "
            "RANDOM_SEED to that seed, or another MODEL_DIR"
        )
    return {value: root / f"seed_{value}" for value in seed}
