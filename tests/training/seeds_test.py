"""Which folder the run of a seed has; by command: settings_test.py."""

import pytest

from prompt_tuning.training import seeds


def make_run(folder):
    (folder / "checkpoint_1002").mkdir(parents=True)


def test_a_single_seed_has_model_dir_and_several_have_folders(tmp_path):
    assert seeds.folders(3, tmp_path) == {3: tmp_path}
    assert seeds.folders((3, 0), tmp_path) == {3: tmp_path / "seed_3", 0: tmp_path / "seed_0"}


def test_a_folder_with_the_run_of_a_single_seed_gets_no_others(tmp_path):
    make_run(tmp_path)
    assert seeds.folders(0, tmp_path) == {0: tmp_path}
    with pytest.raises(
        ValueError, match=r"the run of a single seed, and RANDOM_SEED=\[0\] is a seq"
    ):
        seeds.folders([0], tmp_path)


def test_a_folder_with_the_runs_of_several_seeds_gets_no_single_one(tmp_path):
    (tmp_path / "seed_7").mkdir()
    assert seeds.folders(0, tmp_path) == {0: tmp_path}  # nothing is trained there
    for seed in (0, 1):
        make_run(tmp_path / f"seed_{seed}")
    assert seeds.folders([0, 1, 2], tmp_path).keys() == {0, 1, 2}
    expected = (
        r"holds the runs seed_0, seed_1, and RANDOM_SEED=0 is a .* RANDOM_SEED=\(0,\), or another"
    )
    with pytest.raises(ValueError, match=expected):
        seeds.folders(0, tmp_path)
