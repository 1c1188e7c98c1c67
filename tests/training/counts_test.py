"""Whole numbers of settings."""

import pytest

from prompt_tuning.training import counts, run


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, None])
def test_what_is_no_count_is_told(value):
    with pytest.raises(ValueError) as caught:
        counts.validate_int("KEEP", value, 1)
    expected = "expected an integer of at least 1. Set KEEP to such a value."
    assert str(caught.value) == f"KEEP is {value!r}; {expected}"


def test_none_may_mean_something():
    counts.validate_int("KEEP", None, 1, none="all")
    counts.validate_int("KEEP", 1, 1)
    with pytest.raises(ValueError, match=r"at least 1, or None for all. Set KEEP"):
        counts.validate_int("KEEP", 0, 1, none="all")


def test_a_number_may_be_too_high():
    counts.validate_int("RANDOM_SEED", 2**32 - 1, 0, counts.MAX_SEED)
    with pytest.raises(ValueError) as caught:
        counts.validate_int("RANDOM_SEED", 2**32, 0, counts.MAX_SEED)
    expected = "RANDOM_SEED is 4294967296; expected an integer of at least 0 and at most 4294967295"
    assert str(caught.value) == f"{expected}. Set RANDOM_SEED to such a value."
    with pytest.raises(
        ValueError, match=r"START_STEP is 2147483648; expected .* at most 2147483647"
    ):
        run.TrainConfig(10, 2**31)
