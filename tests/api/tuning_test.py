"""Tuning from Python: it learns, as the command does, and leaves what it was given as it was."""

import json
import logging
import signal
import sys
import tempfile

import jax
import numpy as np
import pyarrow
import pytest

import prompt_tuning as pt
from prompt_tuning import params
from prompt_tuning.training import loop as loop_lib
from prompt_tuning.training import reporting

PAIRS = [(f"{who} liked the {how} film", how) for how in ("good", "bad") for who in ("she", "he")]
FEW = {"length": 4, "steps": 3, "batch_size": 8}


@pytest.fixture(scope="module")
def model(tiny) -> pt.Model:
    return pt.load_model(tiny.checkpoint)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_prompt_is_learned_and_the_model_stays_as_it_is(model, tmp_path, folder):
    before = jax.device_get(model.loaded.params)
    prompt = pt.tune(model, PAIRS, length=4, steps=30, batch_size=8)
    for path, leaf in params.flatten(before).items():
        np.testing.assert_array_equal(params.flatten(model.loaded.params)[path], leaf)
    texts, targets = zip(*PAIRS, strict=True)
    first = pt.tune(model, PAIRS, length=4, steps=1, batch_size=8)
    untuned, tuned = (model.score(texts, targets, each).sum() for each in (first, prompt))
    assert tuned > untuned + 3
    assert prompt.table.shape == (4, 16) and prompt.card["step"] == 1030
    assert prompt.card["base_model_digest"] == model.loaded.digest
    assert list(folder.iterdir()) == []


def test_the_batch_of_a_loss_that_is_no_number_is_kept(model, folder):
    with pytest.raises(ValueError, match="the batch is saved in") as error:
        pt.tune(model, PAIRS, **FEW, learning_rate=1e38)
    (kept,) = folder.glob("*/nan_step_1001.npz")
    assert str(kept) in str(error.value)


def test_what_is_tuned_follows_the_seed_and_not_the_form_of_the_examples(model):
    dicts = [{"inputs": text, "targets": target, "idx": 3} for text, target in PAIRS]
    texts, targets = zip(*PAIRS, strict=True)
    columns = {"inputs": np.array(texts), "targets": iter(targets)}
    table = pyarrow.table({"inputs": texts, "targets": targets})
    rows = zip(table["inputs"], table["targets"], strict=True)
    forms = (iter(dicts), np.array(PAIRS), rows, columns, table)
    once, other = (pt.tune(model, PAIRS, **FEW, seed=seed).table for seed in (1, 2))
    for examples in forms:
        np.testing.assert_array_equal(pt.tune(model, examples, **FEW, seed=1).table, once)
    assert not np.array_equal(once, other)


def test_a_prompt_starts_from_labels_or_from_another_prompt(model, tiny):
    embedding = tiny.base["token_embedder"]["embedding"]
    frozen = {**FEW, "steps": 1, "learning_rate": 1e-12}
    labelled = pt.tune(model, PAIRS, class_labels=["good"], **frozen)
    mean = embedding[np.array(tiny.vocabulary.encode("good"))].mean(axis=0)
    np.testing.assert_allclose(labelled.table[0], mean, rtol=1e-4)  # weight decay is not a rate's
    again, other = (pt.tune(model, PAIRS, seed=seed, **frozen).table for seed in (0, 1))
    np.testing.assert_allclose(again[1:], labelled.table[1:], rtol=1e-6)
    assert not np.allclose(again, other)
    start = pt.Prompt(labelled.table[:2] + 1, {"place": "suffix"})
    found = pt.tune(model, PAIRS, initial_prompt=start, **frozen)
    np.testing.assert_allclose(found.table, start.table, rtol=1e-4)
    assert found.place == "suffix"


def test_labels_are_kept_in_the_card(model):
    assert pt.tune(model, PAIRS, **FEW).labels == ("good", "bad")
    words = ("good", "bad", "long", "dull", "film", "story")
    free = [(f"she saw {one}", f"{one} {other}") for one in words for other in words]
    assert pt.tune(model, free, **FEW | {"steps": 1}).labels == ()


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([("a", "C++"), ("b", "C#")], r"examples: targets: .* cannot represent or distinguish"),
        ([("a", "good"), ("b", "\u4e2d")], "'\u4e2d' has only unknown tokens\\n.*Use other words"),
        ([("\u4eca\u5929", "good"), ("\u7535\u5f71", "bad")], "examples: inputs: .* unknown"),
    ],
)
def test_what_the_vocabulary_cannot_write_is_refused(model, examples, message):
    with pytest.raises(ValueError, match=message):
        pt.tune(model, examples, **FEW)


def test_a_run_that_is_kept_goes_on(model, tmp_path):
    whole = pt.tune(model, PAIRS, **FEW, model_dir=tmp_path / "whole")
    pt.tune(model, PAIRS, **FEW | {"steps": 2}, model_dir=tmp_path / "parts")
    parts = pt.tune(model, PAIRS, **FEW, model_dir=tmp_path / "parts")
    np.testing.assert_array_equal(whole.table, parts.table)
    told = lines(tmp_path / "parts/train/metrics.jsonl")
    assert [line["step"] for line in told] == [1002, 1003]
    again = pt.load_prompt(tmp_path / "parts/prompts/prompt_1003.npy")
    np.testing.assert_array_equal(again.table, parts.table)


@pytest.mark.parametrize(
    ("examples", "settings", "line"),
    [
        (PAIRS[:3], {}, r"examples: '4 examples' -> '3 examples' \(content \w+ -> \w+\)"),
        ([*PAIRS[:3], ("he liked it", "bad")], {}, r"examples: '4 examples' -> '4 examples' \(con"),
        (PAIRS, {"learning_rate": 0.1}, "learning_rate: 0.3 -> 0.1"),
        (PAIRS, {"batch_size": 16}, "batch_size: 8 -> 16"),
        (PAIRS, {"class_labels": ["good"]}, r"class_labels: None -> \['good'\]"),
        (PAIRS, {"seed": 1}, "seed: 0 -> 1"),
        (PAIRS, {"dropout_rate": 0.0}, "dropout_rate: 0.1 -> 0.0"),
        (
            PAIRS,
            {"initial_prompt": pt.Prompt(np.ones((4, 16)))},
            "initial_prompt: not set -> 'Prompt",
        ),
        (
            PAIRS,
            {"task_feature_lengths": {"inputs": 3, "targets": 8}},
            "task_feature_lengths: None",
        ),
    ],
)
def test_a_run_is_not_continued_with_other_examples_or_arguments(
    model, finished, examples, settings, line
):
    expected = (
        rf"(?s)model_dir .*at step 1003 with other settings .*{line}.*allow_changed_settings=True"
    )
    for steps in (3, 5):
        with pytest.raises(ValueError, match=expected) as error:
            pt.tune(model, examples, **{**FEW, "steps": steps, **settings}, model_dir=finished)
        assert "MODEL_DIR" not in str(error.value)


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    pt.tune(model, PAIRS, **FEW, model_dir=folder)
    return folder


def test_a_run_with_more_steps_is_refused_by_the_names_of_arguments(model, finished):
    expected = r"start_step \+ steps is 1002, less than step 1003, .* or steps above 3 to"
    with pytest.raises(ValueError, match=expected):
        pt.tune(model, PAIRS, **{**FEW, "steps": 2}, model_dir=finished)


def test_a_run_is_not_continued_with_weights_of_another_dtype(model, finished):
    other = pt.load_model(model.loaded.checkpoint, weights_dtype="bfloat16")
    with pytest.raises(ValueError, match="weights_dtype: 'float32' -> 'bfloat16'"):
        pt.tune(other, PAIRS, **FEW, model_dir=finished)


def test_changed_arguments_can_be_accepted(model, tmp_path):
    pt.tune(model, PAIRS, **FEW, model_dir=tmp_path)
    other = {**FEW, "steps": 4, "learning_rate": 0.1, "model_dir": tmp_path}
    prompt = pt.tune(model, iter(PAIRS), **other, allow_changed_settings=True)
    assert prompt.card["step"] == 1004
    np.testing.assert_array_equal(pt.tune(model, PAIRS, **other).table, prompt.table)
    texts = [(tmp_path / name).read_text() for name in ("config_1003.gin", "config.gin")]
    assert "learning_rate = 0.3" in texts[0] and "learning_rate = 0.1" in texts[1]


def test_ctrl_c_keeps_the_run_where_the_warning_says(model, folder, monkeypatch, caplog):
    add = reporting.StepLog.add

    def interrupting(log, sums):
        signal.raise_signal(signal.SIGINT)
        add(log, sums)

    with monkeypatch.context() as patch:
        patch.setattr(reporting.StepLog, "add", interrupting)
        with pytest.raises(KeyboardInterrupt):
            pt.tune(model, PAIRS, **FEW)
    (kept,) = folder.iterdir()
    assert f"step 1001 is saved in {kept}" in caplog.text
    found = pt.tune(model, PAIRS, **FEW, model_dir=kept)
    np.testing.assert_array_equal(found.table, pt.tune(model, PAIRS, **FEW).table)


def test_a_bar_is_shown_on_a_terminal_only(model, capsys, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)  # as where no command has run
    pt.tune(model, PAIRS, **FEW)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    pt.tune(model, PAIRS, **FEW)
    assert "3/3" in capsys.readouterr().err


def test_settings_reach_the_run(model, monkeypatch):
    """The optimizer's step, dropout, and the tokens that are kept."""
    seen, train_loop = {}, loop_lib.train_loop

    def noting(run, batches, **others):
        seen["config"], seen["start"] = run.loaded.model.config, run.first_step
        seen["batch"] = next(batches)
        train_loop(run=run, batches=batches, **others)

    monkeypatch.setattr(loop_lib, "train_loop", noting)
    lengths = {"inputs": 3, "targets": 8}
    more = {"dropout_rate": 0.25, "start_step": 500, "task_feature_lengths": lengths}
    pt.tune(model, PAIRS, **FEW, **more)
    assert (seen["config"].dropout_rate, seen["start"]) == (0.25, 500)
    batch, count = seen["batch"], FEW["batch_size"]
    # 4 soft tokens, 3 of the text, for each example; and rows that 8 devices can share.
    assert (batch["encoder_input_tokens"] > 0).sum() == count * (4 + 3)
    assert len(batch["encoder_input_tokens"]) % 8 == 0


@pytest.mark.parametrize(
    ("examples", "settings", "message"),
    [
        ([], {}, r"examples is empty; expected at least one \(input, target\) pair"),
        (["ab"], {}, r"examples\[0\]='ab'; expected a pair \(input, target\)"),
        (
            "ab",
            {},
            r"examples='ab' is a single str; expected an iterable of \(input, target\) pairs\. Pass a list\.$",
        ),
        ([("a", "b", "c")], {}, r"examples\[0\]=\('a', 'b', 'c'\); expected a pair"),
        ([("a", "b"), ("a", 1)], {}, r"target of examples\[1\]=1 has type int; .*str\(label\)"),
        ([("a", np.int64(1))], {}, r"target of examples\[0\]=.* has type int64; .*str\(label\)"),
        ([("a", True)], {}, r"target of examples\[0\]=True has type bool"),
        ([(None, "b")], {}, r"input of examples\[0\]=None is a missing value"),
        ([("a", float("nan"))], {}, r"target of examples\[0\]=nan is a missing value"),
        ([{"inputs": "a"}], {}, r"examples\[0\] has the keys \['inputs'\], without \['targets'\]"),
        ({"inputs": ["a"]}, {}, r"examples has the columns \['inputs'\], without \['targets'\]"),
        ({"inputs": ["a", "b"], "targets": ["c"]}, {}, "examples has 2 inputs and 1 targets"),
        ({"inputs": ["a"], "targets": [1]}, {}, r'examples\["targets"\]\[0\]=1 has type int'),
        (pyarrow.table({"text": ["a"]}), {}, r"examples has the columns \['text'\], without"),
        (PAIRS, {"steps": 0}, "steps=0 is out of range"),
        (PAIRS, {"length": 0}, "length=0 is out of range"),
        (PAIRS, {"batch_size": 3}, "is 3; expected a multiple of the 8"),
        (
            [*PAIRS, ("a film", ""), ("a book", " \n")],
            {},
            rf"2 of {len(PAIRS) + 2} examples have .* examples\[{len(PAIRS)}\].* allow_empty_targets=True",
        ),
        (
            PAIRS,
            {"class_labels": []},
            r"class_labels is \[\]; expected one .* or set class_labels to None",
        ),
        (
            PAIRS,
            {"learning_rate": 0.0},
            "learning_rate=0.0 is out of range; expected a number greater",
        ),
        (
            PAIRS,
            {"class_labels": list("abcde"), "length": 4},
            "5 labels, but the prompt has only 4",
        ),
        (PAIRS, {"initial_prompt": pt.Prompt(np.ones((4, 3)))}, r"\(4, 3\); expected"),
    ],
)
def test_what_cannot_be_tuned_is_refused(model, examples, settings, message, folder):
    with pytest.raises((TypeError, ValueError), match=message):
        pt.tune(model, examples, **settings)
    assert list(folder.iterdir()) == []
