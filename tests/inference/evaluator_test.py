"""Answers of the tiny model, and what is made of answers."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
import seqio

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.data import evaluation_task, pipeline, sources
from prompt_tuning.data.batches import batching
from prompt_tuning.data.text import metrics
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import evaluator
from prompt_tuning.methods import initializers
from prompt_tuning.models import decoding
from prompt_tuning.training import state

ROWS = [("a good film", "good"), ("a bad film", "bad"), ("a long story", "bad")]


def task_of(vocabulary, rows=ROWS, score_metrics=(), name="films"):
    """An EvaluationTask without seqio's reading."""
    examples = [
        {
            "inputs": np.array([*vocabulary.encode(text), 1]),
            "targets": np.array([*vocabulary.encode(target), 1]),
            "inputs_pretokenized": text.encode(),
            "targets_pretokenized": target.encode(),
        }
        for text, target in rows
    ]
    task = types.SimpleNamespace(
        postprocess_fn=lambda text, **_: text,
        predict_metric_fns=[metrics.accuracy],
        predict_with_aux_metric_fns=[],
        score_metric_fns=list(score_metrics),
    )
    room = batching.MaxLengths(12, 6)
    return evaluation_task.EvaluationTask(name, examples, room, task, vocabulary)


class FixedAnswers:
    """In place of an Answerer."""

    def __init__(self, *texts):
        self.texts = list(texts)

    def answers(self, params, task, batch_size):
        return self.texts[: len(task.examples)], None, {}


@pytest.fixture(scope="module")
def loaded(load):
    return load((2, 1))


@pytest.fixture(scope="module")
def answerer(loaded):
    return evaluator.Answerer(loaded)


def test_answers_do_not_depend_on_the_batch_nor_on_its_padding(loaded, answerer):
    task = task_of(loaded.vocabulary, [(f"film {i}", "good") for i in range(5)])
    by_two, scores, _ = answerer.answers(loaded.params, task, 2)
    by_eight, *_ = answerer.answers(loaded.params, task, 8)
    assert by_two == by_eight and len(by_two) == 5
    assert scores is None


def test_answers_are_in_the_order_of_the_examples(loaded, monkeypatch):
    texts = ["a bad film", "film", "a film", "a story", "bad"]

    class Echo(evaluator.Answerer):
        def predict(self, params, batch, max_length, index=0):
            ids = batch["encoder_input_tokens"]
            return ids[:, None, len(loaded.soft_tokens) :], -np.count_nonzero(ids, axis=1)[:, None]

        def score(self, params, batch):
            return np.count_nonzero(batch["encoder_input_tokens"], axis=1)

    task = task_of(loaded.vocabulary, [(t, "good") for t in texts], score_metrics=[len])
    found, scores, aux_values = Echo(loaded).answers(None, task, 2)
    assert found == texts
    assert scores == [len(loaded.soft_tokens) + len(e["inputs"]) for e in task.examples]
    assert aux_values == {"scores": [-score for score in scores]}


def test_metrics_of_scores_get_the_log_likelihood_of_the_targets(loaded, answerer):
    seen = []

    def rank(targets, scores):
        seen.append((targets, scores))
        return {"rank": seqio.metrics.Scalar(2.5)}

    task = task_of(loaded.vocabulary, score_metrics=[rank])
    ((name, found),) = evaluator.evaluate_tasks(answerer, loaded.params, [task], 4).items()
    (targets, scores) = seen[0]
    assert (name, found["rank"], targets) == ("films", 2.5, ["good", "bad", "bad"])
    assert len(scores) == 3 and max(scores) < 0
    ((which, batch),) = task.batches(4, loaded.soft_tokens)
    with partitioning.use(loaded.mesh):
        expected = jax.jit(loaded.model.score)(loaded.params, batch)
    np.testing.assert_allclose(np.array(scores)[which], expected[:3], rtol=1e-5)


def test_nothing_is_answered_where_only_scores_matter(loaded, tmp_path, caplog):
    class Scores(evaluator.Answerer):
        def predict(self, params, batch, max_length, index=0):
            raise AssertionError("decodes")

    task = task_of(loaded.vocabulary, score_metrics=[lambda targets, scores: {"sum": sum(scores)}])
    task.task.predict_metric_fns = []
    results = evaluator.evaluate_tasks(
        Scores(loaded), loaded.params, [task], 4, output_dir=tmp_path, step=3
    )
    rows = read_lines(tmp_path / "films-000003.jsonl")
    assert [row.keys() for row in rows] == [{"input", "target", "score"}] * 3
    assert results["films"]["sum"] == pytest.approx(sum(row["score"] for row in rows))
    assert "every answer" not in caplog.text


def test_answers_are_written_beside_their_inputs(vocabulary, tmp_path):
    task, other = task_of(vocabulary), task_of(vocabulary, ROWS[:1], name="other")
    results = evaluator.evaluate_tasks(
        FixedAnswers("good", "bad", "good"), None, [task, other], 2, output_dir=tmp_path, step=7
    )
    assert results == {"films": {"accuracy": 200 / 3}, "other": {"accuracy": 100.0}}
    lines = (tmp_path / "films-000007.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"input": text, "target": target, "prediction": answer}
        for (text, target), answer in zip(ROWS, ("good", "bad", "good"), strict=True)
    ]
    assert len((tmp_path / "other-000007.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("answers", "rows", "warns"),
    [
        (("bad",) * 3, ROWS, True),
        (("good", "bad", "bad"), ROWS, False),
        (("bad",) * 2, ROWS[1:], False),  # there is one right answer
        (("good",), ROWS[:1], False),
    ],
)
def test_warns_where_every_answer_is_the_same(vocabulary, caplog, answers, rows, warns):
    task = task_of(vocabulary, rows)
    evaluator.evaluate_tasks(FixedAnswers(*answers), None, [task], 2)
    assert ("films: every prediction is 'bad' (3 examples)" in caplog.text) == warns
    assert bool(caplog.records) == warns


def test_validation_logs_each_task(vocabulary, tmp_path, caplog):
    tasks = [task_of(vocabulary), task_of(vocabulary, ROWS[1:], name="other")]
    for after_step, steps in ((0, (1, 2)), (1, (2, 3))):
        with (
            evaluator.Validation(
                FixedAnswers("good", "bad", "bad"), tasks, 2, tmp_path, after_step=after_step
            ) as validation,
            caplog.at_level("INFO"),
        ):
            for step in steps:
                found = validation.evaluate(None, step)
    assert found == {"films": {"accuracy": 100.0}, "other": {"accuracy": 50.0}}
    lines = (tmp_path / "other-metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert "step 3  films: accuracy 100.00" in caplog.text
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"films", "other"}


def test_samples_of_answers_are_for_tensorboard_only(vocabulary, tmp_path, caplog):
    task = task_of(vocabulary)
    task.task.predict_metric_fns.append(lambda targets, predictions: {"sample": "one\ntwo"})
    answerer = FixedAnswers("good", "bad", "bad")
    validation = evaluator.Validation(answerer, [task], 2, tmp_path, after_step=0)
    with validation, caplog.at_level("INFO"):
        assert validation.evaluate(None, 1) == {"films": {"accuracy": 100.0}}
    assert "step 1  films: accuracy 100.00" in caplog.messages
    assert b"one\n\ntwo" in next((tmp_path / "films").iterdir()).read_bytes()


def test_scores_and_how_many_answers_are_written(loaded, answerer, tmp_path):
    task = task_of(loaded.vocabulary, score_metrics=[lambda targets, scores: {}])
    evaluator.evaluate_tasks(
        answerer, loaded.params, [task], 4, output_dir=tmp_path, step=3, written_examples=2
    )
    lines = read_lines(tmp_path / "films-000003.jsonl")
    assert [list(line) for line in lines] == 2 * [["input", "target", "prediction", "score"]]
    assert all(line["score"] < 0 for line in lines)


def test_losses_are_told_beside_the_answers(loaded, answerer, tmp_path):
    task = task_of(loaded.vocabulary, 3 * ROWS)
    with evaluator.Validation(
        answerer, [task], 2, tmp_path / "answers", after_step=0, losses=(tmp_path / "losses", 3)
    ) as validation:
        validation.evaluate(loaded.params, 5)
    (line,) = read_lines(tmp_path / "losses" / "films-metrics.jsonl")
    sums = []
    with partitioning.use(loaded.mesh):
        for _, batch in list(task.batches(2, loaded.soft_tokens))[:3]:
            sums.append(jax.jit(loaded.model.loss)(loaded.params, batch)[1])
    tokens = sum(float(each["tokens"]) for each in sums)
    total = sum(float(each["loss"]) for each in sums)
    assert line["step"] == 5 and tokens > 0
    assert line["loss_per_nonpadding_target_token"] == pytest.approx(total / tokens, rel=1e-5)
    assert line["loss"] == pytest.approx(total / 3, rel=1e-5)
    assert (tmp_path / "losses" / "films").is_dir()
    assert [x["step"] for x in read_lines(tmp_path / "answers" / "films-metrics.jsonl")] == [5]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def evaluate(tiny, tiny_job, tmp_path):
    """Evaluates prompts on ten examples; gives back what `evaluate` returns."""
    dataset = pipeline.DatasetConfig(
        sources.TaskSource(eval_file=str(tiny_job.folder / "eval.tsv")),
        {"inputs": 40, "targets": 8},
        "validation",
        batch_size=8,
    )

    def run(paths=(), config_text="A = 1\n", decoder=tiny.model.decoder, **settings):
        return evaluator.evaluate(
            model=dataclasses.replace(tiny.model, decoder=decoder),
            vocabulary=tiny.vocabulary,
            checkpoint=tiny.checkpoint,
            prompt_initializer=initializers.SampledVocabulary(),
            dataset=dataset,
            output_dir=str(tmp_path / "out"),
            prompt_paths=[str(path) for path in paths],
            num_examples=10,
            config_text=config_text,
            **settings,
        )

    return run


def test_evaluate_writes_metrics_and_answers(evaluate, tiny_job, tmp_path, capsys):
    results = evaluate()
    folder = tmp_path / "out" / "inference_eval"
    assert results.keys() == {"eval"} and results["eval"].keys() == {"accuracy"}
    assert read_lines(folder / "eval-metrics.jsonl") == [{"step": 1000, **results["eval"]}]
    answers = read_lines(folder / "eval-001000.jsonl")
    rows = (tiny_job.folder / "eval.tsv").read_text().splitlines()[1:11]
    assert ["\t".join(list(answer.values())[:2]) for answer in answers] == rows
    assert (tmp_path / "out" / "config.gin").read_text() == "A = 1\n"
    shown = capsys.readouterr().out
    assert "1000" in shown and "majority class: 60.00 %" in shown
    assert (folder / "eval").is_dir()


@pytest.fixture(scope="module")
def read_once(tiny):
    """The model, on which Reader looks for the prompt only."""
    return state.load_model(tiny.model, tiny.vocabulary, checkpoint=tiny.checkpoint)


def answering(monkeypatch, loaded):
    """Answers with the first number of the prompt; the prompts that are asked."""
    asked = []
    monkeypatch.setattr(state, "load_model", lambda *_, **__: loaded)

    class Reader(evaluator.Answerer):
        def answers(self, params, task, batch_size):
            asked.append(float(params["encoder"]["prompt"]["prompt"][0, 0]))
            right = [task.text(example, "targets") for example in task.examples]
            return right[: int(asked[-1])] + [""] * (len(right) - int(asked[-1])), None, {}

    monkeypatch.setattr(evaluator, "Answerer", Reader)
    return asked


def test_several_prompts_are_evaluated_once(evaluate, read_once, tmp_path, monkeypatch, capsys):
    asked = answering(monkeypatch, read_once)
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5, 7)]
    for path, right in zip(paths, (2, 9, 4), strict=True):
        prompt_files.save(path, np.full((4, 16), right), {})
    record = tmp_path / "out" / "eval.eval.ckpt"
    metrics = tmp_path / "out" / "inference_eval" / "eval-metrics.jsonl"
    assert evaluate(paths[:2]) == {"eval": {"accuracy": 90.0}}
    assert record.read_text() == f"{paths[0]}\n{paths[1]}\n"
    capsys.readouterr()
    assert evaluate(paths) == {"eval": {"accuracy": 40.0}}
    assert asked == [2.0, 9.0, 4.0]
    assert [(x["step"], x["accuracy"]) for x in read_lines(metrics)] == [(3, 20), (5, 90), (7, 40)]
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:4]] == [
        ["eval", "step", "accuracy"],
        ["3", "20.00"],
        ["5", "90.00"],
        ["7", "40.00"],
    ]
    monkeypatch.setattr(evaluator.state, "load_model", None)  # nothing is left to do
    assert evaluate(paths) == {"eval": {"accuracy": 40.0}}
    monkeypatch.undo()
    asked = answering(monkeypatch, read_once)
    evaluate(paths, config_text="A = 2\n")  # of other settings nothing is kept
    assert asked == [2.0, 9.0, 4.0] and len(read_lines(metrics)) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"labels": {None: ["Good_One", "bad"]}},
        {"decoder": decoding.LabelRanking(("Good_One", "bad"))},
    ],
    ids=["card", "LABELS"],
)
def test_labels_are_restored(evaluate, read_once, tmp_path, monkeypatch, settings):
    """The vocabulary has neither capitals nor "_"."""
    answering(monkeypatch, read_once)
    ids = np.array(read_once.vocabulary.encode("Good_One"))

    def answers(self, params, task, batch_size):
        return [task.detokenize(ids)] * len(task.examples), None, {}

    monkeypatch.setattr(evaluator.Answerer, "answers", answers)
    evaluate(**settings)
    written = read_lines(tmp_path / "out/inference_eval/eval-001000.jsonl")
    assert {line["prediction"] for line in written} == {"Good_One"}


def test_prompts_with_other_labels_are_evaluated_again(evaluate, read_once, tmp_path, monkeypatch):
    asked = answering(monkeypatch, read_once)
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5)]
    for path in paths:
        prompt_files.save(path, np.ones((4, 16)), {})
    for label, count in (("good", 2), ("good", 2), ("Good", 4)):
        evaluate(paths, labels={None: [label, "bad"]})
        assert len(asked) == count


def test_an_evaluation_below_the_majority_is_reported(
    evaluate, read_once, tmp_path, monkeypatch, caplog
):
    answering(monkeypatch, read_once)
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5)]
    for path, right in zip(paths, (2, 4), strict=True):
        prompt_files.save(path, np.full((4, 16), right), {})
    evaluate(paths)
    assert "eval: accuracy 40.00 % is not above 60.00 %" in caplog.text


def test_an_evaluation_that_was_stopped_goes_on(evaluate, read_once, tmp_path, monkeypatch):
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5, 7)]
    for path in paths:
        prompt_files.save(path, np.ones((4, 16)), {})
    asked = answering(monkeypatch, read_once)
    with monkeypatch.context() as patch:
        patch.setattr(evaluator.Answerer, "answers", stopping(evaluator.Answerer.answers, asked))
        with pytest.raises(KeyboardInterrupt):
            evaluate(paths)
    evaluate(paths)
    assert len(asked) == 1 + 2
    lines = read_lines(tmp_path / "out" / "inference_eval" / "eval-metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 5, 7]


def stopping(answers, asked):
    """As Ctrl-C at the second prompt."""

    def answer(self, params, task, batch_size):
        if asked:
            raise KeyboardInterrupt
        return answers(self, params, task, batch_size)

    return answer


def test_prompts_of_one_step_are_not_told_apart(evaluate, tmp_path):
    paths = [tmp_path / name for name in ("a.npy", "b.npy")]
    for path in paths:
        prompt_files.save(path, np.ones((4, 16)), {"step": 3})
    with pytest.raises(ValueError, match=r"PROMPT_FILE matches prompts of the steps \[3, 3\]"):
        evaluate(paths)
    assert not (tmp_path / "out").exists()


def test_each_of_several_prompts_is_of_the_same_place_and_base(
    evaluate, read_once, tmp_path, monkeypatch, caplog
):
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5)]
    for path, place, base in zip(paths, ("prefix", "suffix"), (None, "another"), strict=True):
        prompt_files.save(path, np.ones((4, 16)), {"place": place, "base_model_digest": base})
    with monkeypatch.context() as patch:
        patch.setattr(evaluator.state, "load_model", None)  # nothing is loaded
        with pytest.raises(ValueError, match="PROMPT_FILE lists prompts with different places"):
            evaluate(paths)
    prompt_files.save(
        paths[1], np.ones((4, 16)), {"place": "prefix", "base_model_digest": "another"}
    )
    answering(monkeypatch, read_once)
    evaluate(paths)
    assert caplog.text.count("trained with another base model") == 1


def test_a_label_ranking_answers_with_labels_only(loaded):
    labels = ("bad", "a long story", "good")
    model = dataclasses.replace(loaded.model, decoder=decoding.LabelRanking(labels))
    ranking = dataclasses.replace(loaded, model=model)
    task = task_of(loaded.vocabulary)
    found, *_ = evaluator.Answerer(ranking).answers(loaded.params, task, 2)
    scores = []
    for label in labels:
        rows = [(text, label) for text, _ in ROWS]
        of_label = task_of(loaded.vocabulary, rows, score_metrics=[len])
        of_label.lengths = batching.MaxLengths(12, 12)
        scores.append(evaluator.Answerer(loaded).answers(loaded.params, of_label, 2)[1])
    assert found == [labels[i] for i in np.argmax(scores, axis=0)]
