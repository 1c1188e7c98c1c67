"""Arguments of the Python interface: unknown ones, wrong types, and their names in messages."""

import concurrent.futures
import logging
import re
from collections.abc import Iterable

import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning import annotations
from prompt_tuning.api import arguments
from prompt_tuning.training import nan_guard

PAIRS = [("she liked it", "good"), ("he hated it", "bad")]
FEW = {"length": 4, "steps": 2, "batch_size": 8}


@arguments.checked({"PROMPT_FILE": "prompt", "the model's gin file": "config"})
def work(
    texts: Iterable[str], *, batch_size: annotations.PositiveInt = 2, error: str = "", log: str = ""
) -> int:
    """Return its arguments."""
    if log:
        logging.warning("%s is set", log)
    if error:
        raise ValueError(error)
    return batch_size


@pytest.fixture(scope="module")
def model(tiny) -> pt.Model:
    return pt.load_model(tiny.checkpoint)


def test_arguments_are_given_as_python_has_them():
    assert type(work([], batch_size=np.int64(3))) is int
    assert (work.__name__, work.__doc__) == ("work", "Return its arguments.")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_sizes": 3}, r"work\(\) has no argument 'batch_sizes'. Did you mean batch_size=\?"),
        ({"zzz": 3}, r"has no argument 'zzz'. Expected one of texts, batch_size, error, log."),
        ({"batch_size": "3"}, "batch_size='3' has type str; .* Pass batch_size=3."),
    ],
)
def test_an_unknown_argument_or_type_is_answered_with_what_was_meant(settings, message):
    with pytest.raises(TypeError, match=message):
        work([], **settings)


def test_a_missing_argument_is_named():
    with pytest.raises(TypeError, match=r"work\(\): missing a required argument: 'texts'"):
        work()


def test_messages_name_arguments_in_place_of_macros(caplog):
    error = "PROMPT_FILE /a/PROMPT_FILE: set BATCH_SIZE, NO_BATCH_SIZE or the model's gin file"
    with pytest.raises(ValueError) as caught:
        work([], error=error, log="BATCH_SIZE")
    assert str(caught.value) == "prompt /a/PROMPT_FILE: set batch_size, NO_BATCH_SIZE or config"
    assert caplog.messages == ["batch_size is set"]
    logging.warning("BATCH_SIZE is set")
    assert caplog.messages[1:] == ["BATCH_SIZE is set"]  # outside it is a command's


def test_threads_have_names_of_their_own(caplog):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda log: work([], log=log), ["BATCH_SIZE"] * 8))
    assert caplog.messages == ["batch_size is set"] * 8


CALLS = {
    "a model that is a name": (lambda m: pt.tune("t5_mini", PAIRS), r"model='t5_mini' .* Pass model=pt.load_model\('t5_mini'\)"),
    "arguments in another order": (lambda m: pt.tune(PAIRS, m), r"expected a Model\. Pass model=pt.load_model\(…\)"),
    "a seed": (lambda m: pt.tune(m, PAIRS, seed=2**32), "seed=4294967296 is out of range; .* at most 4294967295"),
    "an empty folder": (lambda m: pt.tune(m, PAIRS, **FEW, model_dir=""), "model_dir is ''; expected the path"),
    "a rate": (lambda m: pt.tune(m, PAIRS, learning_rate="0.3"), "Pass learning_rate=0.3."),
    "a negative rate": (lambda m: pt.tune(m, PAIRS, learning_rate=-1), "learning_rate=-1.0? is out of range"),
    "steps": (lambda m: pt.tune(m, PAIRS, steps="50"), "Pass steps=50."),
    "dropout": (lambda m: pt.tune(m, PAIRS, dropout_rate=1.0), "dropout_rate=1.0 is out of range"),
    "lengths": (lambda m: pt.tune(m, PAIRS, task_feature_lengths=128), "task_feature_lengths=128 has type int"),
    "other lengths": (lambda m: pt.tune(m, PAIRS, task_feature_lengths={"input": 8}), "task_feature_lengths is"),
    "labels": (lambda m: pt.tune(m, PAIRS, class_labels="good"), r"Pass class_labels=\['good'\]"),
    "many labels": (lambda m: pt.tune(m, PAIRS, class_labels=list("abcde"), length=4), "class_labels has 5 labels.*Set length"),
    "a start that is a path": (lambda m: pt.tune(m, PAIRS, initial_prompt="a.npy"), r"pt.load_prompt\('a.npy'\)"),
    "a start of another width": (lambda m: pt.tune(m, PAIRS, initial_prompt=pt.Prompt(np.ones((4, 3)))), r"initial_prompt has shape \(4, 3\)"),
    "batch": (lambda m: pt.tune(m, PAIRS, **FEW | {"batch_size": 3}), "batch_size is 3; .* Set batch_size to a multiple, or change num_partitions of pt.load_model"),
    "another folder": (lambda m: pt.tune(m, PAIRS, **FEW, model_dir=__file__), f"model_dir {__file__}"),
    "no folder": (lambda m: pt.tune(m, PAIRS, model_dir=5), "model_dir=5 has type int; expected a path or None"),
    "a decoder's name": (lambda m: m.generate(["a"], decoder="beam"), r"decoder='beam' .* Pass decoder=pt.BeamSearch\(num_decodes=4\)"),
    "a decoder's class": (lambda m: m.generate(["a"], decoder=pt.Greedy), "has type type; expected a Decoder"),
    "beams": (lambda m: pt.BeamSearch("4"), "num_decodes='4' has type str"),
    "no beams": (lambda m: pt.BeamSearch(0), "num_decodes=0 is out of range"),
    "two ways to sample": (lambda m: pt.Sampling(topk=2, topp=0.5), "topk=2 and topp=0.5 are both set"),
    "too many tokens": (lambda m: m.generate(["a"], decoder=pt.Sampling(topk=999)), "topk is 999; expected at most vocab_size=256"),
    "a label": (lambda m: pt.LabelRanking("good"), r"Pass labels=\['good'\]"),
    "a prompt that is a path": (lambda m: m.generate(["a"], "a.npy"), r"prompt='a.npy' .* Pass prompt=pt.load_prompt\('a.npy'\)"),
    "a prompt that is a table": (lambda m: m.generate(["a"], np.ones((4, 16))), r"prompt\[0\]=array.* pass an array \[P, D\] as pt.Prompt"),
    "a prompt of another width": (lambda m: m.generate(["a"], pt.Prompt(np.ones((4, 3)))), r"prompt has shape \(4, 3\)"),
    "a place": (lambda m: m.generate(["a"], pt.Prompt(np.ones((4, 16)), {"place": "middle"})), "place is 'middle'"),
    "a table of one dimension": (lambda m: pt.Prompt(np.ones(4)), r"table has shape \(4,\); expected \[P, D\]"),
    "a table of texts": (lambda m: pt.Prompt([["a"]]), r"table=\[\['a'\]\] is not an array of numbers"),
    "a table of None": (lambda m: pt.Prompt([[None, object()]]), "is not an array of numbers"),
    "a table with NaN": (lambda m: pt.Prompt([[1.0, float("nan")]]), "table has values that are NaN"),
    "a table that is a path": (lambda m: pt.Prompt("a.npy"), r"pt.load_prompt\('a.npy'\)"),
    "no model": (lambda m: pt.load_model("/nowhere"), "/nowhere does not exist; .* Set path"),
    "a model that is a number": (lambda m: pt.load_model(5), "path=5 has type int; expected a path"),
    "no vocabulary": (lambda m: pt.load_model("t5_mini", vocabulary="/nowhere"), "Set vocabulary to a"),
    "partitions": (lambda m: pt.load_model("t5_mini", num_partitions=3), "num_partitions is 3; expected a divisor"),
    "dtype": (lambda m: pt.load_model("t5_mini", dtype="float8"), "dtype='float8' is unknown; expected 'float32'"),
    "config": (lambda m: pt.load_model("t5_mini", config={}), "config={} has type dict; expected a T5Config or None"),
    "a size": (lambda m: pt.T5Config(8, "8", 1, 8, 8, 1, 1), "embed_dim='8' has type str"),
    "no prompt": (lambda m: pt.load_prompt("/nowhere"), "path /nowhere does not exist; expected a file. Correct path"),
    "a prompt that is None": (lambda m: pt.load_prompt(None), "path=None has type NoneType; expected a path"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_each_mistake_names_the_argument_and_the_fix(model, case):
    call, message = CALLS[case]
    with pytest.raises((TypeError, ValueError, OSError), match=message) as caught:
        call(model)
    assert not re.search(r"\b[A-Z]+_[A-Z_]+\b|\bgin\b", str(caught.value))


def test_a_loss_that_is_not_finite_names_what_there_is(model, tmp_path):
    message = (
        r"Lower learning_rate \(and set allow_changed_settings=True to continue this run with it\), "
        r"inspect the batch, or the model\.$"
    )
    with pytest.raises(ValueError, match=message):
        pt.tune(model, PAIRS, **FEW, learning_rate=1e38, model_dir=tmp_path)
    assert nan_guard.saved_batches(tmp_path)


def test_a_run_that_is_beyond_the_steps_is_named(model, tmp_path):
    pt.tune(model, PAIRS, **FEW, model_dir=tmp_path)
    with pytest.raises(
        ValueError,
        match=r"start_step \+ steps is 1001, less than step 1002, which the run in model_dir",
    ):
        pt.tune(model, PAIRS, **FEW | {"steps": 1}, model_dir=tmp_path)


def test_a_warning_of_another_base_names_prompt_and_model(model, caplog):
    other = pt.Prompt(np.ones((4, 16)), {"base_model_digest": "another"})
    model.score(["a"], ["good"], other)
    assert "prompt was trained with another base model than the model" in caplog.text
