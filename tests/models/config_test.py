"""What a config refuses."""

import pytest

from prompt_tuning.models import config as config_lib


def test_unknown_activation_names_the_known_ones():
    with pytest.raises(ValueError, match=r"swish.*gelu"):
        config_lib.T5Config(16, 8, 2, 4, 8, 1, 1, ("swish",))


def test_a_config_from_lists_hashes():
    assert hash(config_lib.T5Config(16, 8, 2, 4, 8, 1, 1, ["gelu", "linear"]))


def test_unknown_remat_policy_names_the_known_ones():
    with pytest.raises(
        ValueError, match="remat_policy='some' is unknown; expected 'none', 'minimal'"
    ):
        config_lib.T5Config(8, 8, 1, 8, 8, 1, 1, remat_policy="some")


def test_sizes_that_are_not_set_are_named():
    with pytest.raises(ValueError, match=r"NUM_EMBEDDINGS, MLP_DIM not set; .*hugging_face\.gin"):
        config_lib.T5Config(None, 8, 1, 8, None, 1, 1)


def test_tied_logits_are_scaled_where_nothing_else_is_said():
    sizes = (16, 8, 2, 4, 8, 1, 1)
    for is_tied in (True, False):
        config = config_lib.T5Config(*sizes, logits_via_embedding=is_tied)
        assert config.scale_decoder_outputs is is_tied
        other = config_lib.T5Config(
            *sizes, logits_via_embedding=is_tied, scale_decoder_outputs=not is_tied
        )
        assert other.scale_decoder_outputs is not is_tied
