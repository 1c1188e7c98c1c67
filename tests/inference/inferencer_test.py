"""Answer files: in the input's order, whole, and gone on with where they were begun."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.cli import main as cli
from prompt_tuning.data import evaluation_task, pipeline, sources
from prompt_tuning.inference import evaluator, inferencer
from prompt_tuning.methods import initializers
from prompt_tuning.training import state

# Two windows of two batches; inside each the shorter ones are answered first.
TEXTS = ["film 00000", "film 1", "film 2", "film 30000", "film 444", "film 5", "film 666"]
BATCH_OF_EACH = (2, 1, 1, 2, 3, 3, 4)


class Echo:
    """In place of an Answerer: answers 1 ... N to each row, marked with the batch's number."""

    decodes = 1
    batches: list[int]  # that were asked for

    def __init__(self, loaded, seed=0):
        self.loaded = loaded
        Echo.batches = []

    def predict(self, params, batch, max_length, index=0):
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
    """The model, which Echo does not run."""
    return state.load_model(
        tiny.model, tiny.vocabulary, checkpoint=tiny.checkpoint, num_partitions=8
    )


@pytest.fixture
def infer(tiny, loaded, tmp_path, monkeypatch):
    """Answers TEXTS in batches of 8 / NUM_PARTITIONS rows and gives back the file."""
    monkeypatch.setattr(state, "load_model", lambda *_, **__: loaded)
    monkeypatch.setattr(evaluator, "Answerer", Echo)
    monkeypatch.setattr(evaluation_task, "WINDOW", 2)
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    dataset = pipeline.DatasetConfig(
        sources.TaskSource(infer_file=str(asked)), {"inputs": 20, "targets": 4}, "infer", 2
    )

    def run(config_text="A = 1\n", **settings):
        (path,) = inferencer.infer(
            model=tiny.model,
            vocabulary=tiny.vocabulary,
            checkpoint=tiny.checkpoint,
            dataset=dataset,
            output_dir=str(tmp_path / "out"),
            num_partitions=8,
            config_text=config_text,
            **{"prompt_initializer": initializers.SampledVocabulary(), **settings},
        )
        return pathlib.Path(path)

    return run


def expected():
    return [
        {"inputs": {"inputs_pretokenized": text}, "prediction": f"{batch}1"}
        for text, batch in zip(TEXTS, BATCH_OF_EACH, strict=True)
    ]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_for_each_input_in_order(infer):
    path = infer()
    assert lines(path) == expected()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "asked-predict.jsonl-00000-of-00001",
        "asked-predict.jsonl-00000-of-00001.COMPLETED",
        "asked-predict.jsonl-00000-of-00001.settings.json",
        "config.gin",
    ]


def test_rows_without_text_are_answered_and_blank_lines_are_none(infer, tmp_path):
    texts = [*TEXTS[:3], "", *TEXTS[4:]]
    rows = [json.dumps({"text": text or None}) + "\n" for text in texts]
    (tmp_path / "asked.jsonl").write_text("\n".join(rows))
    assert [line["inputs"]["inputs_pretokenized"] for line in lines(infer())] == texts


@pytest.mark.parametrize("decodes", [1, 2])
def test_scores_and_several_decodes(infer, monkeypatch, decodes):
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
    settings = {
        "model": tiny.model,
        "vocabulary": tiny.vocabulary,
        "checkpoint": tiny.checkpoint,
        "prompt_initializer": initializers.SampledVocabulary(),
        "mode": "score",
        "num_partitions": 8,
    }
    (found,) = inferencer.infer(dataset=dataset, output_dir=str(tmp_path / "out"), **settings)
    assert found.endswith("asked-score.jsonl-00000-of-00001")
    first, second = lines(pathlib.Path(found))
    assert first["inputs"] == {
        "inputs_pretokenized": "she saw the film .",
        "targets_pretokenized": "good",
    }
    assert second["score"] < first["score"] < 0 and first.keys() == {"inputs", "score"}
    asked = dataclasses.replace(
        dataset,
        source=sources.TaskSource(infer_file=str(tiny_job.folder / "infer.jsonl")),
        split="infer",
    )
    with pytest.raises(ValueError, match=r"MODE='score' scores targets.*Set SPLIT"):
        inferencer.infer(dataset=asked, output_dir=str(tmp_path / "none"), **settings)
    assert not (tmp_path / "none").exists()


def test_an_empty_input_is_told_too(infer, monkeypatch):
    monkeypatch.setattr(evaluation_task.EvaluationTask, "text", lambda *_: "")
    assert [line["inputs"] for line in lines(infer())] == [{"inputs_pretokenized": ""}] * 7


def test_shards_answer_a_part_each(infer):
    paths = [infer(f"NUM_SHARDS = 3\nSHARD_ID = {i}\n", num_shards=3, shard_id=i) for i in range(3)]
    assert [path.name for path in paths] == [
        f"asked-predict.jsonl-{i:05d}-of-00003" for i in range(3)
    ]
    found = [[line["inputs"]["inputs_pretokenized"] for line in lines(path)] for path in paths]
    assert found == [TEXTS[i::3] for i in range(3)]
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
    ("kept", "torn", "asked"),
    [
        (0, "", [0, 1, 2, 3]),
        (3, "", [0, 1, 2, 3]),
        (4, '{"inputs": "fil', [2, 3]),
        (6, "", [2, 3]),
        (4, "", [2, 3]),
    ],
)
def test_a_file_that_was_begun_is_gone_on_with(infer, kept, torn, asked):
    whole = infer()
    text = whole.read_text()
    whole.unlink()
    partial = whole.with_name(f"{whole.name}.partial")
    partial.write_text("".join(text.splitlines(keepends=True)[:kept]) + torn)
    assert infer().read_text() == text
    # Answered again: whole windows, since a batch's randomness follows its number.
    assert Echo.batches == asked
    assert not partial.exists()


def test_what_is_whole_is_kept_where_it_is(infer):
    """A file of a GB is not written anew each time; what is on it is not looked at either."""
    path = infer()
    whole = path.read_bytes().splitlines(keepends=True)
    partial = path.with_name(f"{path.name}.partial")
    path.unlink()
    partial.write_bytes(b"kept\n" * 4 + b"".join(whole[4:6]) + whole[6][:-3])
    kept = partial.stat().st_ino
    assert infer().read_bytes() == b"kept\n" * 4 + b"".join(whole[4:])
    assert path.stat().st_ino == kept


def test_a_whole_file_is_left_alone(infer):
    path = infer()
    path.write_text("mine\n")
    assert infer().read_text() == "mine\n"
    assert Echo.batches == []


def test_what_is_answered_is_written_before_the_end(infer, monkeypatch):
    predict = Echo.predict

    def stopping(self, params, batch, max_length, index=0):
        if index == 3:
            raise KeyboardInterrupt
        return predict(self, params, batch, max_length, index)

    monkeypatch.setattr(Echo, "predict", stopping)
    with pytest.raises(KeyboardInterrupt):
        infer()
    monkeypatch.setattr(Echo, "predict", predict)
    assert lines(infer()) == expected()
    assert Echo.batches == [2, 3]


@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_answers_of_other_settings_are_not_mixed(infer, suffix):
    path = infer()
    path.rename(path.with_name(path.name + suffix))
    with pytest.raises(ValueError, match=r"(?s)of other inputs.*A: 1 -> 2\n.*another INFER_OUT"):
        infer("A = 2\n")
    path.with_name(path.name + suffix).unlink()
    assert lines(infer("A = 2\n")) == expected()


@pytest.mark.parametrize("suffix", ["", ".partial"])
@pytest.mark.parametrize("changed", ["INFER_FILE", "PROMPT_FILE", "INITIAL_CHECKPOINT_PATH"])
def test_answers_of_other_inputs_are_not_mixed(infer, tmp_path, suffix, changed, monkeypatch):
    prompt = initializers.FromArray(np.ones((4, 16)))
    path = infer(prompt_initializer=prompt)
    kept = path.read_bytes()
    path.rename(path.with_name(path.name + suffix))
    if changed == "INFER_FILE":
        asked = tmp_path / "asked.jsonl"
        asked.write_text(asked.read_text().replace("444", "445"))  # a name and size as before
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
    """By command, in three windows of 8 rows, of which the first is written."""
    asked, prompt, predict = (
        tmp_path / "asked.jsonl",
        tmp_path / "p.npy",
        evaluator.Answerer.predict,
    )
    rows = (tiny_job.folder / "infer.jsonl").read_text()
    monkeypatch.setattr(evaluation_task, "WINDOW", 1)

    def write(path, content):
        if path == asked:
            path.write_text(content)
        else:
            prompt_files.save(path, np.full((4, 16), content), {})

    def infer(name):
        settings = {"INFER_FILE": asked, "PROMPT_FILE": prompt, "BATCH_SIZE": 8}
        (path,) = cli.run(tiny_job.command("infer", INFER_OUTPUT_DIR=tmp_path / name, **settings))
        return pathlib.Path(path).read_bytes()

    def interrupt(answerer, params, batch, max_length, index=0):
        if index == 1:
            raise KeyboardInterrupt
        return predict(answerer, params, batch, max_length, index)

    write(asked, rows)
    write(prompt, 1.0)
    uninterrupted = infer("uninterrupted")
    with monkeypatch.context() as patch:
        patch.setattr(evaluator.Answerer, "predict", interrupt)
        with pytest.raises(KeyboardInterrupt):
            infer("out")
    (partial,) = (tmp_path / "out").glob("*.partial")
    begun = partial.read_bytes()
    assert begun and uninterrupted.startswith(begun)
    for path, other, same in (
        (asked, rows.replace("the", "a"), rows),
        (prompt, 2.0, 1.0),
    ):
        write(path, other)
        name = "INFER_FILE" if path == asked else "PROMPT_FILE"
        with pytest.raises(ValueError, match=rf"{name}: .* \(content \w+ -> \w+\)\nDelete it, or"):
            infer("out")
        assert partial.read_bytes() == begun
        write(path, same)
    assert infer("out") == uninterrupted


def test_answers_with_other_labels_of_the_card_are_not_mixed(infer):
    path = infer(labels={None: ["good", "bad"]})
    expected = (
        r"labels of PROMPT_FILE: \['bad', 'good'\] -> \['Good', 'bad'\]\nExpected .* Delete it"
    )
    with pytest.raises(ValueError, match=expected):
        infer(labels={None: ["Good", "bad"]})
    assert infer(labels={None: ("bad", "good")}) == path
    with pytest.raises(ValueError, match=r"-> \{'a': \['good'\]\}"):
        infer(labels={"a": ["good"]})


def test_answers_without_a_record_are_not_taken_for_these(infer):
    path = infer()
    path.with_name(f"{path.name}.settings.json").unlink()
    with pytest.raises(
        ValueError, match=r"has no record .*\.settings\.json .* Delete it, or set another"
    ):
        infer()


def test_a_file_that_moved_has_the_same_answers(infer, tmp_path):
    path = infer("INFER_FILE = 'a'\nNUM_PARTITIONS = 8\nTRAIN_FILE = 'a'\nINFER_OUTPUT_DIR = 'a'\n")
    path.write_text("mine\n")
    assert infer("INFER_FILE = 'b'\nNUM_PARTITIONS = 1\n").read_text() == "mine\n"


def test_a_file_that_changes_while_it_is_opened_is_an_error(infer, tmp_path, monkeypatch):
    tasks = pipeline.evaluation_tasks

    def changing(*arguments, **settings):
        (tmp_path / "asked.jsonl").write_text('{"text": "another"}\n')
        return tasks(*arguments, **settings)

    monkeypatch.setattr(pipeline, "evaluation_tasks", changing)
    with pytest.raises(OSError, match=r"INFER_FILE .*asked.jsonl changed while it was read"):
        infer()
    assert not (tmp_path / "out").exists()


def test_without_lengths_nobody_knows_how_long_answers_are(tiny, tmp_path):
    dataset = pipeline.DatasetConfig(sources.TaskSource(infer_file="a.jsonl"), None, "infer", 8)
    with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS is None; expected"):
        inferencer.infer(
            model=tiny.model,
            vocabulary=tiny.vocabulary,
            checkpoint=tiny.checkpoint,
            prompt_initializer=initializers.SampledVocabulary(),
            dataset=dataset,
            output_dir=str(tmp_path / "out"),
        )


def test_the_labels_of_the_card_are_restored(infer, caplog):
    """The vocabulary writes full-width digits as others."""
    caplog.set_level("INFO")
    path = infer(labels={None: ["\uff11\uff11", "good"]})
    found = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
    assert found == ["\uff11\uff11" if each == 1 else f"{each}1" for each in BATCH_OF_EACH]
    assert "predictions are mapped back to the labels" in caplog.text


def test_predictions_at_the_maximum_length_are_reported(infer, caplog):
    infer()
    told = "asked: 7 of 7 predictions are truncated: they reach the maximum length, TASK_FEATURE_"
    assert told in caplog.text
