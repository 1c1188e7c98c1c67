"""The shipped runs on a tiny model, through the command line: files that are written, and runs that resume."""

import itertools
import json
import pathlib
import signal
import sys

import gin
import numpy as np
import pytest

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import base_model, prompt_files, train_state
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.cli import main as cli
from prompt_tuning.inference import predictor
from prompt_tuning.training import reporting, trainer

LAST = 1006
STOPS = {"EVAL_PERIOD": 3, "LOG_PERIOD": 3, "BATCH_SIZE": 16}
ANSWERED = {"EVALUATOR_NUM_EXAMPLES": 20, "JSON_WRITE_N_RESULTS": 5}
RUN = {**STOPS, **ANSWERED, "EVAL_STEPS": 1, "NUM_MICROBATCHES": 2, "KEEP": 2}
NO_EVALUATION = "--gin.trainer.train.eval_dataset=None"
answered: list[int] = []  # examples, in each evaluation of `trained`


def files(folder):
    """The files below a folder that are ours: no event files, nothing of Orbax's."""
    paths = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return {str(f) for f in paths if "tfevents" not in f.name and "checkpoint" not in f.parts[0]}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tiny_job, tmp_path_factory):
    """(folder, what `train` returned) of six steps at once."""
    folder, predict = tmp_path_factory.mktemp("trained") / "run", predictor.Predictor.predict

    def noting(self, task, *more, **settings):
        answered.append(len(task.examples))
        return predict(self, task, *more, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor.Predictor, "predict", noting)
        arguments = tiny_job.command("train", MODEL_DIR=folder, TRAIN_STEPS=LAST, **RUN)
        return folder, cli.run(arguments)


def test_train_writes_prompts_metrics_and_what_it_was_told(trained):
    folder, result = trained
    prompts = {f"prompts/{name}" for name in ("best", "prompt_1000", "prompt_1003", "prompt_1006")}
    assert files(folder) == {
        "config.gin",
        "model-info.txt",
        "train/metrics.jsonl",
        "inference_eval/eval-metrics.jsonl",
        "training_eval/eval-metrics.jsonl",
        *(f"inference_eval/eval-{step:06d}.jsonl" for step in (1000, 1003, 1006)),
        *(f"{name}{suffix}" for name in prompts for suffix in (".npy", ".json")),
    }
    assert [line["step"] for line in lines(folder / "train/metrics.jsonl")] == [1003, 1006]
    for kind in ("inference_eval", "training_eval"):
        metric_lines = lines(folder / kind / "eval-metrics.jsonl")
        assert [line["step"] for line in metric_lines] == [1000, 1003, 1006]
    assert "TRAIN_STEPS = 1006" in (folder / "config.gin").read_text()
    assert "Trainable parameters: 64 (" in (folder / "model-info.txt").read_text()
    assert result["prompt_file"] == str(folder / "prompts/prompt_1006.npy")
    assert prompt_files.load(result["prompt_file"], (4, 16)).shape == (4, 16)
    assert prompt_files.read_card(folder / "prompts/best.npy")["task"] == "train"
    assert train_state.latest_step(folder) == LAST


def test_as_much_is_evaluated_written_and_kept_as_was_told(trained):
    folder, _ = trained
    assert {path.name for path in folder.glob("checkpoint_*")} == {
        "checkpoint_1003",
        "checkpoint_1006",
    }
    assert len(lines(folder / "inference_eval/eval-001006.jsonl")) == 5
    assert answered == [20, 20, 20]
    # The loss of one batch of 16, labels of 4 tokens and more; two batches have 10 on average.
    for line in lines(folder / "training_eval/eval-metrics.jsonl"):
        assert line["loss"] / line["loss_per_nonpadding_target_token"] >= 16 * 4


def test_settings_of_a_run_can_be_read_again(trained):
    config = trained[0] / "config.gin"
    cli.read(["train", f"--gin_file={config}"])
    assert gin.config_str() == config.read_text()


def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_same_end(
    trained, tiny_job, tmp_path, monkeypatch, capsys
):
    folder, result = trained
    arguments = tiny_job.command("train", MODEL_DIR=tmp_path, TRAIN_STEPS=LAST, **RUN)
    monkeypatch.setattr(sys, "argv", ["prompt-tuning", *arguments])
    add, taken = reporting.StepLog.add, itertools.count(1)

    def interrupting(log, sums):
        if next(taken) == 2:
            signal.raise_signal(signal.SIGINT)
        add(log, sums)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(reporting.StepLog, "add", interrupting)
        cli.main()
    assert caught.value.code == 130
    message = capsys.readouterr().err
    assert f"step 1002 is saved in {tmp_path}, and the same command resumes from it" in message
    assert train_state.latest_step(tmp_path) == 1002
    assert prompt_files.read_card(tmp_path / "prompts/prompt_1002.npy")["metrics"] == {}
    for said in ("Resuming from step 1002 in", f"is complete at step {LAST}; nothing"):
        again = cli.run(arguments)
        assert said in capsys.readouterr().err
        assert {**again, "prompt_file": ""} == {**result, "prompt_file": ""}
    stopped = {f"prompts/prompt_1002{suffix}" for suffix in (".npy", ".json")}
    assert files(tmp_path) == files(folder) | stopped
    for name in files(folder):
        if name.endswith((".npy", "prompt_1006.json", "eval-metrics.jsonl", "1006.jsonl")):
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_eval_scores_the_prompt_as_training_did(trained, tiny_job, tmp_path, capsys):
    folder, _ = trained
    prompt = folder / "prompts" / "prompt_1006.npy"
    result = cli.run(
        tiny_job.command(
            "eval", PROMPT_FILE=prompt, EVAL_OUTPUT_DIR=tmp_path, BATCH_SIZE=8, **ANSWERED
        )
    )
    in_training = lines(folder / "inference_eval/eval-metrics.jsonl")[-1]
    (metrics,) = lines(tmp_path / "inference_eval/eval-metrics.jsonl")
    assert metrics == in_training == {"step": 1006, **result["eval"]}
    assert "majority class: 60.00 %" in capsys.readouterr().out
    answers = "inference_eval/eval-001006.jsonl"
    assert (tmp_path / answers).read_text() == (folder / answers).read_text()
    assert files(tmp_path) == {
        "config.gin",
        "eval.eval.ckpt",
        "eval.eval.settings.json",
        "inference_eval/eval-metrics.jsonl",
        answers,
    }


def test_eval_of_a_run_evaluates_its_prompts(trained, tiny_job, tmp_path):
    folder, _ = trained
    asking = {"PROMPT_FILE": folder, "BATCH_SIZE": 8, **ANSWERED}
    cli.run(tiny_job.command("eval", EVAL_OUTPUT_DIR=tmp_path, **asking))
    metrics = "inference_eval/eval-metrics.jsonl"
    assert lines(tmp_path / metrics) == lines(folder / metrics)
    prompts = [folder / f"prompts/prompt_{step}.npy" for step in (1000, 1003, 1006)]
    assert (tmp_path / "eval.eval.ckpt").read_text() == "".join(f"{path}\n" for path in prompts)
    latest = tmp_path / "latest"
    cli.run(tiny_job.command("eval", RESTORE_MODE="latest", EVAL_OUTPUT_DIR=latest, **asking))
    assert lines(latest / metrics) == lines(folder / metrics)[-1:]


DECODERS = {
    "greedy": (["runs/infer.gin"], {}),
    "beam": (["decoding/beam_search.gin", "runs/infer.gin"], {"NUM_DECODES": 3}),
    "sampling": (
        ["decoding/nucleus_sampling.gin", "runs/infer.gin"],
        {"NUM_DECODES": 2, "RANDOM_SEED": 5},
    ),
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_infer_answers_in_order_and_goes_on(trained, tiny_job, tmp_path, decoder):
    gin_files, settings = DECODERS[decoder]
    arguments = tiny_job.command(
        "infer",
        *gin_files,
        PROMPT_FILE=trained[0] / "prompts" / "best.npy",
        INFER_OUTPUT_DIR=tmp_path,
        MODE="predict_with_aux",
        BATCH_SIZE=8,
        **settings,
    )
    name = "infer-predict_with_aux.jsonl-00000-of-00001"
    (path,) = cli.run(arguments)
    content = (tmp_path / name).read_text()
    assert path == str(tmp_path / name)
    answers, asked = lines(tmp_path / name), lines(tiny_job.folder / "infer.jsonl")
    assert [x["inputs"]["inputs_pretokenized"] for x in answers] == [x["text"] for x in asked]
    for line in answers:
        several = line["aux"].get("predictions", [line["prediction"]])
        assert len(several) == settings.get("NUM_DECODES", 1) and several[0] == line["prediction"]
        scores = line["aux"].get("prediction_scores", [line["aux"]["scores"]])
        assert scores == sorted(scores, reverse=True) and scores[0] == line["aux"]["scores"]
    if decoder != "sampling":
        return
    # As a run leaves it that was stopped within line 12; the randomness is that of the line.
    partial = "".join(content.splitlines(keepends=True)[:11]) + '{"inputs": "she'
    (tmp_path / name).unlink()
    (tmp_path / f"{name}.partial").write_text(partial)
    cli.run(arguments)
    assert files(tmp_path) == {"config.gin", name, f"{name}.COMPLETED", f"{name}.settings.json"}
    assert (tmp_path / name).read_text() == content


def test_neighbors_prints_a_line_for_each_vector(trained, tiny_job, capsys):
    best = trained[0] / "prompts" / "best.npy"
    neighbor_rows = cli.run(tiny_job.command("neighbors", PROMPT_FILE=best, NUM_NEIGHBORS=2))[""]
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(neighbor_rows) == 4 and all(len(row) == 2 for row in neighbor_rows)
    assert all(row[0].token in line for row, line in zip(neighbor_rows, shown, strict=True))


def read_weights(folder, tiny):
    shapes = params_lib.shapes(tiny.base)
    return params_lib.flatten(base_model.load(folder, shapes)[0])


def test_full_fine_tuning_moves_and_exports_every_weight(tiny, tiny_job, tmp_path, capsys):
    none = dict.fromkeys(("NUM_MICROBATCHES", "NUM_PARTITIONS", "LOG_PERIOD"))
    arguments = tiny_job.command(
        "train",
        "runs/train.gin",
        "optimizers/weights.gin",
        MODEL_DIR=tmp_path,
        TRAIN_STEPS=1001,
        **STOPS | none,
    )
    result = cli.run([*arguments, NO_EVALUATION])
    assert result["model"] == str(tmp_path / "model_1001")
    assert huggingface.read_step(result["model"]) == 1001
    weights = read_weights(result["model"], tiny)
    for path, before in params_lib.flatten(tiny.base).items():
        assert not np.array_equal(weights[path], before), path
    first, last = (np.load(tmp_path / f"prompts/prompt_{step}.npy") for step in (1000, 1001))
    assert not np.array_equal(first, last)
    # The prompt is no part of the model.
    message = capsys.readouterr().err
    assert "encoder/prompt/prompt: model_<step> is exported" in message and "PROMPT=None" in message
    # An export of other weights under this name is not taken for the run's.
    assert cli.run([*arguments, NO_EVALUATION]) == result
    (tmp_path / "model_1001").rename(tmp_path / "kept")
    huggingface.save(
        tmp_path / "model_1001",
        tiny.base,
        tiny.model.config,
        vocabulary_file=tiny.vocabulary.path,
        step=1001,
        dtype="float32",
    )
    with pytest.raises(ValueError, match=r"model_1001 exists with other weights .* Remove it"):
        cli.run([*arguments, NO_EVALUATION])


def test_a_model_without_prompt_is_tuned_exported_evaluated_and_asked(tiny_job, tmp_path):
    arguments = tiny_job.command(
        "train",
        "runs/train.gin",
        "optimizers/weights.gin",
        PROMPT=None,
        MODEL_DIR=tmp_path / "run",
        TRAIN_STEPS=1003,
        **STOPS,
    )
    exported = cli.run(arguments)["model"]
    asking = {"INITIAL_CHECKPOINT_PATH": exported, "PROMPT": None, "BATCH_SIZE": 8}
    for i, nothing in enumerate((None, [])):
        folder = tmp_path / f"scores{i}"
        cli.run(tiny_job.command("eval", PROMPT_FILE=nothing, EVAL_OUTPUT_DIR=folder, **asking))
        name = "inference_eval/eval-metrics.jsonl"
        assert lines(folder / name) == lines(tmp_path / "run" / name)[-1:]
    arguments = {"PROMPT_FILE": None, "INFER_OUTPUT_DIR": tmp_path / "answers"}
    (path,) = cli.run(tiny_job.command("infer", **arguments, **asking))
    asked = lines(tiny_job.folder / "infer.jsonl")
    assert len(lines(pathlib.Path(path))) == len(asked)


@pytest.mark.parametrize("verb", ["eval", "infer"])
def test_a_prompt_without_a_file_is_told(tiny_job, tmp_path, verb):
    folder = {"eval": "EVAL_OUTPUT_DIR", "infer": "INFER_OUTPUT_DIR"}[verb]
    with pytest.raises(ValueError, match=r"PROMPT_FILE is not set, .* or PROMPT=None"):
        cli.run(tiny_job.command(verb, PROMPT_FILE=None, **{folder: tmp_path / "out"}))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def decoder_only(tiny_job, tmp_path_factory):
    """(job on a decoder-only model, the checkpoint that it was pre-trained to in three steps)."""
    folder = tmp_path_factory.mktemp("decoder_only")
    text = (tiny_job.folder / "tiny.gin").read_text()
    (folder / "tiny.gin").write_text(
        text.replace("models/t5_1_1.gin", "models/decoder_only.gin").replace(
            "NUM_ENCODER_LAYERS = 1", "NUM_ENCODER_LAYERS = 0"
        )
    )
    job = type(tiny_job)(folder)
    result = cli.run(
        job.command(
            "train",
            "runs/pretrain.gin",
            TEXT_FILES=[str(tiny_job.folder / "text.txt")],
            OBJECTIVES=(("prefix_lm", 1.0),),
            TASK_FEATURE_LENGTHS={"inputs": 20, "targets": 20},
            MODEL_DIR=folder / "base",
            TRAIN_STEPS=3,
            TRAIN_FILE=None,
            **STOPS,
        )
    )
    assert result["model"] == str(folder / "base/model_3/checkpoint_3")
    return job, result["model"]


def test_a_decoder_only_model_is_pretrained_tuned_evaluated_and_asked(
    decoder_only, tiny_job, tmp_path, monkeypatch
):
    job, base = decoder_only
    runs, finish = [], trainer._finish
    monkeypatch.setattr(trainer, "_finish", lambda run: (runs.append(run), finish(run))[1])
    settings = {"INITIAL_CHECKPOINT_PATH": base, "BATCH_SIZE": 16}
    tuning = {"MODEL_DIR": tmp_path / "run", "TRAIN_STEPS": 33, "EVAL_PERIOD": 30, "LOG_PERIOD": 5}
    result = cli.run(job.command("train", **tuning, **settings))
    losses = [
        line["loss_per_nonpadding_target_token"]
        for line in lines(tmp_path / "run/train/metrics.jsonl")
    ]
    assert losses[-1] < losses[0] - 0.05
    # Nothing but the prompt has moved from what the checkpoint holds.
    (run,) = runs
    after = params_lib.flatten(run.params())
    prompt = after.pop("decoder/prompt/prompt")
    weights, _ = base_model.load(base, params_lib.shapes(params_lib.unflatten(after)))
    stored = params_lib.flatten(weights)
    for path, leaf in after.items():
        np.testing.assert_array_equal(leaf, stored[path], err_msg=path)
    np.testing.assert_array_equal(prompt_files.load(result["prompt_file"]), prompt)
    assert not np.array_equal(np.load(tmp_path / "run/prompts/prompt_3.npy"), prompt)

    asking = {"PROMPT_FILE": result["prompt_file"], **settings}
    scores = cli.run(job.command("eval", EVAL_OUTPUT_DIR=tmp_path / "scores", **asking))
    last = lines(tmp_path / "run/inference_eval/eval-metrics.jsonl")[-1]
    assert scores["eval"]["accuracy"] == last["accuracy"]
    cli.run(job.command("infer", INFER_OUTPUT_DIR=tmp_path / "answers", **asking))
    answers = lines(tmp_path / "answers/infer-predict.jsonl-00000-of-00001")
    asked = lines(tiny_job.folder / "infer.jsonl")
    assert [x["inputs"]["inputs_pretokenized"] for x in answers] == [x["text"] for x in asked]


def test_a_model_is_exported_in_each_format_and_is_the_same(tiny, tiny_job, tmp_path):
    first = cli.run(tiny_job.command("export", EXPORT_DIR=tmp_path))
    assert first == str(tmp_path / "checkpoint_1000")
    settings = {"INITIAL_CHECKPOINT_PATH": first, "EXPORT_FORMAT": "huggingface"}
    second = cli.run(tiny_job.command("export", EXPORT_DIR=tmp_path, **settings))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint_1000", "model_1000"}
    for path, array in params_lib.flatten(tiny.base).items():
        np.testing.assert_array_equal(read_weights(second, tiny)[path], array)


@pytest.mark.parametrize(("run", "first"), [("pretrain", 0), ("lm_adapt", 1000)])
def test_pretraining_runs_export_a_model(tiny, tiny_job, tmp_path, run, first):
    arguments = tiny_job.command(
        "train",
        f"runs/{run}.gin",
        TEXT_FILES=[str(tiny_job.folder / "text.txt")],
        MODEL_DIR=tmp_path,
        TRAIN_STEPS=first + 3,
        TRAIN_FILE=None,
        **STOPS,
    )
    result = cli.run(arguments)
    weights = read_weights(tmp_path / f"model_{first + 3}", tiny)
    assert result["step"] == first + 3 and all(np.isfinite(x).all() for x in weights.values())
    assert not (tmp_path / "prompts").exists()
    assert lines(tmp_path / "train/metrics.jsonl")[-1]["step"] == first + 3
