"""How a prompt starts: each initializer on a table whose row i is all i."""

import jax
import numpy as np
import pytest

from prompt_tuning.methods import initializers

EMBEDDING = np.repeat(np.arange(50, dtype=np.float32)[:, None], 3, axis=1)
PIECES = {
    "positive": [10, 20],
    "negative": [30],
    "NEGATIVE": [30],
    "it was great": [40, 41, 42],
    "": [],
}
RNG = jax.random.key(0)


def start(initializer, length=5, rng=RNG):
    prompt = initializer(rng, length, EMBEDDING, PIECES.__getitem__)
    assert (prompt.shape, prompt.dtype) == ((length, 3), np.float32)
    return np.asarray(prompt)


def rows(prompt):
    """Which rows of the table a prompt is made of."""
    assert (prompt == prompt[:, :1]).all()
    return prompt[:, 0].tolist()


def test_uniform_fills_its_range_and_no_more():
    prompt = start(initializers.RandomUniform(0.25), 1000)
    assert -0.25 <= prompt.min() < -0.24 < 0.24 < prompt.max() <= 0.25
    assert abs(prompt.mean()) < 0.01
    assert np.abs(start(initializers.RandomUniform(), 1000)).max() > 0.49
    above = start(initializers.RandomUniform(0.25, signed=False), 1000)
    assert 0 <= above.min() < 0.01 < 0.24 < above.max() <= 0.25


@pytest.mark.parametrize("population", [7, 50, 5000])
def test_sampled_rows_are_of_the_first_and_differ(population):
    found = rows(start(initializers.SampledVocabulary(population), min(population, 50)))
    # As many as there are: without replacement each is there once.
    assert sorted(found) == list(range(min(population, 50)))
    assert found != sorted(found)


def test_more_rows_than_pieces_are_drawn_with_replacement():
    found = rows(start(initializers.SampledVocabulary(7), 60))
    assert set(found) == set(range(7))


@pytest.mark.parametrize("population", [0, -1])
def test_there_is_something_to_sample(population):
    with pytest.raises(ValueError, match=f"population is {population}; expected at least 1"):
        initializers.SampledVocabulary(population)


SAMPLED = None


@pytest.mark.parametrize(
    ("initializer", "expected"),
    [
        (initializers.ClassLabels(("positive", "negative"), 5), [15, 30, *[SAMPLED] * 3]),
        (initializers.ClassLabels(["negative"] * 5, 5), [30] * 5),
        (initializers.ClassLabels(None, 5), [SAMPLED] * 5),
        (initializers.String("it was great", 5), [40, 41, 42, SAMPLED, SAMPLED]),
        (initializers.String("", 5), [SAMPLED] * 5),
        (initializers.FromArray(EMBEDDING[7:12]), [7, 8, 9, 10, 11]),
        (
            initializers.OfTable(
                100 + EMBEDDING, initializers.ClassLabels(("positive", "negative") * 3)
            ),
            [115, 130] * 3,
        ),
    ],
)
def test_rows_are_those_of_the_pieces_and_the_rest_is_sampled(initializer, expected):
    found = rows(start(initializer, len(expected)))
    sampled = rows(start(initializers.SampledVocabulary(5), len(expected)))
    assert found == [sampled[i] if row is SAMPLED else row for i, row in enumerate(expected)]


@pytest.mark.parametrize(
    ("initializer", "part"),
    [
        (
            initializers.ClassLabels(["negative"] * 6),
            "6 labels, but the prompt has only 5 .* PROMPT_LENGTH",
        ),
        (
            initializers.ClassLabels("positive"),
            "CLASS_LABELS is 'positive'; expected a list of strings",
        ),
        (initializers.ClassLabels([0, 1]), r"CLASS_LABELS is \[0, 1\]; expected a list of strings"),
        (initializers.ClassLabels(("positive", "")), "label '' of CLASS_LABELS has no tokens"),
        (
            initializers.ClassLabels(("negative", "NEGATIVE")),
            "'negative' and 'NEGATIVE', which have",
        ),
        (
            initializers.FromArray(EMBEDDING[:4]),
            r"PROMPT_FILE has shape \(4, 3\); .* \(5, 3\), .* Set PROMPT_L",
        ),
        (
            initializers.OfTable(EMBEDDING[:, :2], initializers.SampledVocabulary()),
            r"EMBEDDING_FILE has shape \(50, 2\); expected \(50, 3\), .* Set EMBEDDING_FILE",
        ),
        (
            initializers.FromArray(np.zeros((5, 2))),
            r"PROMPT_FILE has shape \(5, 2\); expected \(5, 3",
        ),
    ],
)
def test_what_does_not_fit(initializer, part):
    with pytest.raises(ValueError, match=part):
        start(initializer)


def test_a_text_longer_than_the_prompt():
    with pytest.raises(ValueError, match="PROMPT_TEXT has 3 tokens, but the prompt has only 2"):
        start(initializers.String("it was great"), 2)
    with pytest.raises(ValueError, match="TASK_STRING has 3 tokens, but the prompt has only 2"):
        start(initializers.String("it was great", setting="TASK_STRING"), 2)


def test_a_prompt_of_another_shape_names_where_it_is_from():
    given = initializers.FromArray(EMBEDDING[:4], setting="PROMPT_CHECKPOINT")
    with pytest.raises(ValueError, match=r"PROMPT_CHECKPOINT has shape \(4, 3\); .* \(5, 3\)"):
        start(given)


@pytest.mark.parametrize(
    "initializer",
    [
        initializers.RandomUniform(),
        initializers.SampledVocabulary(),
        initializers.ClassLabels(("positive",)),
        initializers.String("it was great"),
    ],
)
def test_randomness_follows_the_rng(initializer):
    once, again, other = (start(initializer, rng=jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_a_bfloat16_table_makes_a_float32_prompt():
    table = EMBEDDING.astype(jax.numpy.bfloat16)
    for initializer in (initializers.SampledVocabulary(), initializers.ClassLabels(("positive",))):
        assert initializer(RNG, 5, table, PIECES.__getitem__).dtype == np.float32


@pytest.mark.parametrize("labels", [[], ()])
def test_class_labels_are_one_or_more(labels):
    with pytest.raises(
        ValueError, match=r"CLASS_LABELS is [\[(].*; expected one label or more, or None"
    ):
        initializers.ClassLabels(labels)
