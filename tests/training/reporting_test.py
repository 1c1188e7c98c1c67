"""What a run tells: lines, events, means."""

import json
import struct

import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from prompt_tuning import params
from prompt_tuning.training import reporting


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_events(folder):
    """The TensorBoard events of all files, oldest first."""
    for file in sorted(folder.glob("events.*")):
        data, start = file.read_bytes(), 0
        while start < len(data):
            (size,) = struct.unpack("<Q", data[start : start + 8])
            yield event_pb2.Event.FromString(data[start + 12 : start + 12 + size])
            start += size + 16


def events(folder):
    """(step, tag, value) of all scalars."""
    return [(e.step, v.tag, v.simple_value) for e in read_events(folder) for v in e.summary.value]


def writer(folder, after_step):
    return reporting.MetricWriter(
        folder / "task.jsonl", events=folder / "task", after_step=after_step, prefix="eval/"
    )


def test_metrics_are_lines_and_events(tmp_path):
    log = writer(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []  # nothing before there is something to write
    log.write(1, {"accuracy": 50.0, "f1": 0.25})
    log.write(2, {"accuracy": 75.0, "f1": 0.5})
    log.close()
    assert lines(tmp_path / "task.jsonl") == [
        {"step": 1, "accuracy": 50.0, "f1": 0.25},
        {"step": 2, "accuracy": 75.0, "f1": 0.5},
    ]
    assert events(tmp_path / "task") == [
        (1, "eval/accuracy", 50.0),
        (1, "eval/f1", 0.25),
        (2, "eval/accuracy", 75.0),
        (2, "eval/f1", 0.5),
    ]


def test_a_file_grows_by_its_lines(tmp_path, monkeypatch):
    log, written, write = writer(tmp_path, 0), [], reporting.write_text
    monkeypatch.setattr(reporting, "write_text", lambda *a: written.append(a[1]) or write(*a))
    for step in (1, 2, 3):
        log.write(step, {"accuracy": 50.0})
    log.close()
    assert [line["step"] for line in lines(tmp_path / "task.jsonl")] == [1, 2, 3]
    assert len(written) == 1


def test_a_line_that_a_run_was_stopped_in_is_dropped(tmp_path):
    (tmp_path / "task.jsonl").write_text('{"step": 1, "accuracy": 50.0}\n{"step": 2, "accu')
    log = writer(tmp_path, 2)
    log.write(3, {"accuracy": 75.0})
    log.close()
    assert [line["step"] for line in lines(tmp_path / "task.jsonl")] == [1, 3]


def test_damaged_lines_are_dropped_and_told(tmp_path, caplog):
    good = b'{"step": 1, "accuracy": 50.0}\n'
    damaged = [b'{"step": 2, "acc\n', b"\xff\n", b"[]\n", b"{}\n", b"\n", b'{"step": null}\n']
    (tmp_path / "task.jsonl").write_bytes(good + b"".join(damaged))
    log = writer(tmp_path, 2)
    log.write(3, {"accuracy": 75.0})
    log.close()
    assert [line["step"] for line in lines(tmp_path / "task.jsonl")] == [1, 3]
    assert "task.jsonl: dropped 6 damaged lines." in caplog.text


def test_texts_are_events_only(tmp_path):
    log = writer(tmp_path, 0)
    log.write(1, {"accuracy": 50.0, "samples": "one\ntwo"})
    log.close()
    assert lines(tmp_path / "task.jsonl") == [{"step": 1, "accuracy": 50.0}]
    values = [value for e in read_events(tmp_path / "task") for value in e.summary.value]
    assert [value.tag.partition("/text")[0] for value in values] == [
        "eval/accuracy",
        "eval/samples",
    ]
    # A line break of Markdown is two.
    assert values[1].tensor.string_val[0] == b"one\n\ntwo"


def test_a_run_that_goes_on_drops_what_is_after_its_step(tmp_path):
    for after_step, steps in ((0, (1, 2, 3)), (2, (3, 4)), (4, (5,))):
        log = writer(tmp_path, after_step)
        for step in steps:
            log.write(step, {"accuracy": float(10 * after_step + step)})
        log.close()
    found = [(line["step"], line["accuracy"]) for line in lines(tmp_path / "task.jsonl")]
    assert found == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0), (5, 45.0)]
    # TensorBoard hides what is at such a step or after it in earlier files.
    restarts = [e.step for e in read_events(tmp_path / "task") if e.HasField("session_log")]
    assert sorted(restarts) == [1, 3, 5]


def sums(loss, correct, tokens, norm=1.0, skipped=0.0):
    named = {"loss": loss, "z_loss": 0.5, "correct": correct, "tokens": tokens}
    named |= {"gradient_norm": norm, "skipped": skipped}
    return {name: jnp.asarray(x) for name, x in named.items()}


def test_step_log_tells_means_over_the_steps_since_the_last_line(tmp_path, caplog):
    with (
        caplog.at_level("INFO"),
        reporting.StepLog(
            tmp_path, first_step=10, step=10, last_step=20, learning_rate=lambda step: step / 2
        ) as log,
    ):
        log.add(sums(6.0, 1.0, 2.0))
        log.add(sums(2.0, 2.0, 2.0, norm=3.0))
        log.write(12, {"prompt_distance": 7.0})
        log.add(sums(1.0, 0.0, 4.0))
        log.write(13, {})
    first, second = lines(tmp_path / "metrics.jsonl")
    for line in (first, second):
        for name in ("seconds", "steps_per_second", "target_tokens_per_second"):
            assert line.pop(f"timing/{name}") > 0
    assert first == {
        "step": 12,
        "loss_per_nonpadding_target_token": 2.0,
        "loss": 4.0,
        "cross_ent_loss": 3.5,
        "z_loss": 0.5,
        "accuracy": 0.75,
        "gradient_norm": 3.0,
        "learning_rate": 5.5,  # of the step that was taken last, from 11 to 12
        "prompt_distance": 7.0,
    }
    assert (second["loss_per_nonpadding_target_token"], second["accuracy"]) == (0.25, 0.0)
    assert "step 12  loss 2.000  accuracy 0.750" in caplog.text
    assert (12, "loss", 4.0) in events(tmp_path)


def test_step_log_goes_on_with_what_was_not_written(tmp_path):
    """The clock knows only steps from here on."""
    settings = {"first_step": 0, "step": 1, "last_step": 5}
    before = sums(0.1, 1.0, 2.0)
    with reporting.StepLog(tmp_path / "parts", **settings) as log:
        log.add(before)
        kept = json.loads(json.dumps(log.unwritten()))
    with reporting.StepLog(tmp_path / "parts", **settings, unwritten=kept) as log:
        log.restart()
        log.add(sums(0.2, 1.0, 2.0))
        log.write(2, {})
        assert log.unwritten() == []
    with reporting.StepLog(tmp_path / "whole", **settings) as log:
        log.add(before)
        log.add(sums(0.2, 1.0, 2.0))
        log.write(2, {})
    parts, whole = (lines(tmp_path / name / "metrics.jsonl")[0] for name in ("parts", "whole"))
    assert parts["loss"] == whole["loss"] == pytest.approx(0.15)
    assert parts["timing/steps_per_second"] == pytest.approx(1 / parts["timing/seconds"])


def test_steps_that_were_left_out_are_in_no_mean(tmp_path):
    with reporting.StepLog(tmp_path, first_step=0, step=0, last_step=5) as log:
        log.add(sums(float("nan"), 1.0, 2.0, skipped=1.0))
        log.add(sums(1.0, 1.0, 2.0))
        log.write(2, {})
        log.add(sums(float("nan"), 1.0, 2.0, skipped=1.0))
        log.write(3, {})
    assert [line["loss"] for line in lines(tmp_path / "metrics.jsonl")] == [1.0]


def test_text_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    reporting.write_text(path, "one")
    with pytest.raises(UnicodeEncodeError):
        reporting.write_text(path, "two \ud800")
    assert path.read_text() == "one"
    reporting.write_text(path, "two")
    assert (path.read_text(), list(path.parent.iterdir())) == ("two", [path])


def test_a_folder_that_cannot_be_written_names_its_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to MODEL_DIR .*file.*Set MODEL_DIR"):
        reporting.start_folder(tmp_path / "file", "", "MODEL_DIR")


def test_model_info_lists_every_parameter(load):
    weights = load((4, 2)).params
    trainable, _ = params.split(weights, (".*/prompt/.*",))
    *leaves, total, tuned = reporting.model_info(trainable, weights).splitlines()
    found = {line.split()[1]: line for line in leaves}
    assert found.keys() == params.flatten(weights).keys()
    assert found["encoder/prompt/prompt"].split()[0] == "trained"
    kernel = found["encoder/layers_0/mlp/wo/kernel"]
    assert kernel.split()[0] == "frozen"
    assert kernel.endswith(" 256  (16, 16)  ('model', None)")
    count = params.count(weights)
    assert total == f"Total number of parameters: {count}"
    assert tuned == f"Trainable parameters: 64 ({6400 / count:.4f} %)"


def test_table_aligns():
    assert reporting.table([("a", "1"), ("long", "2")]) == "  a     1\n  long  2"
    assert reporting.table([]) == ""
    three = [["a", "1", "x"], ["long", "2", ""]]
    assert reporting.table(three) == "  a     1  x\n  long  2"


@pytest.mark.parametrize("folder", ["", " ", None, 5])
def test_a_folder_has_a_path(folder):
    with pytest.raises(
        ValueError, match=r"MODEL_DIR is .*; expected the path of a folder. Set MODEL_DIR"
    ):
        reporting.check_folder(folder, "MODEL_DIR")


def test_a_file_is_no_folder(tmp_path):
    reporting.check_folder(tmp_path, "MODEL_DIR")
    reporting.check_folder(tmp_path / "new", "MODEL_DIR")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"MODEL_DIR .*/file is a file; expected a new or an existing folder.*Set"
    ):
        reporting.check_folder(tmp_path / "file", "MODEL_DIR")
