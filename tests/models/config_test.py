"""What a config refuses."""

import pytest

from prompt_tuning.models import config as config_lib


def test_unknown_activation_names_the_known_ones():
    with pytest.raises(ValueError, match=r"swish.*gelu"):
        config_lib.T5Config(16, 8, 2, 4, 8, 1, 1, ("swish",))


def test_a_config_from_lists_hashes():
    assert hash(config_lib.T5Config(16, 8, 2, 4, 8, 1, 1, ["gelu", "linear"]))


def test_unknown_remat_policy_names_the_known_ones():
    with pytest.raises(ValueError, match=r"REMAT_POLICY is 'some'; expected one of \['full'"):
        config_lib.T5Config(8, 8, 1, 8, 8, 1, 1, remat_policy="some")
