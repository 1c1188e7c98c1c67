"""Bad steps are counted in a row, for each run; their batches can be read again."""

import types

import numpy as np
import pytest

from prompt_tuning.training import nan_guard


def run_in(folder):
    return types.SimpleNamespace(model_dir=folder, skipped=0)


def taken(guard, step, *skipped):
    batches = [{"ids": np.full((2, 3), 10 * step + i, np.int32)} for i in range(len(skipped))]
    sums = [{"loss": np.nan if x else 1.0, "gradient_norm": 2.0, "skipped": x} for x in skipped]
    guard.add(step, *((batches, sums) if len(skipped) > 1 else (batches[0], sums[0])))


def test_one_in_a_row_is_passed_and_two_are_not(tmp_path, caplog):
    guard = nan_guard.NanGuard([run_in(tmp_path)], 1)
    for step, skipped in enumerate((1, 0, 1, 0, 0)):
        taken(guard, step, float(skipped))
    guard.flush()
    assert caplog.text.count("of at most NAN_TOLERANCE=1 steps") == 2
    taken(guard, 5, 1.0)
    taken(guard, 6, 1.0)
    with pytest.raises(
        ValueError, match=r"step 6 in .* \(loss nan, gradient norm 2\.0\); .*nan_step_6"
    ):
        guard.flush()
    with np.load(tmp_path / "nan_step_6.npz") as kept:
        np.testing.assert_array_equal(kept["ids"], np.full((2, 3), 60))


def test_a_bad_step_is_seen_two_steps_later_at_the_latest(tmp_path):
    guard = nan_guard.NanGuard([run_in(tmp_path)], 0)
    taken(guard, 1, 1.0)
    taken(guard, 2, 0.0)
    with pytest.raises(ValueError, match="step 1 in"):
        taken(guard, 3, 0.0)


def test_each_of_several_runs_counts_for_itself(tmp_path):
    guard = nan_guard.NanGuard([run_in(tmp_path / "a"), run_in(tmp_path / "b")], 1)
    taken(guard, 1, 1.0, 0.0)
    taken(guard, 2, 0.0, 1.0)
    guard.flush()
    taken(guard, 3, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"step 3 in .*b: non-finite loss"):
        guard.flush()
    with np.load(tmp_path / "b" / "nan_step_3.npz") as kept:
        np.testing.assert_array_equal(kept["ids"], np.full((2, 3), 31))
