"""Decoders against a random language model whose every sequence can be listed."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models import decoding

V, LENGTH, ROWS = 5, 3, 4
NOT_END = (0, 2, 3, 4)
T5X = pathlib.Path(__file__).parents[1] / "testdata" / "t5x.json"  # of scripts/t5x_parity.py


class TableModel:
    """Logits drawn at random for every beginning: the cache holds the beginning's number."""

    def __init__(self, logits: np.ndarray):
        self.logits = logits.astype(np.float32)  # [rows, length, V^(length - 1), V]
        rows, self.length = logits.shape[:2]
        self.cache = [{"self": jnp.zeros(rows, jnp.int32), "cross": jnp.arange(rows)}]
        self.encoder_ids = jnp.ones((rows, 1), jnp.int32)

    def step(self, tokens, index, cache, encoder_ids):
        assert tokens.shape == encoder_ids.shape[:1]
        (layer,) = cache
        beginning = layer["self"] * V + tokens
        logits = jnp.asarray(self.logits)[layer["cross"], index, beginning]
        return logits, [{"self": beginning, "cross": layer["cross"]}]

    def decode(self, decoder: decoding.Decoder, rng=None):
        run = jax.jit(
            lambda rng: decoder(self.cache, self.step, self.encoder_ids, self.length, rng)
        )
        return tuple(np.asarray(x) for x in run(rng))

    def log_prob(self, row: int, tokens: tuple[int, ...]) -> float:
        """log p of the tokens one by one, in float64."""
        total, beginning = 0.0, 0
        for index, token in enumerate(tokens):
            logits = self.logits[row, index, beginning].astype(np.float64)
            total += logits[token] - np.log(np.exp(logits).sum())
            beginning = beginning * V + token
        return total


@pytest.fixture
def table_model(rng) -> TableModel:
    return TableModel(rng.normal(size=(ROWS, LENGTH, V ** (LENGTH - 1), V)) * 2)


def finished_sequences():
    """Every sequence of at most LENGTH tokens that ends with the end token."""
    for length in range(LENGTH):
        for start in itertools.product(NOT_END, repeat=length):
            yield (*start, decoding.EOS_ID)


def beam_score(model: TableModel, row: int, tokens: tuple[int, ...], alpha: float) -> float:
    """Only a sequence that ends has a length penalty."""
    penalty = ((5 + len(tokens)) / 6) ** alpha if decoding.EOS_ID in tokens else 1
    return model.log_prob(row, tokens) / penalty


def best(model: TableModel, row: int, alpha: float, n: int):
    """The n best: all that end, in order of score, then those that do not."""
    ranked = []
    for group in (finished_sequences(), itertools.product(NOT_END, repeat=LENGTH)):
        scores = {tokens: beam_score(model, row, tokens, alpha) for tokens in group}
        ranked += sorted(scores.items(), key=lambda item: -item[1])
    tokens = [[*tokens, *[0] * (LENGTH - len(tokens))] for tokens, _ in ranked[:n]]
    return tokens, [score for _, score in ranked[:n]]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_wide_beam_search_finds_the_best_of_all_sequences(table_model, alpha):
    # The 16 beginnings of two tokens have 80 continuations: 40 beams keep them all. 21 of all
    # sequences end, so that the last 19 decodes do not.
    n = 40
    tokens, scores = table_model.decode(decoding.BeamSearch(n, alpha))
    for row in range(ROWS):
        expected_tokens, expected_scores = best(table_model, row, alpha, n)
        np.testing.assert_array_equal(tokens[row], expected_tokens)
        np.testing.assert_allclose(scores[row], expected_scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_narrow_beam_search_scores_what_it_returns(table_model, n):
    tokens, scores = table_model.decode(decoding.BeamSearch(n, alpha=0.6))
    assert (np.diff(scores, axis=1) <= 0).all()
    for row in range(ROWS):
        assert len(np.unique(tokens[row], axis=0)) == n
        for found, score in zip(tokens[row].tolist(), scores[row], strict=True):
            sequence = tuple(found[: found.index(1) + 1] if 1 in found else found)
            expected = beam_score(table_model, row, sequence, 0.6)
            np.testing.assert_allclose(score, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "search",
    json.loads(T5X.read_text())["beams"],
    ids=lambda search: f"alpha {search['alpha']}, {search['num_decodes']} decodes",
)
def test_beam_search_gives_what_t5x_gives(search, load_script):
    logits = jnp.asarray(load_script("t5x_parity").beam_logits())
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    rows, length = logits.shape[:2]

    def step(tokens, index, cache, encoder_ids):
        return logits[cache[0]["cross"], index, tokens], cache

    cache = [{"self": jnp.zeros(rows), "cross": jnp.arange(rows)}]
    decoder = decoding.BeamSearch(search["num_decodes"], search["alpha"])
    tokens, scores = decoder(cache, step, jnp.ones((rows, 1), jnp.int32), length)
    is_decode = np.array(search["scores"]) > decoding.NEVER / 2
    np.testing.assert_array_equal(tokens[is_decode], np.array(search["tokens"])[is_decode])
    np.testing.assert_allclose(scores[is_decode], np.array(search["scores"])[is_decode], rtol=1e-5)
    # Where some decodes of a row have ended, T5X leaves the others empty.
    for row, n in zip(*np.nonzero(~is_decode), strict=True):
        sequence = [0, *tokens[row, n].tolist()]
        assert decoding.EOS_ID not in sequence
        expected = log_probs[row, range(length), sequence[:-1], sequence[1:]].sum()
        np.testing.assert_allclose(scores[row, n], expected, rtol=1e-5)


def logits_of(probabilities: dict[tuple[int, ...], list[float]], length: int) -> np.ndarray:
    """One row's table from the probabilities that follow given beginnings; else uniform."""
    logits = np.zeros((1, length, V ** (length - 1), V))
    for beginning, values in probabilities.items():
        number = sum(t * V**i for i, t in enumerate(reversed(beginning)))
        logits[0, len(beginning), number] = np.log(values)
    return logits


# Ending at once has 0.45. One beam holds it and 2 (0.4), which then surely goes on to 3 and ends:
# log 0.45 = -0.80, log 0.4 = -0.92, and -0.92 / (8/6)^2 = -0.52.
LATE = {
    (): [0.05, 0.45, 0.4, 0.05, 0.05],
    (2,): [1e-9, 1e-9, 1e-9, 1, 1e-9],
    (2, 3): [1e-9, 1, 1e-9, 1e-9, 1e-9],
}


@pytest.mark.parametrize(
    ("alpha", "expected", "score"),
    [(0.0, [1, 0, 0], np.log(0.45)), (2.0, [2, 3, 1], np.log(0.4) / (8 / 6) ** 2)],
)
def test_search_goes_on_while_a_longer_sequence_can_win(alpha, expected, score):
    tokens, scores = TableModel(logits_of(LATE, 3)).decode(decoding.BeamSearch(1, alpha))
    assert tokens.tolist() == [[expected]]
    np.testing.assert_allclose(scores, [[score]], rtol=1e-5)


def test_greedy_takes_the_most_probable_token(table_model):
    tokens, scores = table_model.decode(decoding.Greedy())
    assert tokens.shape == (ROWS, 1, LENGTH)
    for row in range(ROWS):
        chosen: tuple[int, ...] = ()
        while len(chosen) < LENGTH and decoding.EOS_ID not in chosen:
            longer = [(*chosen, token) for token in range(V)]
            chosen = max(longer, key=functools.partial(table_model.log_prob, row))
        assert tokens[row, 0].tolist() == [*chosen, *[0] * (LENGTH - len(chosen))]
        np.testing.assert_allclose(scores[row], table_model.log_prob(row, chosen), atol=1e-5)


@pytest.mark.parametrize(
    "decoder",
    [decoding.Greedy(), decoding.Sampling(2, topk=1), decoding.BeamSearch(2)],
    ids=lambda decoder: type(decoder).__name__,
)
def test_decoding_stops_when_every_row_has_ended(decoder):
    ends = logits_of({(): [1e-9, 1, 1e-9, 1e-9, 1e-9]}, 3)
    ends[0, 1, :, decoding.EOS_ID] = 30
    model, steps = TableModel(np.repeat(ends, 2, axis=0)), []

    def counted(tokens, index, cache, encoder_ids):
        jax.debug.callback(lambda i: steps.append(int(i)), index)
        return TableModel.step(model, tokens, index, cache, encoder_ids)

    model.step = counted
    tokens, _ = model.decode(decoder, jax.random.key(0))
    jax.effects_barrier()
    assert (tokens[:, 0] == [1, 0, 0]).all()
    assert max(steps) <= 1


def test_sampling_with_topk_1_is_greedy(table_model):
    sampled = table_model.decode(decoding.Sampling(topk=1), jax.random.key(3))
    for have, want in zip(sampled, table_model.decode(decoding.Greedy()), strict=True):
        np.testing.assert_array_equal(have, want)


def test_samples_are_sorted_by_their_log_probability(table_model):
    # The score is the model's own log p, whatever the temperature of the draw.
    decoder = decoding.Sampling(num_decodes=6, temperature=3.0)
    tokens, scores = table_model.decode(decoder, jax.random.key(0))
    for row, n in itertools.product(range(ROWS), range(6)):
        sequence = tuple(tokens[row, n].tolist())
        if decoding.EOS_ID in sequence:
            end = sequence.index(decoding.EOS_ID) + 1
            assert set(sequence[end:]) <= {0}
            sequence = sequence[:end]
        np.testing.assert_allclose(scores[row, n], table_model.log_prob(row, sequence), atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert len(np.unique(tokens[0], axis=0)) > 1


PROBABILITIES = np.array([0.05, 0.15, 0.4, 0.1, 0.3])


@pytest.mark.parametrize(
    ("settings", "support"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"topk": 2}, {2, 4}),
        ({"topk": 4}, {1, 2, 3, 4}),
        ({"topp": 0.3}, {2}),
        ({"topp": 0.6}, {2, 4}),
        ({"topp": 0.75}, {1, 2, 4}),
        ({"topp": 1.0}, {0, 1, 2, 3, 4}),
        ({"topk": 5}, {0, 1, 2, 3, 4}),
        ({"temperature": 0.01}, {2}),
    ],
)
def test_support_and_frequencies_of_draws(settings, support):
    logits = np.log(PROBABILITIES)[None, None, None]
    draws = 4000
    decoder = decoding.Sampling(num_decodes=draws, **settings)
    tokens, _ = TableModel(logits).decode(decoder, jax.random.key(1))
    frequencies = np.bincount(tokens.reshape(-1), minlength=V) / draws
    allowed = np.array([PROBABILITIES[i] if i in support else 0 for i in range(V)])
    assert {int(i) for i in np.flatnonzero(frequencies)} == support
    np.testing.assert_allclose(frequencies, allowed / allowed.sum(), atol=0.03)


@pytest.mark.parametrize(
    ("temperature", "support"),
    # The probability of 2 is 0.4, of 4 0.3; at 0.5 they are 0.56 and 0.32, at 4 0.25 and 0.23.
    [(0.5, [2]), (1.0, [2, 4]), (4.0, [2, 4, 1])],
)
def test_the_nucleus_is_that_of_the_divided_logits(temperature, support):
    """As T5X: logits are divided first, so a temperature also changes how many are drawn among."""
    decoder = decoding.Sampling(num_decodes=4000, temperature=temperature, topp=0.5)
    model = TableModel(np.log(PROBABILITIES)[None, None, None])
    tokens, _ = model.decode(decoder, jax.random.key(1))
    expected = np.zeros(V)
    expected[support] = PROBABILITIES[support] ** (1 / temperature)
    found = np.bincount(tokens.reshape(-1), minlength=V) / 4000
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.03)


def test_temperature_flattens_the_draws():
    decoder = decoding.Sampling(num_decodes=4000, temperature=2.0)
    model = TableModel(np.log(PROBABILITIES)[None, None, None])
    tokens, _ = model.decode(decoder, jax.random.key(1))
    expected = PROBABILITIES**0.5 / (PROBABILITIES**0.5).sum()
    np.testing.assert_allclose(np.bincount(tokens.reshape(-1)) / 4000, expected, atol=0.03)


def test_draws_of_two_steps_are_independent():
    model = TableModel(np.zeros((1, 2, V, V)))
    tokens, _ = model.decode(decoding.Sampling(num_decodes=4000), jax.random.key(1))
    first, second = tokens[0][tokens[0, :, 0] != decoding.EOS_ID].T
    assert abs((first == second).mean() - 1 / V) < 0.03


def test_draws_follow_the_rng(table_model):
    decoder = decoding.Sampling(num_decodes=8)
    once, again, other = (table_model.decode(decoder, jax.random.key(i))[0] for i in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topk": 2, "topp": 0.5}, "topk=2 and topp=0.5 are both set; expected only one of them"),
        ({"temperature": 0.0}, "temperature=0.0 is out of range; expected a number greater than 0"),
        ({"temperature": -1.0}, "temperature=-1.0 is out of range"),
        ({"num_decodes": 0}, "num_decodes=0 is out of range; expected an integer of at least 1"),
        ({"num_decodes": 1.5}, "num_decodes=1.5 has type float"),
        ({"topk": -1}, "topk=-1 is out of range; expected an integer of at least 0"),
        ({"topk": 1.5}, "topk=1.5 has type float"),
        (
            {"topp": -0.1},
            "topp=-0.1 is out of range; expected a number of at least 0 and at most 1",
        ),
        ({"topp": 1.1}, "topp=1.1 is out of range"),
    ],
)
def test_settings_of_sampling_that_are_refused(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        decoding.Sampling(**settings)


def test_more_likeliest_pieces_than_there_are(table_model):
    with pytest.raises(ValueError, match="TOPK is 6; expected at most NUM_EMBEDDINGS=5"):
        table_model.decode(decoding.Sampling(topk=6), jax.random.key(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_decodes": 0}, "num_decodes=0 is out of range"),
        ({"alpha": -0.1}, "alpha=-0.1 is out of range; expected a number of at least 0"),
    ],
)
def test_settings_of_beam_search_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        decoding.BeamSearch(**settings)


def test_sampling_without_an_rng_names_the_setting(table_model):
    with pytest.raises(ValueError, match="RANDOM_SEED"):
        table_model.decode(decoding.Sampling())


@pytest.mark.parametrize("labels", ["good", [0, 1], None])
def test_labels_to_rank_are_texts(labels):
    with pytest.raises(TypeError, match=r"labels.*; expected an? (iterable of )?str"):
        decoding.LabelRanking(labels)


def test_labels_to_rank_come_in_any_iterable():
    for labels in (["a", "b"], np.array(["a", "b"]), iter("ab"), {"a": 0, "b": 1}.keys()):
        assert decoding.LabelRanking(labels).labels == ("a", "b")


def test_an_unknown_normalization_is_refused():
    message = "LABEL_NORMALIZATION .* is 'mean'; expected one of none, length, calibration"
    with pytest.raises(ValueError, match=message):
        decoding.LabelRanking(("no", "yes"), "mean")


@pytest.mark.parametrize("labels", [("good",), (), ("good", "good")])
def test_labels_to_rank_are_two_texts_at_least(labels):
    with pytest.raises(ValueError, match="expected two or more different texts"):
        decoding.LabelRanking(labels)
