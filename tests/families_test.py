"""The models that there are gin files of, against their public checkpoints and transformers.

What the public checkpoints hold was written down by hand; what transformers says was stored by
scripts/make_family_goldens.py.
"""

import copy
import functools
import itertools
import json
import pathlib
import re
from typing import NamedTuple

import gin
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.checkpoints import base_model
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.cli import gin_config
from prompt_tuning.cli import main as cli
from prompt_tuning.data import pipeline, sources, vocabularies
from prompt_tuning.methods import initializers
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model
from prompt_tuning.training import state

TESTDATA = pathlib.Path(__file__).parent / "testdata"
FOLDER = gin_config.gin_folder() / "models"
COUNTS = json.loads((TESTDATA / "parameter_counts.json").read_text())
ROOT = "gs://t5-data/pretrained_models/t5x"


class Network(NamedTuple):
    """What the checkpoints of a family are of."""

    rows: int
    activations: tuple[str, ...] = ("gelu", "linear")
    tied: bool = False
    per_layer: bool = False
    scaled: bool = True


FAMILIES = {
    "t5_1_0": Network(32128, ("relu",), tied=True),
    "t5_1_1": Network(32128),
    "mt5": Network(250112),
    "byt5": Network(384),
    "umt5": Network(256384, per_layer=True),
}
# D, F, H, C, layers of the encoder, of the decoder.
SHARED = {
    "small": (512, 1024, 6, 64, 8, 8),
    "base": (768, 2048, 12, 64, 12, 12),
    "large": (1024, 2816, 16, 64, 24, 24),
    "xl": (2048, 5120, 32, 64, 24, 24),
    "xxl": (4096, 10240, 64, 64, 24, 24),
}
UNSHARED = {
    "t5_1_0_small": (512, 2048, 8, 64, 6, 6),
    "t5_1_0_base": (768, 3072, 12, 64, 12, 12),
    "t5_1_0_large": (1024, 4096, 16, 64, 24, 24),
    "t5_1_0_3B": (1024, 16384, 32, 128, 24, 24),
    "t5_1_0_11B": (1024, 65536, 128, 128, 24, 24),
    "byt5_small": (1472, 3584, 6, 64, 12, 4),
    "byt5_base": (1536, 3968, 12, 64, 18, 6),
    "byt5_large": (1536, 3840, 16, 64, 36, 12),
    "byt5_xl": (2560, 6720, 32, 64, 36, 12),
    "byt5_xxl": (4672, 12352, 64, 64, 36, 12),
}
SIZES = ("small", "base", "large", "xl", "xxl")
# Gin file -> the gin file of the same network, its checkpoint and step.
CHECKPOINTS = {
    "t5_1_0_small": ("t5_1_0_small", "t5_small", 1_000_000),
    "t5_1_0_base": ("t5_1_0_base", "t5_base", 999_900),
    "t5_1_0_large": ("t5_1_0_large", "t5_large", 1_000_700),
    "t5_1_0_3B": ("t5_1_0_3B", "t5_3B", 1_000_000),
    "t5_1_0_11B": ("t5_1_0_11B", "t5_11B", 1_000_000),
    "flan_t5_small": ("t5_1_1_small", "flan_t5_small", 1_198_000),
    "flan_t5_base": ("t5_1_1_base", "flan_t5_base", 1_184_000),
    "flan_t5_large": ("t5_1_1_large", "flan_t5_large", 1_164_000),
    "flan_t5_xl": ("t5_1_1_xl", "flan_t5_xl", 1_138_000),
    "flan_t5_xxl": ("t5_1_1_xxl", "flan_t5_xxl", 1_114_000),
    **{f"t5_1_1_{x}": (f"t5_1_1_{x}", f"t5_1_1_{x}", 1_000_000) for x in SIZES},
    **{f"t5_1_1_lm100k_{x}": (f"t5_1_1_{x}", f"t5_1_1_lm100k_{x}", 1_100_000) for x in SIZES},
    **{f"mt5_{x}": (f"mt5_{x}", f"mt5_{x}", 1_000_000) for x in SIZES},
    **{f"mt5_lm_adapted_{x}": (f"mt5_{x}", f"mt5_lm_adapted/{x}", 1_100_000) for x in SIZES},
    **{f"byt5_{x}": (f"byt5_{x}", f"byt5_{x}", 1_000_000) for x in SIZES},
    **{f"umt5_{x}": (f"umt5_{x}", f"umt5/{x}", 1_000_000) for x in SIZES if x != "large"},
}
NETWORKS = sorted({network for network, _, _ in CHECKPOINTS.values()})


def size_of(name: str) -> tuple[int, ...]:
    return UNSHARED.get(name) or SHARED[name.rpartition("_")[2]]


@functools.cache
def settings(name: str) -> tuple:
    """(model, vocabulary) that a model's gin file builds."""
    cli.read(["describe", f"--gin_file=models/{name}.gin", "--gin_file=runs/describe.gin"])
    names = ("prompt_tuning.distributed.describer.describe.model", "%VOCABULARY")
    return tuple(copy.deepcopy(gin.query_parameter(each)) for each in names)


def t5x_tree(network: Network, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a T5X checkpoint whose layers are not scanned."""
    d, f, h, c, *depths = size
    wi = ("wi",) if len(network.activations) == 1 else ("wi_0", "wi_1")
    mlp = {f"mlp/{name}/kernel": (d, f) for name in wi} | {"mlp/wo/kernel": (f, d)}
    tree = {"token_embedder/embedding": (network.rows, d)}
    if not network.tied:
        tree["decoder/logits_dense/kernel"] = (d, network.rows)
    sublayers = {
        "encoder": {"attention": "attention"},
        "decoder": {
            "self_attention": "self_attention",
            "encoder_decoder_attention": "cross_attention",
        },
    }
    for (stack, attentions), depth in zip(sublayers.items(), depths, strict=True):
        layers = [f"{stack}/layers_{i}" for i in range(depth)]
        tree[f"{stack}/{stack}_norm/scale"] = (d,)
        for owner in layers if network.per_layer else [stack]:
            tree[f"{owner}/relpos_bias/rel_embedding"] = (h, 32)
        for layer, (attention, norm) in itertools.product(layers, attentions.items()):
            for name in ("query", "key", "value"):
                tree[f"{layer}/{attention}/{name}/kernel"] = (d, h * c)
            tree[f"{layer}/{attention}/out/kernel"] = (h * c, d)
            tree[f"{layer}/pre_{norm}_layer_norm/scale"] = (d,)
        for layer in layers:
            tree[f"{layer}/pre_mlp_layer_norm/scale"] = (d,)
            tree |= {f"{layer}/{name}": shape for name, shape in mlp.items()}
    return tree


@pytest.mark.parametrize("name", NETWORKS)
def test_tree_and_count_are_those_of_the_checkpoint(name, quick_shapes):
    network = FAMILIES[name.rpartition("_")[0]]
    built, _ = settings(name)
    tree = params.flatten(nn.unbox(built.abstract_params()))
    prompt = tree.pop(prompt_method.PATH)
    assert prompt.shape == (100, size_of(name)[0])
    assert {path: leaf.shape for path, leaf in tree.items()} == t5x_tree(network, size_of(name))
    assert params.count(params.unflatten(tree)) == COUNTS[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_a_stack_have_the_same_shapes(family, request):
    """What `quick_shapes` relies on."""
    built, _ = settings(f"{family}_small")
    expected = params.shapes(nn.unbox(built.abstract_params()))
    request.getfixturevalue("quick_shapes")
    assert params.shapes(nn.unbox(built.abstract_params())) == expected


def test_counts_known_from_the_papers():
    known = ("76,961,152", "247,577,856", "783,150,080", "2,849,757,184", "11,135,332,352")
    assert [f"{COUNTS[f't5_1_1_{size}']:,}" for size in SIZES] == list(known)
    # mT5's paper: 300M, 580M, 1.2B, 3.7B, 13B.
    rounded = [float(f"{COUNTS[f'mt5_{size}']:.2g}") for size in SIZES]
    assert rounded == [300e6, 580e6, 1.2e9, 3.7e9, 13e9]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_header_names_the_checkpoint_and_the_parameters(name):
    network, folder, step = CHECKPOINTS[name]
    text = gin_config.header(FOLDER / f"{name}.gin")
    assert f"{ROOT}/{folder}/checkpoint_{step}" in text
    assert f"{COUNTS[network]:,} parameters" in text.partition("\n")[0]
    if steps := re.findall(r"TRAIN_STEPS=(\d+)", text):
        assert int(steps[0]) > step
    shape = f"shape (100, {size_of(network)[0]})"
    assert "shape" not in text or shape in text


def test_each_model_file_is_in_the_tables():
    families = {*FAMILIES, "t5_mini", "decoder_only", "decoder_only_mini", "hugging_face"}
    stems = {file.stem for file in FOLDER.glob("*.gin")} - families
    assert stems == CHECKPOINTS.keys() | set(NETWORKS)
    assert {file.stem for file in (FOLDER / "sizes").glob("*.gin")} == SHARED.keys()
    assert COUNTS.keys() == set(NETWORKS)


@pytest.mark.parametrize("name", sorted(CHECKPOINTS.keys() - set(NETWORKS)))
def test_other_weights_are_of_the_same_network(name):
    network, _, _ = CHECKPOINTS[name]
    assert settings(name) == settings(network)


def test_each_family_has_its_vocabulary():
    vocabulary_of = {name: settings(f"{name}_small")[1] for name in FAMILIES}
    root = "gs://t5-data/vocabs"
    t5 = vocabularies.SentencePiece(f"{root}/cc_all.32000.100extra/sentencepiece.model", 0)
    assert vocabulary_of == {
        "t5_1_0": t5,
        "t5_1_1": t5,
        "mt5": vocabularies.SentencePiece(f"{root}/mc4.250000.100extra/sentencepiece.model", 0),
        "byt5": vocabularies.ByteVocabulary(0),
        "umt5": vocabularies.SentencePiece(f"{root}/umt5.256000/sentencepiece.model", 300),
    }
    vocabulary_of["byt5"].check_fits(settings("byt5_small")[0].config.vocab_size)


class Saved(NamedTuple):
    """A folder that transformers saved, and what it says of the model."""

    folder: pathlib.Path
    arrays: dict[str, np.ndarray]


# Tied logits that are not scaled: T5Config(tie_word_embeddings=False) of transformers 5.
SAVED = {**FAMILIES, "t5_unscaled": Network(24, tied=True, scaled=False)}


@pytest.fixture(scope="module", params=SAVED)
def saved(request, tmp_path_factory) -> tuple[str, Saved]:
    """(family, its tiny model) in turn."""
    folder = tmp_path_factory.mktemp(request.param)
    with np.load(TESTDATA / f"family_{request.param}.npz") as file:
        arrays = dict(file)
    tensors = {
        name.removeprefix("tensors/"): array
        for name, array in arrays.items()
        if name.startswith("tensors/")
    }
    (folder / "config.json").write_text(str(arrays["config_json"]))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return request.param, Saved(folder, arrays)


def test_logits_are_those_of_transformers(saved):
    family, (folder, arrays) = saved
    config = huggingface.read_config(folder)
    network = SAVED[family]
    assert config.mlp_activations == network.activations
    assert config.logits_via_embedding == network.tied
    assert config.scale_decoder_outputs == (network.tied and network.scaled)
    assert config.relative_attention_per_layer == network.per_layer
    assert (config.num_encoder_layers, config.num_decoder_layers) == (3, 2)
    plain = model.EncoderDecoderModel(config)
    weights = base_model.load(folder, nn.unbox(plain.abstract_params()))[0]
    targets = arrays["targets"]
    batch = {
        "encoder_input_tokens": arrays["inputs"],
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
    }
    actual, real = jax.jit(plain.logits)(weights, batch), targets > 0
    np.testing.assert_allclose(actual[real], arrays["logits"][real], rtol=0, atol=2e-5)
    if "greedy" in arrays:
        predict = jax.jit(plain.predict, static_argnums=2)
        decodes, _ = predict(weights, arrays["inputs"], arrays["greedy"].shape[1])
        np.testing.assert_array_equal(decodes[:, 0], arrays["greedy"])


def test_a_family_that_is_saved_is_read_again(saved, tmp_path, vocabulary):
    family, (folder, _) = saved
    config = huggingface.read_config(folder)
    weights, _ = base_model.load(
        folder, nn.unbox(model.EncoderDecoderModel(config).abstract_params())
    )
    path = None if family == "byt5" else vocabulary.path
    again = tmp_path / "again"
    huggingface.save(again, weights, config, vocabulary_file=path, step=3, dtype="float32")
    assert huggingface.read_config(again) == config
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    stored = json.loads((again / "config.json").read_text())["model_type"]
    assert stored == ("t5" if kind == "mt5" else kind)  # of an mT5 the network says nothing
    tensors = safetensors.numpy.load_file(again / "model.safetensors")
    expected = safetensors.numpy.load_file(folder / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array)


def test_a_prompt_of_bytes_begins_and_reads_bytes(tmp_path, rng):
    config = config_lib.T5Config(384, 16, 8, 2, 16, 2, 1)
    shapes = nn.unbox(model.EncoderDecoderModel(config).abstract_params())
    weights = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    huggingface.save(tmp_path / "base", weights, config, vocabulary_file=None, extra_ids=0, step=0)
    labels, vocabulary = ("good", "böse"), vocabularies.ByteVocabulary()
    loaded = state.load_model(
        model.EncoderDecoderModel(config, prompt_method.Prompt(4)),
        vocabulary,
        checkpoint=str(tmp_path / "base"),
        prompt_initializer=initializers.ClassLabels(labels),
    )
    flat = params.flatten(loaded.params)
    for row, label in zip(flat[prompt_method.PATH], labels, strict=False):
        ids = np.array(list(label.encode())) + 3
        expected = np.asarray(flat["token_embedder/embedding"])[ids].mean(axis=0)
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)

    (tmp_path / "films.tsv").write_text("text\tlabel\nein böser Film\tböse\n")
    source = sources.TaskSource(train_file=str(tmp_path / "films.tsv"))
    dataset = pipeline.DatasetConfig(source, {"inputs": 20, "targets": 8}, "train", 1)
    batch = next(pipeline.TrainBatches(dataset, vocabulary, loaded.soft_tokens))
    (inputs,), (targets,) = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    assert inputs[:4].tolist() == [384, 385, 386, 387]
    assert vocabulary.decode(inputs[4:]) == "ein böser Film"
    assert vocabulary.decode(targets) == "böse"
    assert targets[targets > 0].tolist() == [*vocabulary.encode("böse"), vocabularies.EOS_ID]
