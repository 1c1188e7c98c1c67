"""seqio encodes and decodes with a Hugging Face tokenizer as the package does."""

import json
import shutil

import numpy as np
import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import seqio_tasks, vocabularies
from prompt_tuning.data.text import preprocessors

TEXTS = ["", "the good film", "a<extra_id_0>b new  new.", "naïve 漢字 <extra_id_3>"]


@pytest.fixture
def tokenizer(tmp_path, vocabulary):
    """The tiny vocabulary with its sentinels, and an added token after them."""
    shutil.copy(vocabulary.path, tmp_path / "spiece.model")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"new": vocabulary.size}))
    return vocabularies.load(tmp_path)


def test_ids_and_texts_equal_those_of_the_tokenizer(tokenizer, vocabulary):
    of_seqio = tokenizer.for_seqio()
    assert of_seqio.vocab_size == tokenizer.size == vocabulary.size + 1
    ids = (of_seqio.pad_id, of_seqio.eos_id, of_seqio.unk_id, of_seqio.bos_id)
    assert ids == (0, 1, 2, None)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert of_seqio.encode(text) == of_seqio.encode_tf(text).numpy().tolist() == ids
        decoded = of_seqio.decode_tf(tf.constant(ids)).numpy().decode()
        assert of_seqio.decode(ids) == decoded == tokenizer.decode(ids)


def test_tensors_of_any_rank_are_encoded_and_decoded(tokenizer):
    of_seqio = tokenizer.for_seqio()
    ids = list(map(tokenizer.encode, TEXTS))
    assert of_seqio.encode_tf(tf.constant(TEXTS)).to_list() == ids
    nested = of_seqio.encode_tf(tf.constant([TEXTS[:2], TEXTS[2:]]))
    assert nested.to_list() == [ids[:2], ids[2:]]
    good, film = tokenizer.encode("the good"), tokenizer.encode("good film")
    rows = of_seqio.decode_tf(tf.constant([[good, film], [film, good]])).numpy()
    assert rows.tolist() == [[b"the good", b"good film"], [b"good film", b"the good"]]


def test_invalid_utf_8_is_encoded_with_replacement_characters(tokenizer):
    ids = tokenizer.for_seqio().encode_tf(b"good \xff film").numpy().tolist()
    assert ids == tokenizer.encode("good \ufffd film")


def test_vocabularies_are_equal_if_their_tokenizers_are(tokenizer, vocabulary, tmp_path):
    of_seqio = tokenizer.for_seqio()
    assert vocabularies.load(tmp_path).for_seqio() == of_seqio != vocabulary.for_seqio()
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(vocabulary.path, other / "spiece.model")
    assert vocabularies.load(other).for_seqio() != of_seqio
    assert str(of_seqio) == f"TokenizerVocabulary({tmp_path})"


def test_datasets_have_static_shapes_and_iterators_that_can_be_saved(tokenizer, tmp_path):
    of_seqio = tokenizer.for_seqio()
    encoded = tf.data.Dataset.from_tensors("good").map(of_seqio.encode_tf)
    decoded = encoded.map(of_seqio.decode_tf)
    assert encoded.element_spec.shape.as_list() == [None]
    assert decoded.element_spec.shape.as_list() == []
    options = tf.data.Options()
    # The default policy only warns about stateful operations.
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.FAIL
    for name, dataset in (("encoded", encoded), ("decoded", decoded)):
        iterator = iter(dataset.with_options(options))
        tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / name))


def test_a_registered_task_gets_the_ids_of_the_tokenizer(tokenizer, vocabulary, tmp_path):
    def open_source(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices({"inputs": TEXTS, "targets": TEXTS})

    steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    source = seqio.FunctionDataSource(open_source, splits=["train"])
    task = seqio.Task(
        "texts", source=source, output_features=seqio_tasks.text_features(), preprocessors=steps
    )
    read = seqio_tasks.use_vocabulary(task, tokenizer)
    dataset = read.get_dataset(None, "train", shuffle=False)
    for text, example in zip(TEXTS, dataset.as_numpy_iterator(), strict=True):
        assert example["inputs"].tolist() == [*tokenizer.encode(text), 1]
        np.testing.assert_array_equal(example["inputs"], example["targets"])
    # The iterator can be saved, as T5X does.
    tf.train.Checkpoint(iterator=iter(dataset)).write(str(tmp_path / "iterator"))
    other = seqio_tasks.text_features(vocabulary.for_seqio())
    fixed = seqio.Task("fixed", source=source, output_features=other, preprocessors=steps)
    with pytest.raises(
        ValueError,
        match=r"task fixed tokenizes inputs with .*the model's vocabulary, .*Hugging Face tok",
    ):
        seqio_tasks.use_vocabulary(fixed, tokenizer)


def test_added_tokens_follow_the_sentinels(tokenizer, vocabulary):
    of_seqio = tokenizer.for_seqio()
    assert preprocessors.sentinels_end(of_seqio) == tokenizer.sentinels_end == vocabulary.size
    assert preprocessors.sentinels_end(vocabulary.for_seqio()) == vocabulary.sentinels_end
    preprocessors.check_sentinels(of_seqio, 100, 512)
    with pytest.raises(ValueError, match="does not end with the sentinels"):
        preprocessors.check_sentinels(of_seqio, 101, 512)
