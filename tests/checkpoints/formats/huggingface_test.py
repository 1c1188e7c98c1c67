"""Hugging Face's format: names, orientation, variants, and what is wrong with a file."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn

from prompt_tuning import params
from prompt_tuning.checkpoints import base_model
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model

CONFIG = config_lib.T5Config(
    vocab_size=24,
    embed_dim=8,
    num_heads=2,
    head_dim=3,
    mlp_dim=10,
    num_encoder_layers=2,
    num_decoder_layers=1,
    relative_attention_buckets=4,
    relative_attention_max_distance=6,
)
PER_LAYER = dataclasses.replace(CONFIG, relative_attention_per_layer=True)
TIED = config_lib.T5Config(24, 8, 2, 3, 10, 1, 1, ("relu",), logits_via_embedding=True)
E = "encoder.block.1.layer."
D = "decoder.block.0.layer."
# Written down by hand from the format's description: our path, their name, transposed or not.
EXAMPLES = [
    ("token_embedder/embedding", "shared.weight", False),
    ("decoder/logits_dense/kernel", "lm_head.weight", True),
    (
        "encoder/relpos_bias/rel_embedding",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        True,
    ),
    (
        "decoder/relpos_bias/rel_embedding",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        True,
    ),
    ("encoder/encoder_norm/scale", "encoder.final_layer_norm.weight", False),
    ("decoder/decoder_norm/scale", "decoder.final_layer_norm.weight", False),
    ("encoder/layers_1/attention/query/kernel", E + "0.SelfAttention.q.weight", True),
    ("encoder/layers_1/attention/out/kernel", E + "0.SelfAttention.o.weight", True),
    ("encoder/layers_1/pre_attention_layer_norm/scale", E + "0.layer_norm.weight", False),
    ("encoder/layers_1/mlp/wi_0/kernel", E + "1.DenseReluDense.wi_0.weight", True),
    ("encoder/layers_1/mlp/wo/kernel", E + "1.DenseReluDense.wo.weight", True),
    ("encoder/layers_1/pre_mlp_layer_norm/scale", E + "1.layer_norm.weight", False),
    ("decoder/layers_0/self_attention/key/kernel", D + "0.SelfAttention.k.weight", True),
    ("decoder/layers_0/pre_self_attention_layer_norm/scale", D + "0.layer_norm.weight", False),
    (
        "decoder/layers_0/encoder_decoder_attention/value/kernel",
        D + "1.EncDecAttention.v.weight",
        True,
    ),
    ("decoder/layers_0/pre_cross_attention_layer_norm/scale", D + "1.layer_norm.weight", False),
    ("decoder/layers_0/mlp/wi_1/kernel", D + "2.DenseReluDense.wi_1.weight", True),
    ("decoder/layers_0/pre_mlp_layer_norm/scale", D + "2.layer_norm.weight", False),
]


def load(path, abstract):
    return base_model.load(path, abstract)[0]


def abstract(config):
    return nn.unbox(model.EncoderDecoderModel(config).abstract_params())


def random_params(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), abstract(config))


def assert_equal(left, right):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), left, right)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocabulary.model"
    path.write_bytes(b"pieces")
    return path


@pytest.fixture
def saved(tmp_path, vocabulary):
    """Folder and parameters of an untied model in float32."""
    tree = random_params(CONFIG)
    folder = tmp_path / "model"
    huggingface.save(folder, tree, CONFIG, vocabulary_file=vocabulary, step=7, dtype="float32")
    return folder, tree


def rewrite(folder, change):
    """Applies `change` to the dict of stored tensors."""
    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)


def edit_config(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


@pytest.mark.parametrize(("ours", "theirs", "transposed"), EXAMPLES)
def test_each_kind_of_weight_has_their_name_and_orientation(saved, ours, theirs, transposed):
    folder, tree = saved
    stored = safetensors.numpy.load_file(folder / "model.safetensors")[theirs]
    expected = params.flatten(tree)[ours]
    np.testing.assert_array_equal(stored, expected.T if transposed else expected)


@pytest.mark.parametrize(
    "config", [CONFIG, TIED, PER_LAYER], ids=["gated-untied", "relu-tied", "bias-a-layer"]
)
def test_what_is_saved_is_loaded(tmp_path, vocabulary, config):
    tree = random_params(config)
    folder = tmp_path / "model"
    huggingface.save(folder, tree, config, vocabulary_file=vocabulary, step=7, dtype="float32")
    assert huggingface.is_checkpoint(folder)
    assert huggingface.read_config(folder) == config
    assert huggingface.read_step(folder) == 7
    assert_equal(load(folder, abstract(config)), tree)
    assert (folder / "spiece.model").read_bytes() == b"pieces"
    assert json.loads((folder / "tokenizer_config.json").read_text())["extra_ids"] == 100


def test_bfloat16_is_stored_and_widened_as_asked(tmp_path, vocabulary):
    tree = random_params(CONFIG)
    huggingface.save(tmp_path / "m", tree, CONFIG, vocabulary_file=vocabulary, step=0)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)
    wide = load(tmp_path / "m", abstract(CONFIG))
    assert_equal(wide, jax.tree.map(lambda x: x.astype(np.float32), rounded))
    narrow = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), tree)
    assert_equal(load(tmp_path / "m", narrow), rounded)


def test_shards_are_read_as_one(saved):
    folder, tree = saved
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        part = {name: tensors[name] for name in tensors if shards[name] == shard}
        safetensors.numpy.save_file(part, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    assert_equal(load(folder, abstract(CONFIG)), tree)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-1\.safetensors"):
        load(folder, abstract(CONFIG))


@pytest.mark.parametrize(
    ("config", "tie", "scale", "expected"),
    [
        (CONFIG, False, "absent", (False, False)),  # T5 1.1 as transformers 4 writes it
        (CONFIG, True, False, (False, False)),  # T5 1.1 as transformers 5 writes it
        (TIED, "absent", "absent", (True, True)),  # T5 1.0, first files
        (TIED, True, True, (True, True)),  # T5 1.0 as transformers 5 writes it
        (TIED, True, False, (True, False)),  # T5Config(tie_word_embeddings=False) of transformers 5
        (TIED, False, "absent", (True, False)),  # as transformers 5 reads it
        (CONFIG, True, True, (False, True)),  # T5X
    ],
)
def test_weights_decide_tying_and_config_scaling(
    tmp_path, vocabulary, config, tie, scale, expected
):
    folder, tree = tmp_path / "m", random_params(config)
    save = dict(vocabulary_file=vocabulary, step=0, dtype="float32")
    huggingface.save(folder, tree, config, **save)
    edit_config(folder, tie_word_embeddings=tie, scale_decoder_outputs=scale)
    read = huggingface.read_config(folder)
    assert (read.logits_via_embedding, read.scale_decoder_outputs) == expected
    huggingface.save(tmp_path / "again", tree, read, **save)
    assert huggingface.read_config(tmp_path / "again") == read
    assert_equal(load(tmp_path / "again", abstract(read)), tree)


def test_a_config_that_contradicts_the_output_layer_is_refused(tmp_path, vocabulary):
    huggingface.save(
        tmp_path / "m", random_params(CONFIG), CONFIG, vocabulary_file=vocabulary, step=0
    )
    edit_config(tmp_path / "m", tie_word_embeddings=True, scale_decoder_outputs="absent")
    with pytest.raises(ValueError, match=r"lm_head\.weight differs .* Add it: false for T5 1\.1"):
        huggingface.read_config(tmp_path / "m")


@pytest.mark.parametrize("kind", ["mt5", "umt5"])
@pytest.mark.parametrize("tie", [False, True, "absent"])
def test_logits_of_mt5_and_umt5_are_not_scaled(tmp_path, vocabulary, kind, tie):
    config = PER_LAYER if kind == "umt5" else CONFIG
    folder, tree = tmp_path / "m", random_params(config)
    save = dict(vocabulary_file=vocabulary, step=0, dtype="float32")
    huggingface.save(folder, tree, config, **save)
    edit_config(
        folder,
        model_type=kind,
        tie_word_embeddings=tie,
        scale_decoder_outputs="absent",
        feed_forward_proj="absent",
    )
    assert huggingface.read_config(folder) == config
    assert_equal(load(folder, abstract(config)), tree)
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight"))
    read = huggingface.read_config(folder)
    assert (read.logits_via_embedding, read.scale_decoder_outputs) == (True, False)


def test_bytes_need_no_vocabulary_file(tmp_path):
    save = dict(vocabulary_file=None, extra_ids=0, step=0)
    huggingface.save(tmp_path / "m", random_params(CONFIG), CONFIG, **save)
    tokenizer = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert tokenizer == {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}
    assert not (tmp_path / "m" / "spiece.model").exists()
    # Of a ByT5 config.json may be all that names the tokenizer.
    (tmp_path / "base").mkdir()
    save = dict(vocabulary_file=tmp_path / "base", extra_ids=125, step=0)
    huggingface.save(tmp_path / "n", random_params(CONFIG), CONFIG, **save)
    tokenizer = json.loads((tmp_path / "n" / "tokenizer_config.json").read_text())
    assert tokenizer == {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}


def test_a_folder_of_tokenizer_files_is_copied(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "notes.txt"):
        (source / name).write_text(name)
    settings = dict(vocabulary_file=source, extra_ids=7, step=0)
    huggingface.save(tmp_path / "m", random_params(CONFIG), CONFIG, **settings)
    copied = {x.name for x in (tmp_path / "m").iterdir() if x.read_bytes() == x.name.encode()}
    assert copied == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert not (tmp_path / "m" / "spiece.model").exists()


def test_copies_of_the_embedding_and_the_unused_bias_are_no_surplus(tmp_path, vocabulary):
    tree = random_params(TIED)
    folder = tmp_path / "m"
    huggingface.save(folder, tree, TIED, vocabulary_file=vocabulary, step=0, dtype="float32")
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
    unused = D + "1.EncDecAttention.relative_attention_bias.weight"

    def add(tensors):
        tensors |= {name: tensors["shared.weight"].copy() for name in copies}
        tensors[unused] = np.zeros((4, 2), np.float32)

    rewrite(folder, add)
    assert huggingface.read_config(folder).logits_via_embedding
    assert_equal(load(folder, abstract(TIED)), tree)

    for name in copies:
        contradiction = {name: np.zeros((24, 8), np.float32)}
        rewrite(folder, lambda tensors, add=contradiction: tensors.update(add))
        with pytest.raises(
            ValueError, match=f"shared.weight and {name} differ; expected equal tensors"
        ):
            load(folder, abstract(TIED))
        rewrite(folder, lambda tensors, name=name: tensors.pop(name))


EMBEDDING_NAMES = (
    "shared.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.weight",
)


@pytest.mark.parametrize("name", EMBEDDING_NAMES)
@pytest.mark.parametrize("is_scaled", [True, False])
def test_a_tied_embedding_is_read_under_any_of_its_names(tmp_path, vocabulary, name, is_scaled):
    folder, tree = tmp_path / "m", random_params(TIED)
    config = dataclasses.replace(TIED, scale_decoder_outputs=is_scaled)
    save = dict(vocabulary_file=vocabulary, step=0, dtype="float32")
    huggingface.save(folder, tree, config, **save)
    rewrite(folder, lambda tensors: tensors.update({name: tensors.pop("shared.weight")}))
    assert huggingface.read_config(folder) == config
    assert_equal(load(folder, abstract(config)), tree)


@pytest.mark.parametrize("name", EMBEDDING_NAMES[:3])
def test_the_embedding_of_an_untied_model_is_read_under_any_of_its_names(saved, name):
    folder, tree = saved
    rewrite(folder, lambda tensors: tensors.update({name: tensors.pop("shared.weight")}))
    assert huggingface.read_config(folder) == CONFIG
    assert_equal(load(folder, abstract(CONFIG)), tree)


def with_prefix(prefix):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def unmerged(tensors):
    """As PEFT names the layers of a model with LoRA."""
    return {
        "base_model.model." + name.replace(".q.weight", ".q.base_layer.weight"): tensor
        for name, tensor in tensors.items()
    }


def without(start):
    return lambda tensors: {n: tensor for n, tensor in tensors.items() if not n.startswith(start)}


def with_rows(rows, head_rows=None):
    sizes = {"shared.weight": rows, "lm_head.weight": head_rows or rows}
    return lambda tensors: (
        tensors | {name: np.ones((size, 8), np.float32) for name, size in sizes.items()}
    )


def with_head(prefix):
    head = {"classification_head.dense.weight": np.ones((8, 8), np.float32)}
    return lambda tensors: with_prefix(prefix)(without("lm_head.")(tensors)) | head


@pytest.mark.parametrize(
    ("change", "architecture", "message"),
    [
        (with_prefix("model."), None, r"prefix 'model\.' .*: wrapper\.model\.save_pretrained"),
        (with_prefix("module."), None, r"prefix 'module\.'"),
        (with_prefix("transformer."), None, r"prefix 'transformer\.'"),
        (with_prefix("module._orig_mod."), None, r"wrapper\.module\._orig_mod\.save_pretrained"),
        (with_prefix("base_model.model."), None, r"prefix 'base_model\.model\.'"),
        (unmerged, None, r"an unmerged adapter \(.*base_layer.*merge_and_unload\(\)"),
        (without("decoder."), "T5EncoderModel", "a T5EncoderModel without decoder"),
        (without("decoder."), None, "a model without decoder .* expected encoder and decoder"),
        (without("encoder."), None, "a model without encoder"),
        (without("lm_head."), "T5Model", r"a T5Model without output layer \(lm_head\.weight\)"),
        (with_head("transformer."), "T5ForSequenceClassification", "T5ForSequenceClassification"),
        (with_head(""), None, "a classifier .* Use the model that it was fine-tuned from"),
        (with_rows(25), None, "shared.weight has 25 rows.* vocab_size 24; .* Set vocab_size to 25"),
        (with_rows(23), None, "lm_head.weight has 23 rows.* Set vocab_size to 23 in config.json"),
        (
            with_rows(23, 24),
            None,
            "has 23 rows.* lm_head.weight has 24 rows.* Copy the model again",
        ),
    ],
)
def test_what_a_folder_holds_in_place_of_a_t5_is_named(saved, change, architecture, message):
    folder, _ = saved
    file = folder / "model.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(file)), file)
    edit_config(folder, architectures=[architecture] if architecture else "absent")
    with pytest.raises(ValueError, match=message) as error:
        huggingface.read_config(folder)
    assert "scale_decoder_outputs" not in str(error.value)


def test_weights_of_two_generations_are_those_of_the_single_file(saved, caplog):
    folder, tree = saved
    old = {"shared.weight": np.zeros((24, 8), np.float32)}
    safetensors.numpy.save_file(old, folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(old, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_equal(load(folder, abstract(CONFIG)), tree)
    assert caplog.text.count("Delete the one that is out of date") == 1


def test_one_error_lists_all_that_does_not_fit(saved):
    folder, _ = saved

    def spoil(tensors):
        del tensors["shared.weight"]
        tensors["encoder.block.2.layer.0.layer_norm.weight"] = np.ones(8, np.float32)
        tensors[E + "0.SelfAttention.q.weight"] = np.ones((6, 9), np.float32)

    rewrite(folder, spoil)
    with pytest.raises(ValueError, match="INITIAL_CHECKPOINT_PATH") as error:
        load(folder, abstract(CONFIG))
    lines = [line.strip() for line in str(error.value).splitlines()[1:-1]]
    assert lines == [
        "missing: token_embedder/embedding (24, 8)",
        "shape: encoder/layers_1/attention/query/kernel is (9, 6), the model has (8, 6)",
        "surplus: encoder.block.2.layer.0.layer_norm.weight (8,)",
    ]


def test_damaged_and_foreign_files_are_named(saved):
    folder, _ = saved
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load(folder, abstract(CONFIG))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="INITIAL_CHECKPOINT_PATH"):
        load(folder, abstract(CONFIG))
    weights.write_bytes(content)
    rewrite(folder, lambda t: t.update({"shared.weight": np.ones((24, 8), np.int32)}))
    with pytest.raises(ValueError, match="expected floats"):
        load(folder, abstract(CONFIG))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "longt5"}, "'longt5'.*expected one of t5, mt5, umt5"),
        ({"feed_forward_proj": "gated-swish"}, "gated-swish"),
        ({"d_model": "absent"}, r"lacks d_model;"),
    ],
)
def test_config_of_another_model_is_refused(saved, changes, message):
    folder, _ = saved
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        huggingface.read_config(folder)


def test_a_folder_that_is_not_local_is_copied_once(saved, monkeypatch):
    folder, tree = saved
    copied = []

    def remote(path):
        copied.append(path.name)
        return True

    monkeypatch.setattr(huggingface.weight_files, "_is_remote", remote)
    huggingface.check_config(folder, CONFIG)
    assert_equal(load(folder, params.shapes(tree)), tree)
    assert copied == ["model.safetensors"]


def test_config_that_is_not_json_is_named(saved):
    folder, _ = saved
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not a JSON object"):
        huggingface.read_config(folder)


def test_save_refuses_and_leaves_nothing_behind(saved, tmp_path, vocabulary):
    folder, tree = saved
    before = (folder / "model.safetensors").read_bytes()
    save = dict(vocabulary_file=vocabulary, step=0)
    with pytest.raises(FileExistsError, match="exists"):
        huggingface.save(folder, tree, CONFIG, **save)
    assert (folder / "model.safetensors").read_bytes() == before
    prompted = params.merge(tree, {"encoder": {"prompt": {"prompt": np.ones((2, 8))}}})
    with pytest.raises(ValueError, match="encoder/prompt/prompt"):
        huggingface.save(tmp_path / "new", prompted, CONFIG, **save)
    vocabulary.write_bytes(b"..<extra_id_0>..")
    with pytest.raises(ValueError, match="VOCABULARY_FILE"):
        huggingface.save(tmp_path / "new", tree, CONFIG, **save)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "vocabulary.model"]
