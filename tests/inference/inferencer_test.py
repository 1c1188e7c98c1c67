"""Prediction files: order, resumption, and comparison of their inputs."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.cli import main as cli
from prompt_tuning.data import evaluation_task, pipeline, sources
from prompt_tuning.inference import inferencer, predictor_config
from prompt_tuning.inference import predictor as predictor_lib
from prompt_tuning.methods import initializers
from prompt_tuning.training import state

# Two windows of two batches; shorter inputs come first within a window.
TEXTS = ["film 00000", "film 1", "film 2", "film 30000", "film 444", "film 5", "film 666"]
BATCH_NUMBERS = (2, 1, 1, 2, 3, 3, 4)


ADAPTER = {"prompt_initializer", "labels"}


def make_config(tiny, **adapter):
    """Returns a config of the tiny model on 8 devices."""
    adapter = {"prompt_initializer": initializers.SampledVocabulary(), **adapter}
    return predictor_config.PredictorConfig(
        tiny.model, tiny.vocabulary, tiny.checkpoint, num_partitions=8, **adapter
    )


class Echo(predictor_lib.Predictor):
    """Predicts the batch number and 1 ... N for each row."""

    decodes = 1
    batches: list[int]  # Indices of the decoded batches.

    def __init__(self, loaded, seed=0):
        self.loaded = loaded
        Echo.batches = []

    def decode_batch(self, batch, max_length, index=0):
        Echo.batches.append(index)
        rows = len(batch["encoder_input_tokens"])
        numbers = "123456789"
        tokens = [
            [
                self.loaded.vocabulary.encode(f"{numbers[index]}{numbers[n]}")
                for n in range(self.decodes)
            ]
            for _ in range(rows)
        ]
        return np.array(tokens), np.tile(-0.123456 * np.arange(1, 1 + self.decodes), (rows, 1))


@pytest.fixture(scope="module")
def loaded(tiny):
    """The tiny model; Echo does not run it."""
    return state.load_model(
        tiny.model, tiny.vocabulary, checkpoint=tiny.checkpoint, num_partitions=8
    )


@pytest.fixture
def infer(tiny, loaded, tmp_path, monkeypatch):
    """Returns a function that predicts TEXTS in batches of two and returns the file."""
    monkeypatch.setattr(state, "load_model", lambda *_, **__: loaded)
    monkeypatch.setattr(predictor_lib, "Predictor", Echo)
    monkeypatch.setattr(evaluation_task, "WINDOW", 2)
    inputs_file = tmp_path / "asked.jsonl"
    inputs_file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    dataset = pipeline.DatasetConfig(
        sources.TaskSource(infer_file=str(inputs_file)), {"inputs": 20, "targets": 4}, "infer", 2
    )

    def run(config_text="A = 1\n", **settings):
        (path,) = inferencer.infer(
            config=make_config(
                tiny, **{name: settings.pop(name) for name in ADAPTER & settings.keys()}
            ),
            dataset=dataset,
            output_dir=str(tmp_path / "out"),
            config_text=config_text,
            **settings,
        )
        return pathlib.Path(path)

    return run


def expected():
    return [
        {"inputs": {"inputs_pretokenized": text}, "prediction": f"{batch}1"}
        for text, batch in zip(TEXTS, BATCH_NUMBERS, strict=True)
    ]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_writes_one_line_per_input_in_order(infer):
    path = infer()
    assert lines(path) == expected()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "asked-predict.jsonl-00000-of-00001",
        "asked-predict.jsonl-00000-of-00001.COMPLETED",
        "asked-predict.jsonl-00000-of-00001.settings.json",
        "config.gin",
    ]


def test_empty_texts_are_predicted_and_blank_lines_skipped(infer, tmp_path):
    texts = [*TEXTS[:3], "", *TEXTS[4:]]
    rows = [json.dumps({"text": text or None}) + "\n" for text in texts]
    (tmp_path / "asked.jsonl").write_text("\n".join(rows))
    assert [line["inputs"]["inputs_pretokenized"] for line in lines(infer())] == texts


@pytest.mark.parametrize("decodes", [1, 2])
def test_aux_has_scores_and_all_decodes(infer, monkeypatch, decodes):
    monkeypatch.setattr(Echo, "decodes", decodes)
    path = infer(mode="predict_with_aux")
    assert path.name == "asked-predict_with_aux.jsonl-00000-of-00001"
    aux = {"scores": -0.1235}
    if decodes == 2:
        aux |= {"predictions": ["21", "22"], "prediction_scores": [-0.1235, -0.2469]}
    assert lines(path)[0] == expected()[0] | {"aux": aux}
    assert lines(infer())[0] == expected()[0]


def test_targets_are_scored(tiny, tiny_job, tmp_path):
    path = tmp_path / "asked.tsv"
    path.write_text("text\tlabel\nshe saw the film .\tgood\nhe saw it .\ta long story\n")
    dataset = pipeline.DatasetConfig(
        sources.TaskSource(eval_file=str(path)), {"inputs": 20, "targets": 9}, "validation", 2
    )
    settings = {"config": make_config(tiny), "mode": "score"}
    (predictions,) = inferencer.infer(dataset=dataset, output_dir=str(tmp_path / "out"), **settings)
    assert predictions.endswith("asked-score.jsonl-00000-of-00001")
    first, second = lines(pathlib.Path(predictions))
    assert first["inputs"] == {
        "inputs_pretokenized": "she saw the film .",
        "targets_pretokenized": "good",
    }
    assert second["score"] < first["score"] < 0 and first.keys() == {"inputs", "score"}
    without_targets = dataclasses.replace(
        dataset,
        source=sources.TaskSource(infer_file=str(tiny_job.folder / "infer.jsonl")),
        split="infer",
    )
    with pytest.raises(ValueError, match=r"MODE='score' scores targets.*Set SPLIT"):
        inferencer.infer(dataset=without_targets, output_dir=str(tmp_path / "none"), **settings)
    assert not (tmp_path / "none").exists()


def test_empty_inputs_are_written(infer, monkeypatch):
    monkeypatch.setattr(evaluation_task.EvaluationTask, "text", lambda *_: "")
    assert [line["inputs"] for line in lines(infer())] == [{"inputs_pretokenized": ""}] * 7


def test_shards_partition_the_inputs(infer):
    paths = [infer(f"NUM_SHARDS = 3\nSHARD_ID = {i}\n", num_shards=3, shard_id=i) for i in range(3)]
    assert [path.name for path in paths] == [
        f"asked-predict.jsonl-{i:05d}-of-00003" for i in range(3)
    ]
    predictions = [
        [line["inputs"]["inputs_pretokenized"] for line in lines(path)] for path in paths
    ]
    assert predictions == [TEXTS[i::3] for i in range(3)]
    assert infer("NUM_SHARDS = 3\nSHARD_ID = 1\n", num_shards=3, shard_id=1) == paths[1]
    assert Echo.batches == []


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (
            {"mode": "predikt"},
            "MODE is 'predikt'; expected one of predict, predict_with_aux, score",
        ),
        ({"num_shards": 2, "shard_id": 2}, "SHARD_ID is 2 and NUM_SHARDS is 2; expected 0 <="),
    ],
)
def test_modes_and_shards_are_checked(infer, settings, part):
    with pytest.raises(ValueError, match=part):
        infer(**settings)


@pytest.mark.parametrize(
    ("kept", "torn", "batches"),
    [
        (0, "", [0, 1, 2, 3]),
        (3, "", [0, 1, 2, 3]),
        (4, '{"inputs": "fil', [2, 3]),
        (6, "", [2, 3]),
        (4, "", [2, 3]),
    ],
)
def test_partial_file_resumes_after_its_last_complete_window(infer, kept, torn, batches):
    complete = infer()
    text = complete.read_text()
    complete.unlink()
    partial = complete.with_name(f"{complete.name}.partial")
    partial.write_text("".join(text.splitlines(keepends=True)[:kept]) + torn)
    assert infer().read_text() == text
    # Complete windows are predicted again, because the seed depends on the batch index.
    assert Echo.batches == batches
    assert not partial.exists()


def test_resume_appends_to_the_partial_file(infer):
    """Large files are not rewritten, and complete windows are not read."""
    path = infer()
    complete = path.read_bytes().splitlines(keepends=True)
    partial = path.with_name(f"{path.name}.partial")
    path.unlink()
    partial.write_bytes(b"kept\n" * 4 + b"".join(complete[4:6]) + complete[6][:-3])
    kept = partial.stat().st_ino
    assert infer().read_bytes() == b"kept\n" * 4 + b"".join(complete[4:])
    assert path.stat().st_ino == kept


def test_complete_file_is_kept(infer):
    path = infer()
    path.write_text("mine\n")
    assert infer().read_text() == "mine\n"
    assert Echo.batches == []


def test_interrupted_run_keeps_complete_windows(infer, monkeypatch):
    decode_batch = Echo.decode_batch

    def stopping(self, batch, max_length, index=0):
        if index == 3:
            raise KeyboardInterrupt
        return decode_batch(self, batch, max_length, index)

    monkeypatch.setattr(Echo, "decode_batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        infer()
    monkeypatch.setattr(Echo, "decode_batch", decode_batch)
    assert lines(infer()) == expected()
    assert Echo.batches == [2, 3]


@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_predictions_of_other_settings_are_refused(infer, suffix):
    path = infer()
    path.rename(path.with_name(path.name + suffix))
    with pytest.raises(ValueError, match=r"(?s)of other inputs.*A: 1 -> 2\n.*another INFER_OUT"):
        infer("A = 2\n")
    path.with_name(path.name + suffix).unlink()
    assert lines(infer("A = 2\n")) == expected()


@pytest.mark.parametrize("suffix", ["", ".partial"])
@pytest.mark.parametrize("changed", ["INFER_FILE", "PROMPT_FILE", "INITIAL_CHECKPOINT_PATH"])
def test_predictions_of_other_inputs_are_refused(infer, tmp_path, suffix, changed, monkeypatch):
    prompt = initializers.FromArray(np.ones((4, 16)))
    path = infer(prompt_initializer=prompt)
    kept = path.read_bytes()
    path.rename(path.with_name(path.name + suffix))
    if changed == "INFER_FILE":
        inputs_file = tmp_path / "asked.jsonl"
        inputs_file.write_text(
            inputs_file.read_text().replace("444", "445")
        )  # The name and size do not change.
    elif changed == "PROMPT_FILE":
        prompt = initializers.FromArray(np.full((4, 16), 2.0))
    else:
        monkeypatch.setattr(state.base_model, "digest", lambda *_: "another")
    with pytest.raises(
        ValueError, match=rf"(?s){changed}: .* \(content \w+ -> \w+\)\nExpected .* Delete it, or"
    ):
        infer(prompt_initializer=prompt)
    assert path.with_name(path.name + suffix).read_bytes() == kept
    path.with_name(path.name + suffix).unlink()
    infer(prompt_initializer=prompt)
    if changed == "INFER_FILE":
        assert "film 445" in path.read_text()


def test_an_interrupted_command_resumes_with_the_same_inputs_only(tiny_job, tmp_path, monkeypatch):
    """By command, with three windows of 8 rows, interrupted after the first."""
    inputs_file, prompt, predict = (
        tmp_path / "asked.jsonl",
        tmp_path / "p.npy",
        predictor_lib.Predictor.decode_batch,
    )
    rows = (tiny_job.folder / "infer.jsonl").read_text()
    monkeypatch.setattr(evaluation_task, "WINDOW", 1)

    def write(path, content):
        if path == inputs_file:
            path.write_text(content)
        else:
            prompt_files.save(path, np.full((4, 16), content), {})

    def infer(name):
        settings = {"INFER_FILE": inputs_file, "PROMPT_FILE": prompt, "BATCH_SIZE": 8}
        (path,) = cli.run(tiny_job.command("infer", INFER_OUTPUT_DIR=tmp_path / name, **settings))
        return pathlib.Path(path).read_bytes()

    def interrupt(predictor, batch, max_length, index=0):
        if index == 1:
            raise KeyboardInterrupt
        return predict(predictor, batch, max_length, index)

    write(inputs_file, rows)
    write(prompt, 1.0)
    uninterrupted = infer("uninterrupted")
    with monkeypatch.context() as patch:
        patch.setattr(predictor_lib.Predictor, "decode_batch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            infer("out")
    (partial,) = (tmp_path / "out").glob("*.partial")
    begun = partial.read_bytes()
    assert begun and uninterrupted.startswith(begun)
    for path, other, same in (
        (inputs_file, rows.replace("the", "a"), rows),
        (prompt, 2.0, 1.0),
    ):
        write(path, other)
        name = "INFER_FILE" if path == inputs_file else "PROMPT_FILE"
        with pytest.raises(
            ValueError,
            match=rf"{name}: .* \(content \w+ -> \w+\)\nExpected the same inputs. Delete it, or",
        ):
            infer("out")
        assert partial.read_bytes() == begun
        write(path, same)
    assert infer("out") == uninterrupted


def test_predictions_with_other_labels_are_refused(infer):
    path = infer(labels={None: ["good", "bad"]})
    expected = (
        r"labels of PROMPT_FILE: \['bad', 'good'\] -> \['Good', 'bad'\]\nExpected .* Delete it"
    )
    with pytest.raises(ValueError, match=expected):
        infer(labels={None: ["Good", "bad"]})
    assert infer(labels={None: ("bad", "good")}) == path
    with pytest.raises(ValueError, match=r"-> \{'a': \['good'\]\}"):
        infer(labels={"a": ["good"]})


def test_predictions_without_a_record_are_refused(infer):
    path = infer()
    path.with_name(f"{path.name}.settings.json").unlink()
    with pytest.raises(
        ValueError, match=r"has no record .*\.settings\.json .* Delete it, or set another"
    ):
        infer()


def test_paths_do_not_affect_recorded_settings(infer, tmp_path):
    path = infer("INFER_FILE = 'a'\nNUM_PARTITIONS = 8\nTRAIN_FILE = 'a'\nINFER_OUTPUT_DIR = 'a'\n")
    path.write_text("mine\n")
    assert infer("INFER_FILE = 'b'\nNUM_PARTITIONS = 1\n").read_text() == "mine\n"


def test_file_that_changes_while_it_is_read_is_an_error(infer, tmp_path, monkeypatch):
    tasks = pipeline.evaluation_tasks

    def changing(*arguments, **settings):
        (tmp_path / "asked.jsonl").write_text('{"text": "another"}\n')
        return tasks(*arguments, **settings)

    monkeypatch.setattr(pipeline, "evaluation_tasks", changing)
    with pytest.raises(OSError, match=r"INFER_FILE .*asked.jsonl changed while it was read"):
        infer()
    assert not (tmp_path / "out").exists()


def test_task_feature_lengths_are_required(tiny, tmp_path):
    dataset = pipeline.DatasetConfig(sources.TaskSource(infer_file="a.jsonl"), None, "infer", 8)
    with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS is None; expected"):
        inferencer.infer(
            config=make_config(tiny), dataset=dataset, output_dir=str(tmp_path / "out")
        )


def test_labels_of_the_card_are_restored(infer, caplog):
    """The vocabulary normalizes full-width digits."""
    caplog.set_level("INFO")
    path = infer(labels={None: ["\uff11\uff11", "good"]})
    predictions = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
    assert predictions == [
        "\uff11\uff11" if number == 1 else f"{number}1" for number in BATCH_NUMBERS
    ]
    assert "predictions are mapped back to the labels" in caplog.text


def test_warns_of_truncated_predictions(infer, caplog):
    infer()
    message = (
        "asked: 7 of 7 predictions are truncated: they reach the maximum length, TASK_FEATURE_"
    )
    assert message in caplog.text
