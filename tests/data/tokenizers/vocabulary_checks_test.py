"""Reports about text that a vocabulary cannot represent."""

import numpy as np
import pytest

from prompt_tuning.data import vocabularies
from prompt_tuning.data.tokenizers import vocabulary_checks

LATIN = ["she saw the film", "he liked the story"]
CHINESE = ["\u4eca\u5929\u5929\u6c14", "\u7535\u5f71\u5f88\u597d", "\u6211\u559c\u6b22"]


def check(vocabulary, texts, **settings):
    ids = [np.array([*vocabulary.encode(text), 1]) for text in texts]
    vocabulary_checks.check_unknown("TRAIN_FILE a.tsv: inputs", texts, ids, vocabulary, **settings)


@pytest.mark.parametrize("training", [False, True])
def test_text_with_few_unknown_tokens_is_not_reported(vocabulary, caplog, training):
    check(vocabulary, LATIN, training=training)
    check(vocabulary, [*LATIN * 20, "Anna saw the film"], training=training)  # 0.5 % of the tokens
    check(vocabularies.ByteVocabulary(), CHINESE, training=training)
    check(vocabulary, [], training=training)
    assert not caplog.messages


def test_a_high_fraction_of_unknown_tokens_is_reported(vocabulary, caplog):
    check(vocabulary, ["She saw The Film", *LATIN], training=True)
    [message] = caplog.messages
    assert "TRAIN_FILE a.tsv: inputs: " in message and "of the tokens are unknown" in message
    assert "of the characters, such as 'FST'" in message and "mT5 or ByT5" in message


@pytest.mark.parametrize(
    "texts",
    [CHINESE, [f"she saw the story : {text}" for text in CHINESE]],
    ids=["plain", "template"],
)
def test_training_on_unknown_text_is_refused(vocabulary, caplog, texts):
    """After a template most tokens are known, but all texts have the same tokens."""
    with pytest.raises(ValueError, match="Nothing can be learned from unknown tokens") as error:
        check(vocabulary, texts, training=True)
    assert "67% of the texts have the same tokens as another text" in str(error.value)
    check(vocabulary, texts)
    [message] = caplog.messages
    assert "Predictions for such inputs are arbitrary" in message


def example(vocabulary, text, target):
    return {
        "inputs": np.array([*vocabulary.encode(text), 1]),
        "targets": np.array([*vocabulary.encode(target), 1]),
        "inputs_pretokenized": text.encode(),
        "targets_pretokenized": target,
    }


def test_indistinguishable_labels_of_files_are_refused_and_of_tasks_reported(vocabulary, caplog):
    examples = [example(vocabulary, "she", target) for target in ("C++", "C#")]
    counts = {"C++": 1, "C#": 1}
    with pytest.raises(ValueError, match=r"EVAL_FILE a.tsv: targets: the vocabulary .*distinguish"):
        vocabulary_checks.check_examples("a", examples, counts, vocabulary, file="EVAL_FILE a.tsv")
    caplog.clear()
    vocabulary_checks.check_examples("of_seqio", examples, counts, vocabulary, file=None)
    assert "of_seqio: targets: the vocabulary" in caplog.messages[-1]
    with pytest.raises(ValueError, match=r"(?s)of_seqio: targets: .*distinguish.*Use other words"):
        vocabulary_checks.check_examples(
            "of_seqio", examples, counts, vocabulary, file=None, training=True
        )


def test_inexact_free_text_is_reported_once(vocabulary, caplog):
    caplog.set_level("INFO")
    examples = [example(vocabulary, "she", text) for text in ("she  saw", "she saw", "a film")]
    vocabulary_checks.check_examples("a", examples, {}, vocabulary, file="EVAL_FILE a.tsv")
    [message] = caplog.messages
    assert "the vocabulary cannot represent 1 of 3 targets exactly" in message
    assert "'she  saw' as 'she saw'" in message
    vocabulary_checks.check_examples(
        "a", [{"inputs": [5], "targets": [6]}], {}, vocabulary, file="x"
    )
    assert len(caplog.messages) == 1
