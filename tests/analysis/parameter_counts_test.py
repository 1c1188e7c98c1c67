"""Parameter counts of the paper, of implemented methods, and of formulas, computed by hand."""

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

# Width and parameters of T5 1.1 from the paper's table.
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


def test_counts_match_the_paper(quick_shapes, tmp_path, capsys):
    arguments = ["--gin_file=models/t5_1_1.gin", "--gin_file=runs/parameters.gin"]
    table = cli.run(["parameters", *arguments, f"--gin.OUTPUT_DIR='{tmp_path}'"])
    shown = capsys.readouterr().out
    assert table.keys() == PAPER.keys()
    for size, (width, total) in PAPER.items():
        for length in (1, 5, 20, 50, 100, 150):
            methods = table[size][length]
            assert methods["prompt tuning"] == length * width
            assert methods["full fine-tuning"] == total
    assert ["xxl", "100", "409,600", "11,135,741,952", "0.00368"] in map(
        str.split, shown.splitlines()
    )
    written = json.loads((tmp_path / "parameters.json").read_text())
    assert written["xl"]["20"]["prompt tuning"] == 40_960
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
        # J = 10 for keys and values of 7 attentions, F = 7 of 5 MLPs.
        ("IA3", [ia3.IA3()], 7 * 2 * 10 + 5 * 7),
    ],
)
def test_implemented_methods_are_counted(name, methods, expected):
    model = dataclasses.replace(BARE, method=combination.combine(methods))
    flat = params.flatten(nn.unbox(model.abstract_params()))
    assert sum(flat[path].size for path in model.adapter_paths) == expected
    # The method of the model does not affect the counts.
    for of in (BARE, model):
        assert parameter_counts.counts(of, [4])[4][name] == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("WARP", (4 + 2) * 6),
        # Three encoder layers with one attention, two decoder layers with two; J = 10.
        ("prefix tuning", 7 * 2 * 4 * 10),
        ("prefix tuning, in training", 4 * 6 + (6 * 512 + 512) + (512 * 140 + 140)),
        ("P-tuning, in training", 4 * 6 + 2 * 2 * 4 * (6 * 3 + 9 + 6) + 2 * (36 + 6)),
        ("LoRA", 7 * 2 * 8 * 16),
        ("adapters", 10 * (2 * 6 * 64 + 64 + 6)),
    ],
)
def test_formulas_of_other_methods(method, expected):
    assert parameter_counts.counts(BARE, [4])[4][method] == expected


def test_prefix_method_counts_the_decoders_self_attention_only():
    model = dataclasses.replace(BARE, method=prefix.Prefix(4))
    flat = params.flatten(nn.unbox(model.abstract_params()))
    # Two of the seven attentions.
    expected = 2 * parameter_counts.counts(BARE, [4])[4]["prefix tuning"] // 7
    assert sum(flat[path].size for path in model.adapter_paths) == expected == 2 * 2 * 4 * 10


def test_full_fine_tuning_counts_all_weights():
    weights = nn.unbox(BARE.abstract_params())
    table = parameter_counts.counts(BARE, [1])[1]["full fine-tuning"]
    assert table == params.count(weights)
