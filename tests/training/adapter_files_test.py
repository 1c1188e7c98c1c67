"""Where a run's files lie, and what their cards say; what a run writes: run_test.py."""

import dataclasses

import numpy as np

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.methods import base
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.training import adapter_files


def test_a_prompt_is_npy_and_several_parameters_are_npz(tiny, shifted, tmp_path):
    leaves = {prompt_method.PATH: np.ones((4, 16), np.float32)}
    adapter_files.save(tmp_path, "best", leaves, tiny.model, step=3)
    path = adapter_files.locate(tmp_path, "best", tiny.model)
    assert path == tmp_path / "prompts" / "best.npy" and path.exists()
    card = prompt_files.read_card(path)
    assert (card["step"], card["length"], card["embed_dim"]) == (3, 4, 16)
    assert adapter_files.locate(tmp_path, "best", shifted).suffix == ".npz"


def test_a_model_without_adapter_has_no_file(tiny, tmp_path):
    adapter_files.save(tmp_path, "best", {}, dataclasses.replace(tiny.model, method=base.NO_METHOD))
    assert not list(tmp_path.iterdir())
