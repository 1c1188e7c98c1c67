"""Evaluations of the tiny model: metrics, files, and prompts that are skipped."""

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
from prompt_tuning.inference import evaluator, predictor_config
from prompt_tuning.inference import predictor as predictor_lib
from prompt_tuning.methods import initializers
from prompt_tuning.models import decoding
from prompt_tuning.training import state

ROWS = [("a good film", "good"), ("a bad film", "bad"), ("a long story", "bad")]


def task_of(vocabulary, rows=ROWS, score_metrics=(), name="films"):
    """Returns an EvaluationTask without a registered task."""
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
    max_lengths = batching.MaxLengths(12, 6)
    return evaluation_task.EvaluationTask(name, examples, max_lengths, task, vocabulary)


class FixedPredictions:
    """A predictor that returns fixed texts."""

    def __init__(self, *texts):
        self.texts = list(texts)

    def with_params(self, params):
        return self

    def predict(self, task, batch_size, **_):
        return [predictor_lib.Prediction([text]) for text in self.texts[: len(task.examples)]]


def evaluate_tasks(predictor, params, tasks, batch_size, folder, step=0, **settings):
    """Returns the metrics of an evaluation that is written to `folder`."""
    settings = {"after_step": step - 1, **settings}
    with evaluator.Evaluator(predictor, tasks, batch_size, folder, **settings) as evaluation:
        return evaluation.evaluate(params, step)


@pytest.fixture(scope="module")
def loaded(load):
    return load((2, 1))


@pytest.fixture(scope="module")
def predictor(loaded):
    return predictor_lib.Predictor(loaded)


def test_score_metrics_receive_log_likelihoods_of_targets(loaded, predictor, tmp_path):
    seen = []

    def rank(targets, scores):
        seen.append((targets, scores))
        return {"rank": seqio.metrics.Scalar(2.5)}

    task = task_of(loaded.vocabulary, score_metrics=[rank])
    ((name, results),) = evaluate_tasks(predictor, loaded.params, [task], 4, tmp_path).items()
    (targets, scores) = seen[0]
    assert (name, results["rank"], targets) == ("films", 2.5, ["good", "bad", "bad"])
    assert len(scores) == 3 and max(scores) < 0
    ((which, batch),) = task.batches(4, loaded.soft_tokens)
    with partitioning.use(loaded.mesh):
        expected = jax.jit(loaded.model.score)(loaded.params, batch)
    np.testing.assert_allclose(np.array(scores)[which], expected[:3], rtol=1e-5)


def test_score_metrics_alone_need_no_decoding(loaded, tmp_path, caplog):
    class Scores(predictor_lib.Predictor):
        def decode_batch(self, *_):
            raise AssertionError("decodes")

    task = task_of(loaded.vocabulary, score_metrics=[lambda targets, scores: {"sum": sum(scores)}])
    task.task.predict_metric_fns = []
    results = evaluate_tasks(Scores(loaded), loaded.params, [task], 4, tmp_path, step=3)
    rows = read_lines(tmp_path / "films-000003.jsonl")
    assert [row.keys() for row in rows] == [{"input", "target", "score"}] * 3
    assert results["films"]["sum"] == pytest.approx(sum(row["score"] for row in rows))
    assert "every prediction" not in caplog.text


def test_predictions_are_written_with_their_inputs(vocabulary, tmp_path):
    task, other = task_of(vocabulary), task_of(vocabulary, ROWS[:1], name="other")
    fixed = FixedPredictions("good", "bad", "good")
    results = evaluate_tasks(fixed, None, [task, other], 2, tmp_path, step=7)
    assert results == {"films": {"accuracy": 200 / 3}, "other": {"accuracy": 100.0}}
    lines = (tmp_path / "films-000007.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"input": text, "target": target, "prediction": answer}
        for (text, target), answer in zip(ROWS, ("good", "bad", "good"), strict=True)
    ]
    assert len((tmp_path / "other-000007.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("predictions", "rows", "warns"),
    [
        (("bad",) * 3, ROWS, True),
        (("good", "bad", "bad"), ROWS, False),
        (("bad",) * 2, ROWS[1:], False),  # Only one distinct target.
        (("good",), ROWS[:1], False),
    ],
)
def test_warns_if_all_predictions_are_equal(vocabulary, caplog, tmp_path, predictions, rows, warns):
    task = task_of(vocabulary, rows)
    evaluate_tasks(FixedPredictions(*predictions), None, [task], 2, tmp_path)
    assert ("films: every prediction is 'bad' (3 examples)" in caplog.text) == warns
    assert any(record.levelname == "WARNING" for record in caplog.records) == warns


def test_each_task_is_logged(vocabulary, tmp_path, caplog):
    tasks = [task_of(vocabulary), task_of(vocabulary, ROWS[1:], name="other")]
    for after_step, steps in ((0, (1, 2)), (1, (2, 3))):
        with (
            evaluator.Evaluator(
                FixedPredictions("good", "bad", "bad"), tasks, 2, tmp_path, after_step=after_step
            ) as evaluation,
            caplog.at_level("INFO"),
        ):
            for step in steps:
                results = evaluation.evaluate(None, step)
    assert results == {"films": {"accuracy": 100.0}, "other": {"accuracy": 50.0}}
    lines = (tmp_path / "other-metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert "step 3  films: accuracy 100.00" in caplog.text
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"films", "other"}


def test_text_samples_are_logged_to_tensorboard_only(vocabulary, tmp_path, caplog):
    task = task_of(vocabulary)
    task.task.predict_metric_fns.append(lambda targets, predictions: {"sample": "one\ntwo"})
    fixed = FixedPredictions("good", "bad", "bad")
    evaluation = evaluator.Evaluator(fixed, [task], 2, tmp_path, after_step=0)
    with evaluation, caplog.at_level("INFO"):
        assert evaluation.evaluate(None, 1) == {"films": {"accuracy": 100.0}}
    assert "step 1  films: accuracy 100.00" in caplog.messages
    assert b"one\n\ntwo" in next((tmp_path / "films").iterdir()).read_bytes()


def test_written_examples_limits_the_written_predictions(loaded, predictor, tmp_path):
    task = task_of(loaded.vocabulary, score_metrics=[lambda targets, scores: {}])
    settings = {"step": 3, "written_examples": 2}
    evaluate_tasks(predictor, loaded.params, [task], 4, tmp_path, **settings)
    lines = read_lines(tmp_path / "films-000003.jsonl")
    assert [list(line) for line in lines] == 2 * [["input", "target", "prediction", "score"]]
    assert all(line["score"] < 0 for line in lines)


def test_losses_are_logged_in_their_folder(loaded, predictor, tmp_path):
    task = task_of(loaded.vocabulary, 3 * ROWS)
    with evaluator.Evaluator(
        predictor,
        [task],
        2,
        tmp_path / "predictions",
        after_step=0,
        losses=(tmp_path / "losses", 3),
    ) as evaluation:
        evaluation.evaluate(loaded.params, 5)
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
    assert [x["step"] for x in read_lines(tmp_path / "predictions" / "films-metrics.jsonl")] == [5]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def evaluate(tiny, tiny_job, tmp_path):
    """Returns a function that runs `evaluate` on ten examples."""
    dataset = pipeline.DatasetConfig(
        sources.TaskSource(eval_file=str(tiny_job.folder / "eval.tsv")),
        {"inputs": 40, "targets": 8},
        "validation",
        batch_size=8,
    )

    def run(paths=(), config_text="A = 1\n", decoder=tiny.model.decoder, labels=None, **settings):
        return evaluator.evaluate(
            config=predictor_config.PredictorConfig(
                dataclasses.replace(tiny.model, decoder=decoder),
                tiny.vocabulary,
                tiny.checkpoint,
                initializers.SampledVocabulary(),
                labels,
            ),
            dataset=dataset,
            output_dir=str(tmp_path / "out"),
            prompt_paths=[str(path) for path in paths],
            num_examples=10,
            config_text=config_text,
            **settings,
        )

    return run


def test_evaluate_writes_metrics_and_predictions(evaluate, tiny_job, tmp_path, capsys):
    results = evaluate()
    folder = tmp_path / "out" / "inference_eval"
    assert results.keys() == {"eval"} and results["eval"].keys() == {"accuracy"}
    assert read_lines(folder / "eval-metrics.jsonl") == [{"step": 1000, **results["eval"]}]
    predictions = read_lines(folder / "eval-001000.jsonl")
    rows = (tiny_job.folder / "eval.tsv").read_text().splitlines()[1:11]
    assert ["\t".join(list(answer.values())[:2]) for answer in predictions] == rows
    assert (tmp_path / "out" / "config.gin").read_text() == "A = 1\n"
    shown = capsys.readouterr().out
    assert "1000" in shown and "majority class: 60.00 %" in shown
    assert (folder / "eval").is_dir()


@pytest.fixture(scope="module")
def read_once(tiny):
    """The tiny model, loaded once for the module."""
    return state.load_model(tiny.model, tiny.vocabulary, checkpoint=tiny.checkpoint)


def predicting(monkeypatch, loaded):
    """Makes the first value of a prompt its number of correct predictions; returns these values."""
    evaluated = []
    monkeypatch.setattr(state, "load_model", lambda *_, **__: loaded)

    def predict(self, task, batch_size, **_):
        evaluated.append(float(self.loaded.params["encoder"]["prompt"]["prompt"][0, 0]))
        return [
            predictor_lib.Prediction([task.text(example, "targets") if i < evaluated[-1] else ""])
            for i, example in enumerate(task.examples)
        ]

    monkeypatch.setattr(predictor_lib.Predictor, "predict", predict)
    return evaluated


def test_evaluated_prompts_are_skipped(evaluate, read_once, tmp_path, monkeypatch, capsys):
    evaluated = predicting(monkeypatch, read_once)
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5, 7)]
    for path, right in zip(paths, (2, 9, 4), strict=True):
        prompt_files.save(path, np.full((4, 16), right), {})
    record = tmp_path / "out" / "eval.eval.ckpt"
    metrics = tmp_path / "out" / "inference_eval" / "eval-metrics.jsonl"
    assert evaluate(paths[:2]) == {"eval": {"accuracy": 90.0}}
    assert record.read_text() == f"{paths[0]}\n{paths[1]}\n"
    capsys.readouterr()
    assert evaluate(paths) == {"eval": {"accuracy": 40.0}}
    assert evaluated == [2.0, 9.0, 4.0]
    assert [(x["step"], x["accuracy"]) for x in read_lines(metrics)] == [(3, 20), (5, 90), (7, 40)]
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:4]] == [
        ["eval", "step", "accuracy"],
        ["3", "20.00"],
        ["5", "90.00"],
        ["7", "40.00"],
    ]
    monkeypatch.setattr(state, "load_model", None)  # No prompt is pending.
    assert evaluate(paths) == {"eval": {"accuracy": 40.0}}
    monkeypatch.undo()
    evaluated = predicting(monkeypatch, read_once)
    evaluate(paths, config_text="A = 2\n")  # Other settings reset the record.
    assert evaluated == [2.0, 9.0, 4.0] and len(read_lines(metrics)) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"labels": {None: ["Good_One", "bad"]}},
        {"decoder": decoding.LabelRanking(("Good_One", "bad"))},
    ],
    ids=["card", "LABELS"],
)
def test_labels_are_restored_from_predictions(evaluate, read_once, tmp_path, monkeypatch, settings):
    """The vocabulary has neither capitals nor "_"."""
    ids = np.array([*read_once.vocabulary.encode("Good_One"), 1])
    monkeypatch.setattr(state, "load_model", lambda *_, **__: read_once)

    def decode_batch(self, batch, *_):
        rows = len(batch["encoder_input_tokens"])
        return np.tile(ids, (rows, 1, 1)), np.zeros((rows, 1))

    monkeypatch.setattr(predictor_lib.Predictor, "decode_batch", decode_batch)
    evaluate(**settings)
    written = read_lines(tmp_path / "out/inference_eval/eval-001000.jsonl")
    assert {line["prediction"] for line in written} == {"Good_One"}


def test_prompts_with_other_labels_are_evaluated_again(evaluate, read_once, tmp_path, monkeypatch):
    evaluated = predicting(monkeypatch, read_once)
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5)]
    for path in paths:
        prompt_files.save(path, np.ones((4, 16)), {})
    for label, count in (("good", 2), ("good", 2), ("Good", 4)):
        evaluate(paths, labels={None: [label, "bad"]})
        assert len(evaluated) == count


def test_warns_of_accuracy_below_the_majority_class(
    evaluate, read_once, tmp_path, monkeypatch, caplog
):
    predicting(monkeypatch, read_once)
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5)]
    for path, right in zip(paths, (2, 4), strict=True):
        prompt_files.save(path, np.full((4, 16), right), {})
    evaluate(paths)
    assert "eval: accuracy 40.00 % is not above 60.00 %" in caplog.text


def test_interrupted_evaluation_resumes(evaluate, read_once, tmp_path, monkeypatch):
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5, 7)]
    for path in paths:
        prompt_files.save(path, np.ones((4, 16)), {})
    evaluated = predicting(monkeypatch, read_once)
    with monkeypatch.context() as patch:
        predict = stopping(predictor_lib.Predictor.predict, evaluated)
        patch.setattr(predictor_lib.Predictor, "predict", predict)
        with pytest.raises(KeyboardInterrupt):
            evaluate(paths)
    evaluate(paths)
    assert len(evaluated) == 1 + 2
    lines = read_lines(tmp_path / "out" / "inference_eval" / "eval-metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 5, 7]


def stopping(predict, evaluated):
    """Returns `predict` with a KeyboardInterrupt at the second prompt."""

    def stop(self, task, batch_size, **settings):
        if evaluated:
            raise KeyboardInterrupt
        return predict(self, task, batch_size, **settings)

    return stop


def test_prompts_with_equal_steps_are_refused(evaluate, tmp_path):
    paths = [tmp_path / name for name in ("a.npy", "b.npy")]
    for path in paths:
        prompt_files.save(path, np.ones((4, 16)), {"step": 3})
    with pytest.raises(ValueError, match=r"PROMPT_FILE matches prompts of the steps \[3, 3\]"):
        evaluate(paths)
    assert not (tmp_path / "out").exists()


def test_prompts_must_share_their_position_and_base_model(
    evaluate, read_once, tmp_path, monkeypatch, caplog
):
    paths = [tmp_path / f"prompt_{step}.npy" for step in (3, 5)]
    for path, position, base in zip(paths, ("prefix", "suffix"), (None, "another"), strict=True):
        prompt_files.save(path, np.ones((4, 16)), {"place": position, "base_model_digest": base})
    with monkeypatch.context() as patch:
        patch.setattr(state, "load_model", None)  # Weights must not be loaded.
        with pytest.raises(ValueError, match="PROMPT_FILE lists prompts with different places"):
            evaluate(paths)
    prompt_files.save(
        paths[1], np.ones((4, 16)), {"place": "prefix", "base_model_digest": "another"}
    )
    predicting(monkeypatch, read_once)
    evaluate(paths)
    assert caplog.text.count("trained with another base model") == 1
