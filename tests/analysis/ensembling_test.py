"""Ensembles: predictions equal to those of each prompt alone, votes, and metrics."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from prompt_tuning.analysis import ensembling
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.cli import main as cli
from prompt_tuning.inference import predictor
from prompt_tuning.methods import initializers
from prompt_tuning.training import state


def prediction(*texts_and_likelihoods):
    return predictor.Prediction(*zip(*texts_and_likelihoods, strict=True))


@pytest.mark.parametrize(
    ("of_prompts", "voted"),
    [
        ([prediction(("a", -3.0)), prediction(("b", -1.0)), prediction(("a", -4.0))], "a"),
        # Ties go to the highest mean score.
        ([prediction(("a", -3.0)), prediction(("b", -1.0))], "b"),
        (
            [
                prediction(("a", -1.0)),
                prediction(("b", -2.0)),
                prediction(("b", -3.0)),
                prediction(("a", -5.0)),
            ],
            "b",
        ),
    ],
)
def test_majority(of_prompts, voted):
    assert ensembling.majority(of_prompts) == voted


def test_likeliest_may_differ_from_the_majority():
    of_prompts = [
        prediction(("a", -1.0), ("b", -1.1)),
        prediction(("a", -1.0), ("b", -1.1)),
        prediction(("b", -0.1), ("a", -9.0)),
    ]
    assert ensembling.majority(of_prompts) == "a"
    assert ensembling.likeliest(of_prompts) == "b"


@pytest.fixture(scope="module")
def prompt_paths(tmp_path_factory, tiny):
    """Three dissimilar prompts."""
    folder, rng = tmp_path_factory.mktemp("prompts"), np.random.default_rng(1)
    for number in range(3):
        prompt = rng.normal(scale=4.0, size=(4, 16)).astype(np.float32)
        prompt_files.save(folder / f"{number}.npy", prompt, {"place": "prefix"})
    return [folder / f"{number}.npy" for number in range(3)]


def test_ensemble_predicts_the_same_as_each_prompt_alone(tiny_job, prompt_paths, tmp_path):
    """By command: `eval` of each prompt and `ensemble` of all, by generation and label ranking."""
    for labels in ({}, {"LABELS": ["good", "bad"]}):
        decoder = ["decoding/labels.gin"] if labels else []
        alone = []
        for number, path in enumerate(prompt_paths):
            folder = tmp_path / f"{number}{len(labels)}"
            settings = {"PROMPT_FILE": path, "EVAL_OUTPUT_DIR": folder} | labels
            scores = cli.run(tiny_job.command("eval", *decoder, "runs/eval.gin", **settings))
            (file,) = (folder / "inference_eval").glob("eval-0*.jsonl")
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            alone.append((scores["eval"], [line["prediction"] for line in lines]))
        folder = tmp_path / f"all{len(labels)}"
        settings = {"PROMPT_FILE": [str(path) for path in prompt_paths], "EVAL_OUTPUT_DIR": folder}
        results = cli.run(
            tiny_job.command("ensemble", *decoder, "runs/ensemble.gin", **settings, **labels)
        )
        lines = [
            json.loads(line) for line in (folder / "eval-ensemble.jsonl").read_text().splitlines()
        ]
        for number, (scores, texts) in enumerate(alone):
            assert results["eval"][f"prompt {number}"] == scores
            assert [line["predictions"][number] for line in lines] == texts
        assert json.loads((folder / "eval-ensemble.json").read_text()) == results["eval"]
        accuracies = [scores["accuracy"] for scores, _ in alone]
        assert results["eval"]["average"]["accuracy"] == pytest.approx(np.mean(accuracies))
        assert results["eval"]["deviation"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
        assert results["eval"]["best"]["accuracy"] == max(accuracies)
        assert ("mean log-likelihood" in results["eval"]) == bool(labels)


def test_mixed_batch_scores_equal_those_of_each_prompt_alone(tiny, prompt_paths):
    names = ("x", "y", "z")
    model = dataclasses.replace(
        tiny.model, method=dataclasses.replace(tiny.model.method, names=names)
    )
    settings = {"checkpoint": tiny.checkpoint}
    files = dict(zip(names, prompt_paths, strict=True))
    together = state.load_model(
        model, tiny.vocabulary, prompt_initializer=prompt_files.initializer(files), **settings
    )
    ids = np.array([[5, 6, 1], [5, 6, 1], [7, 1, 0]], np.int32)
    soft = together.soft_tokens
    examples = [
        soft.insert({"inputs": row[row > 0], "prompt": name})
        for row, name in zip(ids, ("z", "x", "y"), strict=True)
    ]
    rows = np.stack([np.pad(e["inputs"], (0, 7 - len(e["inputs"]))) for e in examples])
    rows = np.concatenate([rows, np.zeros((5, 7), np.int32)])
    _, mixed = predictor.Predictor(together).decode_batch({"encoder_input_tokens": rows}, 4)
    for row, name in enumerate(("z", "x", "y")):
        start = initializers.FromArray(prompt_files.load(files[name]))
        alone = state.load_model(tiny.model, tiny.vocabulary, prompt_initializer=start, **settings)
        inputs = alone.soft_tokens.insert({"inputs": ids[row][ids[row] > 0]})["inputs"]
        row_inputs = np.tile(np.pad(inputs, (0, 7 - len(inputs))), (8, 1))
        _, results = predictor.Predictor(alone).decode_batch(
            {"encoder_input_tokens": row_inputs}, 4
        )
        np.testing.assert_allclose(mixed[row], results[0], atol=1e-5)
    assert len(set(np.round(mixed[:3, 0], 4))) == 3


def test_infer_selects_prompts_by_column(tiny_job, prompt_paths, tmp_path):
    texts = (tiny_job.folder / "infer.jsonl").read_text().splitlines()[:6]
    rows = [{**json.loads(text), "who": "xyz"[i % 3]} for i, text in enumerate(texts)]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def infer(folder, prompt, **settings):
        settings |= {"INFER_FILE": asked, "MODE": "predict_with_aux", "BATCH_SIZE": 8}
        settings |= {"INFER_OUTPUT_DIR": tmp_path / folder, "PROMPT_FILE": prompt}
        (path,) = cli.run(tiny_job.command("infer", **settings))
        return [
            json.loads(line)["aux"]["scores"]
            for line in pathlib.Path(path).read_text().splitlines()
        ]

    files = {name: str(path) for name, path in zip("xyz", prompt_paths, strict=True)}
    mixed = infer("mixed", files, PROMPT_COLUMN="who")
    for number, (name, path) in enumerate(files.items()):
        alone = infer(name, path)
        assert mixed[number::3] == pytest.approx(alone[number::3], abs=2e-4)
    assert len(set(mixed)) > 3


def test_prompts_with_different_positions_are_refused(prompt_paths, tmp_path):
    other = tmp_path / "other.npy"
    prompt_files.save(other, np.ones((4, 16), np.float32), {"place": "suffix"})
    with pytest.raises(
        ValueError, match=r"(?s)cannot be combined:.*b: .*'suffix'.*same shape, place.*Remove"
    ):
        prompt_files.initializer({"a": prompt_paths[0], "b": other})


def test_row_without_a_prompt_name_is_refused(tiny_job, prompt_paths, tmp_path):
    files = {name: str(path) for name, path in zip("xyz", prompt_paths, strict=True)}
    arguments = tiny_job.command("infer", PROMPT_FILE=files, INFER_OUTPUT_DIR=tmp_path)
    with pytest.raises(
        ValueError, match=r"has the prompt name None; expected one of .*PROMPT_COLUMN"
    ):
        cli.run(arguments)


def test_split_without_targets_is_refused(tiny_job, prompt_paths, tmp_path):
    settings = {"PROMPT_FILE": [str(path) for path in prompt_paths], "EVAL_OUTPUT_DIR": tmp_path}
    unknown = tmp_path / "unknown.tsv"
    unknown.write_text("text\tlabel\nshe liked the film\t<unk>\n")
    with pytest.raises(ValueError, match="unknown has no metrics to compare prompts with"):
        cli.run(tiny_job.command("ensemble", EVAL_FILE=unknown, **settings))


def test_ensemble_of_one_prompt_is_refused(tiny_job, prompt_paths, tmp_path):
    settings = {"PROMPT_FILE": str(prompt_paths[0]), "EVAL_OUTPUT_DIR": tmp_path}
    with pytest.raises(ValueError, match="PROMPT_FILE matches 1 prompt; expected at least two"):
        cli.run(tiny_job.command("ensemble", **settings))
