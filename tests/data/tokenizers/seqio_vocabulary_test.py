"""seqio tasks tokenise with a Hugging Face tokenizer as the package does."""

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
    """The tiny vocabulary with its sentinels, and a token that was added behind them."""
    shutil.copy(vocabulary.path, tmp_path / "spiece.model")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"new": vocabulary.size}))
    return vocabularies.load(tmp_path)


def test_ids_and_texts_are_those_of_the_tokenizer(tokenizer, vocabulary):
    of_seqio = tokenizer.for_seqio()
    assert of_seqio.vocab_size == tokenizer.size == vocabulary.size + 1
    assert (of_seqio.pad_id, of_seqio.eos_id, of_seqio.unk_id) == (0, 1, 2)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert of_seqio.encode(text) == of_seqio.encode_tf(text).numpy().tolist() == ids
        assert of_seqio.decode(ids) == of_seqio.decode_tf(tf.constant(ids)).numpy().decode()
    assert of_seqio.encode_tf(tf.constant(TEXTS)).to_list() == list(map(tokenizer.encode, TEXTS))
    assert tokenizer.for_seqio() == of_seqio != vocabulary.for_seqio()


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
    # Such an iterator can be saved, as T5X does.
    tf.train.Checkpoint(iterator=iter(dataset)).write(str(tmp_path / "iterator"))
    other = seqio_tasks.text_features(vocabulary.for_seqio())
    insists = seqio.Task("own", source=source, output_features=other, preprocessors=steps)
    with pytest.raises(
        ValueError,
        match=r"task own tokenizes inputs with .*the model's vocabulary, .*Hugging Face tok",
    ):
        seqio_tasks.use_vocabulary(insists, tokenizer)


def test_sentinels_are_before_added_tokens(tokenizer, vocabulary):
    of_seqio = tokenizer.for_seqio()
    assert preprocessors.sentinels_end(of_seqio) == tokenizer.sentinels_end == vocabulary.size
    assert preprocessors.sentinels_end(vocabulary.for_seqio()) == vocabulary.sentinels_end
    preprocessors.check_sentinels(of_seqio, 100, 512)
    with pytest.raises(ValueError, match="does not end with the sentinels"):
        preprocessors.check_sentinels(of_seqio, 101, 512)
