"""Which format a folder is in, and the identity of the model in it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import serialization

from prompt_tuning.checkpoints import base_model
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoder_only_model, model

CONFIG = config_lib.T5Config(24, 8, 2, 3, 10, 1, 1)


@pytest.fixture
def params():
    return model.EncoderDecoderModel(CONFIG).init(jax.random.key(0))


@pytest.fixture
def abstract():
    return nn.unbox(model.EncoderDecoderModel(CONFIG).abstract_params())


def write_t5x(folder, params, step=3):
    """A checkpoint whose leaves are all inside the index."""
    folder.mkdir(parents=True)
    target = jax.tree.map(np.asarray, params)
    optimizer = {"target": target, "state": {"step": np.asarray(step)}}
    content = serialization.msgpack_serialize({"version": 3, "optimizer": optimizer})
    (folder / "checkpoint").write_bytes(content)
    return folder


def write_huggingface(folder, params, step):
    vocabulary = folder.parent / "vocabulary.model"
    vocabulary.write_bytes(b"pieces")
    huggingface.save(folder, params, CONFIG, vocabulary_file=vocabulary, step=step, dtype="float32")
    return folder


def test_all_formats_give_the_same_tree_and_their_step(tmp_path, params, abstract, write_orbax):
    for folder, step in (
        (write_t5x(tmp_path / "checkpoint_3", params, 3), 3),
        (write_orbax(tmp_path, jax.device_get(params), 5), 5),
        (write_huggingface(tmp_path / "hf", params, 9), 9),
    ):
        tree, found_step = base_model.load(folder, abstract)
        jax.tree.map(np.testing.assert_array_equal, tree, params)
        assert found_step == step
        embedding = base_model.read_embedding(folder)
        np.testing.assert_array_equal(embedding, params["token_embedder"]["embedding"])


def test_one_format_tells_network_and_tokenizer(tmp_path, params):
    native = write_t5x(tmp_path / "checkpoint_3", params)
    assert base_model.read_config(native) is base_model.tokenizer_folder(native) is None
    folder = write_huggingface(tmp_path / "hf", params, 9)
    assert base_model.read_config(folder) == CONFIG
    assert base_model.tokenizer_folder(folder) == str(folder)
    for read in (base_model.read_config, base_model.tokenizer_folder):
        with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
            read(tmp_path / "nowhere")


def test_the_embedding_of_a_decoder_only_model(tmp_path):
    weights = decoder_only_model.DecoderOnlyModel(CONFIG).init(jax.random.key(0))
    folder = write_t5x(tmp_path / "checkpoint_3", weights)
    expected = weights["decoder"]["token_embedder"]["embedding"]
    np.testing.assert_array_equal(base_model.read_embedding(folder), expected)


def test_digest_is_that_of_the_weights_in_any_folder_format_and_dtype(
    tmp_path, params, abstract, write_orbax
):
    tree = jax.device_get(params)
    rounded = jax.tree.map(lambda x: x.astype("bfloat16"), tree)
    folders = [
        write_t5x(tmp_path / "t5_base" / "checkpoint_3", tree),
        write_t5x(tmp_path / "other" / "checkpoint_9", rounded, step=9),
        write_orbax(tmp_path, tree, 5),
        write_huggingface(tmp_path / "hf", tree, 9),
    ]
    assert len({base_model.digest(folder, abstract) for folder in folders}) == 1
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16"), abstract)
    assert base_model.digest(folders[0], half) == base_model.digest(folders[0], abstract)


@pytest.mark.parametrize(
    "path",
    [
        ("token_embedder", "embedding"),
        ("encoder", "layers_0", "attention", "query", "kernel"),
        ("decoder", "layers_0", "mlp", "wo", "kernel"),
        ("decoder", "decoder_norm", "scale"),
    ],
)
def test_digest_of_other_weights_is_another(tmp_path, params, abstract, path):
    tree = jax.device_get(params)
    folder = write_t5x(tmp_path / "t5_base" / "checkpoint_3", tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = node[path[-1]] * 1.1
    tuned = write_t5x(tmp_path / "tuned" / "t5_base" / "checkpoint_3", tree)
    assert base_model.digest(folder, abstract) != base_model.digest(tuned, abstract)
    smaller = {"token_embedder": abstract["token_embedder"]}
    assert base_model.digest(folder, abstract) != base_model.digest(folder, smaller)


def test_a_network_is_configured_by_its_folder(tmp_path, params):
    folder = write_huggingface(tmp_path / "hf", params, 9)
    assert base_model.configure(folder, embed_dim=None, dropout_rate=0.1) == dataclasses.replace(
        CONFIG, dropout_rate=0.1
    )
    assert base_model.configure(folder, embed_dim=8, mlp_activations=["gelu", "linear"]) == CONFIG
    with pytest.raises(
        ValueError, match=r"EMBED_DIM=9, but config\.json has d_model 8\n  NUM_EMBEDD"
    ):
        base_model.configure(folder, embed_dim=9, vocab_size=5)
    for path in (None, write_t5x(tmp_path / "checkpoint_3", params)):
        with pytest.raises(ValueError, match=r"hugging_face\.gin reads the sizes"):
            base_model.configure(path)


def test_an_adapter_is_no_model(tmp_path, params, abstract):
    content = {"base_model_name_or_path": "google/t5", "peft_type": "LORA"}
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a PEFT adapter of 'LORA', not a model; .*'google/t5'"):
        base_model.load(folder, abstract)
    write_huggingface(tmp_path / "hf", params, 9)
    for kind, is_read in (("PROMPT_TUNING", True), ("LORA", False)):
        text = json.dumps(content | {"peft_type": kind})
        (tmp_path / "hf" / "adapter_config.json").write_text(text)
        if is_read:
            base_model.load(tmp_path / "hf", abstract)
        else:
            with pytest.raises(ValueError, match="contains a model and a PEFT adapter of 'LORA'"):
                base_model.load(tmp_path / "hf", abstract)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (None, FileNotFoundError, "does not exist; .* Set INITIAL_CHECKPOINT_PATH"),
        ("notes.txt", ValueError, "neither a file `checkpoint`"),
        ("_CHECKPOINT_METADATA", ValueError, "incomplete: it has no commit_success.txt"),
        ("model.ckpt-1000000.index", ValueError, "Mesh TensorFlow checkpoint"),
    ],
)
def test_other_folders_are_refused(tmp_path, abstract, name, error, message):
    folder = tmp_path / "folder"
    if name:
        folder.mkdir()
        (folder / name).touch()
    for call in (base_model.load, base_model.digest):
        with pytest.raises(error, match=message):
            call(folder, abstract)


def test_the_name_of_a_mesh_tensorflow_checkpoint_is_told(tmp_path, abstract):
    (tmp_path / "model.ckpt-1000000.index").touch()
    for path in (tmp_path / "model.ckpt-1000000", tmp_path):
        with pytest.raises(ValueError, match=r"Mesh TensorFlow .*t5-data/pretrained_models/t5x"):
            base_model.load(path, abstract)


def test_one_variable_is_read(tmp_path, params, write_orbax):
    kernel = params["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    for folder in (
        write_t5x(tmp_path / "checkpoint_3", params),
        write_orbax(tmp_path, jax.device_get(params), 5),
        write_huggingface(tmp_path / "hf", params, 9),
    ):
        for prefix in ("", "/", "target/", "/target/"):
            name = f"{prefix}encoder/layers_0/mlp/wo/kernel"
            found = base_model.read_variable(folder, name)
            np.testing.assert_array_equal(found, kernel, strict=True)
        halved = base_model.read_variable(folder, name, "bfloat16")
        np.testing.assert_array_equal(halved, kernel.astype("bfloat16"))
        with pytest.raises(ValueError, match=r"no parameter 'wo/kernel'; expected .*mlp/wo/kernel"):
            base_model.read_variable(folder, "wo/kernel")


def test_a_folder_of_checkpoints_is_refused_with_their_names(tmp_path):
    for name in ("checkpoint_3", "checkpoint_7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint").write_bytes(b"")
    (tmp_path / "train").mkdir()
    message = "contains the checkpoints checkpoint_3, checkpoint_7; set INITIAL_CHECKPOINT_PATH to one of them"
    with pytest.raises(ValueError, match=message):
        base_model.read_step(tmp_path)
