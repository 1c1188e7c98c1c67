"""Counts of the paper's table, of the modules that exist here, and of others by hand."""

import dataclasses
import json

import pytest
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.analysis import parameter_counts
from prompt_tuning.cli import main as cli
from prompt_tuning.methods import combination, ia3, per_layer, prefix
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model as model_lib

# Sizes of T5 1.1: width and parameters, of the paper's table.
PAPER = {
    "small": (512, 76_961_152),
    "base": (768, 247_577_856),
    "large": (1024, 783_150_080),
    "xl": (2048, 2_849_757_184),
    "xxl": (4096, 11_135_332_352),
}
BARE = model_lib.EncoderDecoderModel(
    config_lib.T5Config(
        vocab_size=50,
        embed_dim=6,
        num_heads=2,
        head_dim=5,
        mlp_dim=7,
        num_encoder_layers=3,
        num_decoder_layers=2,
    )
)


def test_table_of_the_paper(quick_shapes, tmp_path, capsys):
    arguments = ["--gin_file=models/t5_1_1.gin", "--gin_file=runs/parameters.gin"]
    found = cli.run(["parameters", *arguments, f"--gin.OUTPUT_DIR='{tmp_path}'"])
    shown = capsys.readouterr().out
    assert found.keys() == PAPER.keys()
    for size, (width, total) in PAPER.items():
        for length in (1, 5, 20, 50, 100, 150):
            methods = found[size][length]
            assert methods["prompt tuning"] == length * width
            assert methods["full fine-tuning"] == total
    assert ["xxl", "100", "409,600", "11,135,741,952", "0.00368"] in map(
        str.split, shown.splitlines()
    )
    told = json.loads((tmp_path / "parameters.json").read_text())
    assert told["xl"]["20"]["prompt tuning"] == 40_960
    assert (tmp_path / "parameters.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "methods", "expected"),
    [
        ("prompt tuning", [prompt_method.Prompt(4)], 4 * 6),
        (
            "per-layer prompts (deep prompts)",
            [prompt_method.Prompt(4), per_layer.LayerPrompt(4)],
            3 * 4 * 6,
        ),
        # J 10 for keys and for values of 7 attentions, F 7 of 5 feed-forward parts.
        ("IA3", [ia3.IA3()], 7 * 2 * 10 + 5 * 7),
    ],
)
def test_methods_that_exist_have_so_many(name, methods, expected):
    model = dataclasses.replace(BARE, method=combination.combine(methods))
    flat = params.flatten(nn.unbox(model.abstract_params()))
    assert sum(flat[path].size for path in model.adapter_paths) == expected
    # A prompt in the model makes no difference: it is not of the base.
    for of in (BARE, model):
        assert parameter_counts.counts(of, [4])[4][name] == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("WARP", (4 + 2) * 6),
        # Three layers of the encoder with an attention, two of the decoder with two; J 10.
        ("prefix tuning", 7 * 2 * 4 * 10),
        ("prefix tuning, in training", 4 * 6 + (6 * 512 + 512) + (512 * 140 + 140)),
        ("P-tuning, in training", 4 * 6 + 2 * 2 * 4 * (6 * 3 + 9 + 6) + 2 * (36 + 6)),
        ("LoRA", 7 * 2 * 8 * 16),
        ("adapters", 10 * (2 * 6 * 64 + 64 + 6)),
    ],
)
def test_methods_of_others(method, expected):
    assert parameter_counts.counts(BARE, [4])[4][method] == expected


def test_our_prefix_is_the_part_of_the_decoders_self_attention():
    model = dataclasses.replace(BARE, method=prefix.Prefix(4))
    flat = params.flatten(nn.unbox(model.abstract_params()))
    # Two of the seven attentions.
    expected = 2 * parameter_counts.counts(BARE, [4])[4]["prefix tuning"] // 7
    assert sum(flat[path].size for path in model.adapter_paths) == expected == 2 * 2 * 4 * 10


def test_full_fine_tuning_has_all_weights():
    weights = nn.unbox(BARE.abstract_params())
    found = parameter_counts.counts(BARE, [1])[1]["full fine-tuning"]
    assert found == params.count(weights)
