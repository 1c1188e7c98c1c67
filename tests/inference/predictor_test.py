"""Predictions of the tiny model, whatever the batch; the decoders; truncation."""

import dataclasses

import numpy as np
import pytest

from prompt_tuning.data import evaluation_task
from prompt_tuning.data.batches import batching
from prompt_tuning.inference import predictor as predictor_lib
from prompt_tuning.models import decoding

TEXTS = ["a good film", "a bad film", "a long story"]


def task_of(vocabulary, texts=TEXTS, targets=("good",) * 9, lengths=(12, 6)):
    """An EvaluationTask without a seqio task."""
    examples = [
        {
            "inputs": np.array([*vocabulary.encode(text), 1]),
            "targets": np.array([*vocabulary.encode(target), 1]),
        }
        for text, target in zip(texts, targets, strict=False)
    ]
    return evaluation_task.EvaluationTask(
        "films", examples, batching.MaxLengths(*lengths), None, vocabulary
    )


@pytest.fixture(scope="module")
def loaded(load):
    return load((2, 1))


@pytest.fixture(scope="module")
def predictor(loaded):
    return predictor_lib.Predictor(loaded)


def test_predictions_do_not_depend_on_the_batch_nor_on_its_padding(loaded, predictor):
    task = task_of(loaded.vocabulary, [f"film {i}" for i in range(5)])
    by_two, by_eight = predictor.predict(task, 2), predictor.predict(task, 8)
    assert [p.texts for p in by_two] == [p.texts for p in by_eight] and len(by_two) == 5
    assert {p.target_score for p in by_two} == {None}


@pytest.mark.parametrize("start", [0, 4])
def test_predictions_are_in_the_order_of_the_examples(loaded, monkeypatch, start):
    monkeypatch.setattr(evaluation_task, "WINDOW", 2)
    texts, indices = ["a bad film", "film", "a film", "a story", "bad", "a"], []

    class Echo(predictor_lib.Predictor):
        def decode_batch(self, batch, max_length, index=0):
            indices.append(index)
            ids = batch["encoder_input_tokens"]
            return ids[:, None, len(loaded.soft_tokens) :], -np.count_nonzero(ids, axis=1)[:, None]

        def score_batch(self, batch):
            return np.count_nonzero(batch["encoder_input_tokens"], axis=1)

    task = task_of(loaded.vocabulary, texts)
    predictions = dict[int, predictor_lib.Prediction]()
    batches = Echo(loaded).predict_batches(task, 2, scores_targets=True, start=start)
    for numbers, examples, batch in batches:
        assert [task.examples[number] for number in numbers] == examples
        predictions |= dict(zip(numbers, batch, strict=True))
    assert indices == [0, 1, 2][start // 2 :]
    assert [predictions[i].texts for i in range(start, 6)] == [[text] for text in texts[start:]]
    for number, prediction in predictions.items():
        size = len(loaded.soft_tokens) + len(task.examples[number]["inputs"])
        assert (prediction.target_score, prediction.scores) == (size, [-size])
    if start == 0:
        assert Echo(loaded).predict(task, 2, scores_targets=True) == [
            predictions[i] for i in range(6)
        ]


def test_the_best_decodes_are_kept(load):
    loaded = load((2, 1))
    model = dataclasses.replace(loaded.model, decoder=decoding.BeamSearch(num_decodes=3))
    predictor = predictor_lib.Predictor(dataclasses.replace(loaded, model=model))
    task = task_of(loaded.vocabulary)
    predictions = predictor.predict(task, 2)
    assert [len(p.texts) for p in predictions] == [3] * 3
    assert all(p.scores == sorted(p.scores, reverse=True) for p in predictions)
    best = predictor.predict(task, 2, num_decodes=1)
    assert [p.texts for p in best] == [p.texts[:1] for p in predictions]


def test_decodes_without_an_end_token_are_truncated(loaded):
    class Fixed(predictor_lib.Predictor):
        def decode_batch(self, batch, max_length, index=0):
            tokens = np.array([[[5, 6, 1], [5, 6, 7]], [[5, 1, 0], [8, 8, 8]]])
            return tokens, np.zeros((2, 2))

    predictions = Fixed(loaded).predict(task_of(loaded.vocabulary, TEXTS[:2]), 2)
    assert [p.is_truncated for p in predictions] == [[False, True]] * 2


def test_a_label_ranking_predicts_the_label_with_the_highest_score(loaded, predictor):
    labels = ("bad", "a long story", "good")
    model = dataclasses.replace(loaded.model, decoder=decoding.LabelRanking(labels))
    ranking = predictor_lib.Predictor(dataclasses.replace(loaded, model=model))
    scores = []
    for label in labels:
        task = task_of(loaded.vocabulary, targets=[label] * 3, lengths=(12, 12))
        predictions = predictor.predict(task, 2, num_decodes=0, scores_targets=True)
        scores.append([prediction.target_score for prediction in predictions])
    predictions = ranking.predict(task_of(loaded.vocabulary), 2, num_decodes=1)
    assert [p.texts[0] for p in predictions] == [labels[i] for i in np.argmax(scores, axis=0)]


def test_other_parameters_and_seeds_share_the_compiled_programs(loaded, predictor):
    task = task_of(loaded.vocabulary)
    prompt = loaded.params["encoder"]["prompt"]["prompt"]
    encoder = {**loaded.params["encoder"], "prompt": {"prompt": prompt + 1.0}}
    other = predictor.with_seed(3).with_params({**loaded.params, "encoder": encoder})
    assert other._decode is predictor._decode and other._seed == 3
    first, second = (p.predict(task, 2, num_decodes=1) for p in (predictor, other))
    assert [p.scores for p in first] != [p.scores for p in second]
