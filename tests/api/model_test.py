"""Answering and scoring from Python: as the commands do, whatever shares a pass with what."""

import ast
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning import assets
from prompt_tuning.checkpoints import base_model
from prompt_tuning.checkpoints.formats import t5x
from prompt_tuning.cli import main as cli
from prompt_tuning.inference import predictor

LABELS = ["good", "bad", "dull"]


@pytest.fixture(scope="module")
def model(tiny) -> pt.Model:
    """With the vocabulary of the commands; the folder's has transformers' ids and texts."""
    return pt.load_model(tiny.checkpoint, vocabulary=tiny.vocabulary)


@pytest.fixture(scope="module")
def texts(tiny_job) -> list[str]:
    lines = (tiny_job.folder / "infer.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def make_prompt(seed: int, length: int = 4, **card) -> pt.Prompt:
    table = np.random.default_rng(seed).normal(size=(length, 16), scale=3).astype(np.float32)
    return pt.Prompt(table, card)


@pytest.fixture(scope="module")
def prompts() -> list[pt.Prompt]:
    return [make_prompt(seed) for seed in range(3)]


DECODERS = {
    "greedy": (None, [], {}),
    "beam": (pt.BeamSearch(3), ["decoding/beam_search.gin"], {"NUM_DECODES": 3}),
    "labels": (pt.LabelRanking(tuple(LABELS)), ["decoding/labels.gin"], {"LABELS": LABELS}),
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_answers_are_those_of_the_command(tiny_job, model, texts, prompts, tmp_path, decoder):
    ours, files, settings = DECODERS[decoder]
    prompts[0].save(tmp_path / "prompt.npy")
    settings = {"PROMPT_FILE": tmp_path / "prompt.npy", "BATCH_SIZE": 8, **settings}
    folder = {"INFER_OUTPUT_DIR": tmp_path, "MODE": "predict_with_aux"}
    (path,) = cli.run(tiny_job.command("infer", *files, "runs/infer.gin", **folder, **settings))
    expected = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    asked = {"max_length": 8, "decoder": ours, "batch_size": 8}
    found = model.answers(texts, prompts[0], **asked)
    best = [each["prediction"] for each in expected]
    assert model.generate(texts, prompts[0], **asked) == best
    assert [answers[0].text for answers in found] == best
    assert len({told["aux"]["scores"] for told in expected}) > 5
    for answers, told in zip(found, expected, strict=True):
        scores = told["aux"].get("prediction_scores", [told["aux"]["scores"]])
        np.testing.assert_allclose([each.score for each in answers], scores, atol=2e-4)


def test_scores_are_those_of_the_command(tiny_job, model, prompts, tmp_path):
    prompts[0].save(tmp_path / "prompt.npy")
    settings = {"MODE": "score", "SPLIT": "validation", "INFER_OUTPUT_DIR": tmp_path}
    settings |= {"PROMPT_FILE": tmp_path / "prompt.npy", "TARGET_COLUMN": "label", "BATCH_SIZE": 8}
    (path,) = cli.run(tiny_job.command("infer", **settings))
    expected = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    inputs = [each["inputs"]["inputs_pretokenized"] for each in expected]
    targets = [each["inputs"]["targets_pretokenized"] for each in expected]
    found = model.score(inputs, targets, prompts[0], batch_size=16)
    np.testing.assert_allclose(found, [each["score"] for each in expected], rtol=1e-5)
    assert len(set(found.tolist())) > 5


def test_rows_of_a_pass_have_prompts_of_their_own(model, texts, prompts):
    some = [prompts[i] for i in (2, 0, 0, 1)] * 5
    alone = [model.generate([text], one)[0] for text, one in zip(texts[:8], some, strict=False)]
    assert model.generate(texts, some, batch_size=32)[:8] == alone
    targets = [LABELS[i % 3] for i in range(20)]
    together = model.score(texts, targets, some)
    for prompt in prompts:
        of_it = np.array([each is prompt for each in some])
        expected = model.score(texts, targets, prompt)
        np.testing.assert_allclose(together[of_it], expected[of_it], rtol=1e-4)
        assert not np.allclose(together[~of_it], expected[~of_it], rtol=1e-3)


def test_a_prompt_stands_where_its_card_says(model, texts):
    first, last = make_prompt(0), make_prompt(0, place="suffix")
    targets = ["good"] * len(texts)
    assert not np.allclose(model.score(texts, targets, first), model.score(texts, targets, last))
    empty = model.score([""], ["good"], first), model.score([""], ["good"], last)
    np.testing.assert_allclose(*empty, rtol=1e-5)  # In front of the end token alone.


def test_without_a_prompt_the_model_answers_alone(model, texts, prompts):
    assert model.generate(texts) != model.generate(texts, prompts[0])
    assert model.generate(texts) == model.generate(texts)


def test_sampling_follows_the_seed(model, texts, prompts):
    sampling = pt.Sampling(temperature=2.0)
    once, again, other = (
        model.generate(texts, prompts[0], decoder=sampling, seed=seed) for seed in (1, 1, 2)
    )
    assert once == again != other


def test_few_texts_make_small_batches_and_many_make_full_ones(model, texts, prompts, monkeypatch):
    shapes, score_batch = [], predictor.Predictor.score_batch

    def noting(self, batch):
        shapes.append(batch["encoder_input_tokens"].shape)
        return score_batch(self, batch)

    monkeypatch.setattr(predictor.Predictor, "score_batch", noting)
    for count, rows in ((1, [8]), (9, [16]), (20, [16, 16])):
        shapes.clear()
        model.score(texts[:count], ["good"] * count, prompts[0], batch_size=16)
        assert [shape[0] for shape in shapes] == rows
        assert all(shape[1] % 8 == 0 for shape in shapes)


def test_nothing_is_answered_with_nothing(model, prompts):
    assert model.generate([]) == model.generate([], prompts[0]) == model.generate([], []) == []
    assert model.score([], []).shape == (0,)


def test_a_label_is_told_as_it_was_given(model):
    """The tiny vocabulary has no capital letters."""
    assert model.vocabulary.decode(model.vocabulary.encode("Bad")) != "Bad"
    ranking = pt.LabelRanking(("good", "Bad"))
    assert {each.text for each in model.answers(["she"], decoder=ranking)[0]} == {"good", "Bad"}


@pytest.mark.parametrize("normalization", ["length", "calibration"])
def test_normalized_scores_follow_from_log_likelihoods(model, texts, prompts, normalization):
    """Of prompts that differ in a batch too; without input means the empty text."""
    listed = ("bad", "a long story")
    some = [prompts[i % 2] for i in range(len(texts))]
    ranking = pt.LabelRanking(listed, normalization=normalization)
    found = model.answers(texts, some, decoder=ranking, batch_size=8)
    for label in listed:
        targets = [label] * len(texts)
        expected = model.score(texts, targets, some)
        if normalization == "length":
            expected /= len(model.vocabulary.encode(label)) + 1
        else:
            expected -= model.score([""] * len(texts), targets, some)
        scores = [{each.text: each.score for each in answers}[label] for answers in found]
        np.testing.assert_allclose(scores, expected, atol=2e-4)
    assert all(answers[0].score >= answers[1].score for answers in found)


def test_the_command_calibrates_by_the_template_with_empty_fields(
    tiny_job, model, texts, prompts, tmp_path
):
    prompts[0].save(tmp_path / "prompt.npy")
    settings = {"LABELS": ["bad", "a long story"], "LABEL_NORMALIZATION": "calibration"}
    settings |= {"PROMPT_FILE": tmp_path / "prompt.npy", "INFER_OUTPUT_DIR": tmp_path}
    settings |= {"INPUT_TEMPLATE": "story : {text}", "MODE": "predict_with_aux", "BATCH_SIZE": 8}
    files = ["decoding/labels.gin", "runs/infer.gin"]
    (path,) = cli.run(tiny_job.command("infer", *files, **settings))
    for line, text in zip(pathlib.Path(path).read_text().splitlines(), texts, strict=True):
        aux = json.loads(line)["aux"]
        for label, score in zip(aux["predictions"], aux["prediction_scores"], strict=True):
            pair = model.score([f"story : {text}", "story :"], [label] * 2, prompts[0])
            np.testing.assert_allclose(score, pair[0] - pair[1], atol=5e-4)


def test_labels_with_the_same_tokens_are_refused(model, caplog):
    for labels in (("C++", "C#"), ("good", "good ")):
        with pytest.raises(
            ValueError, match=r"labels of LabelRanking: .* cannot represent or distinguish"
        ):
            model.answers(["she"], decoder=pt.LabelRanking(labels))
    model.score(["she", "she"], ["C++", "C#"])
    assert "targets: the vocabulary" in caplog.text and "the same tokens" in caplog.text


def test_labels_of_the_prompt_are_restored(model, texts, prompts, monkeypatch):
    """Each text has those of its own prompt."""
    ids = np.array([[*model.vocabulary.encode("BAD"), 1]])

    def decode_batch(self, batch, max_length, *_):
        count = len(batch["encoder_input_tokens"])
        return np.tile(ids, (count, 1, 1)), np.zeros((count, 1))

    monkeypatch.setattr(predictor.Predictor, "decode_batch", decode_batch)
    some = [make_prompt(0, labels=["BAD", "good"]), make_prompt(1, labels=["B AD"]), prompts[0]]
    some[1] = make_prompt(1, labels=["FAD"])  # written alike
    written = model.vocabulary.decode(ids[0])
    assert model.generate(texts[:3], some) == ["BAD", "FAD", written]
    assert model.generate(texts[:1]) == [written]


def test_answers_that_are_cut_off_are_reported(model, texts, prompts, caplog):
    model.generate(texts[:3], prompts[0], max_length=1)
    told = "texts: 3 of 3 predictions are truncated: they reach the maximum length, max_length = 1"
    assert told in caplog.text
    caplog.clear()
    model.answers(texts[:3], prompts[0], max_length=1, decoder=pt.BeamSearch(2))
    assert "of 6 predictions are truncated" in caplog.text
    caplog.clear()
    model.generate(texts[:3], prompts[0], max_length=1, decoder=pt.LabelRanking(LABELS))
    assert "truncated" not in caplog.text


def test_unknown_text_is_reported(model, caplog):
    model.generate(["\u4eca\u5929", "\u7535\u5f71"])
    assert "texts: " in caplog.text and "Predictions for such inputs are arbitrary" in caplog.text


def test_a_prompt_of_another_model_is_told(model, texts, caplog):
    own, other = model.loaded.digest, "of another"
    model.score(texts[:1], ["good"], make_prompt(0, base_model_digest=own))
    assert "another base model" not in caplog.text
    some = [make_prompt(0, base_model_digest=own), make_prompt(1, base_model_digest=other)]
    model.score(texts[:2], ["good"] * 2, some)
    assert "another base model" in caplog.text


@pytest.mark.parametrize(
    ("texts", "targets", "message"),
    [
        ("one text", ["a"], r"texts='one text' is a single str; expected an iterable of str"),
        (["a", 5], ["a", "b"], r"texts\[1\]=5 has type int; expected a str"),
        (["a", "b"], ["a"], "targets has 1 elements and texts has 2"),
        (["a"], "b", "targets='b' is a single str"),
        (["a"], [1], r"targets\[0\]=1 has type int; .*str\(label\)"),
    ],
)
def test_texts_are_iterables_of_strings(model, texts, targets, message):
    with pytest.raises((TypeError, ValueError), match=message):
        model.score(texts, targets)
    if message.startswith("texts"):
        for predict in (model.generate, model.answers):
            with pytest.raises((TypeError, ValueError), match=message):
                predict(texts)


def test_any_iterable_gives_the_same(model, texts, prompts):
    some, targets = texts[:3], ["good", "bad", "good"]
    expected = model.generate(some, prompts), model.score(some, targets, prompts).tolist()
    for make in (iter, np.array, tuple, lambda values: dict(enumerate(values)).values()):
        found = model.generate(make(some), list(prompts))
        assert (found, model.score(make(some), make(targets), iter(prompts)).tolist()) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 12}, "batch_size is 12; expected a multiple of the 8 data-parallel"),
        ({"batch_size": 0}, "batch_size=0 is out of range; expected an integer of at least 1"),
        ({"max_length": 0}, "max_length=0 is out of range; expected an integer of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        model.generate(["a"], **settings)


def test_an_embedded_model_is_loaded_by_its_name(monkeypatch, tmp_path, tiny):
    class Read(Exception):
        pass

    def read(path, *_):
        raise Read(path)

    monkeypatch.setattr(base_model, "load", read)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Read, match=assets.path("t5_mini")):
        pt.load_model("t5_mini")
    (tmp_path / "t5_mini").symlink_to(tiny.checkpoint)
    with pytest.raises(Read, match=r"^t5_mini$"):  # a folder of the user's comes first
        pt.load_model("t5_mini")


def test_a_t5x_checkpoint_is_told_what_it_holds(tiny, model, texts, prompts, tmp_path):
    path = tmp_path / "checkpoint_1000"
    with base_model.opened(tiny.checkpoint) as found:
        t5x.save(path, found, step=1000, dtype="float32")
    with pytest.raises(ValueError, match=r"no config.json, .* expected both.*config=pt.T5Config"):
        pt.load_model(path, vocabulary=tiny.vocabulary.path)
    given = {"config": tiny.model.config, "vocabulary": tiny.vocabulary.path, "extra_ids": 100}
    again = pt.load_model(path, **given)
    assert again.generate(texts, prompts[0]) == model.generate(texts, prompts[0])
    with pytest.raises(ValueError, match="expected at least one row per id"):
        pt.load_model(path, **given | {"extra_ids": 1000})


def test_weights_are_held_as_asked(tiny):
    halved = pt.load_model(tiny.checkpoint, weights_dtype="bfloat16", num_partitions=8)
    kernel = halved.loaded.params["decoder"]["logits_dense"]["kernel"]
    assert kernel.dtype == "bfloat16" and 8 * kernel.addressable_shards[0].data.size == kernel.size


def test_there_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        pt.load_model(tmp_path / "nowhere")


def run(program: str, *arguments: str) -> str:
    line = [sys.executable, "-W", "error", "-c", program, *arguments]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_package_is_light_until_it_is_used():
    shown = run("import sys, prompt_tuning as pt; print(sorted(sys.modules)); print(dir(pt))")
    modules, names = map(ast.literal_eval, shown.splitlines())
    assert not {"jax", "numpy", "flax", "tensorflow", "gin"} & set(modules)
    assert set(pt.__all__) <= set(names)
    for name in pt.__all__:
        assert getattr(pt, name).__name__ == name and name in pt.__doc__ + "".join(pt.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'tunes'"):
        _ = pt.tunes


def test_type_checkers_see_what_is_there():
    tree = ast.parse(pathlib.Path(pt.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.name: node.module.removeprefix("prompt_tuning.")
        for node in block.body
        for alias in node.names
    }
    assert told == pt._HOMES
    assert (pathlib.Path(pt.__file__).parent / "py.typed").exists()


def test_no_tensorflow_is_needed_and_nothing_is_shown(tiny):
    program = """
import sys, prompt_tuning as pt
model = pt.load_model(sys.argv[1])
prompt = pt.tune(model, [("she liked it", "good")] * 4, length=4, steps=2, batch_size=2)
ranking = pt.LabelRanking(("good", "bad"))
model.generate(["she"], prompt, decoder=ranking), model.score(["she"], ["good"], prompt)
print(sorted({"tensorflow", "seqio", "gin"} & set(sys.modules)))
"""
    assert run(program, tiny.checkpoint) == "[]\n"
