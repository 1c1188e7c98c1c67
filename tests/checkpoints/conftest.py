"""Checkpoints as T5X's trainer writes them through Orbax."""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest
from orbax import checkpoint as orbax


@pytest.fixture(scope="session")
def write_orbax() -> Callable[..., pathlib.Path]:
    """(folder, parameters, step) -> folder/checkpoint_<step>, with an optimizer's state beside."""

    def write(folder, tree, step=3, use_ocdbt=True) -> pathlib.Path:
        slots = jax.tree.map(lambda x: {"v": np.ones_like(x)}, tree)
        state = {"step": np.asarray(step, np.int32), "param_states": slots}
        handler = orbax.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt)
        options = orbax.CheckpointManagerOptions(
            step_prefix="checkpoint", enable_async_checkpointing=False
        )
        with orbax.CheckpointManager(
            folder, options=options, item_handlers={"state": handler}
        ) as manager:
            arguments = orbax.args.PyTreeSave({"target": tree, "state": state})
            manager.save(step, args=orbax.args.Composite(state=arguments))
        return pathlib.Path(folder) / f"checkpoint_{step}"

    return write
