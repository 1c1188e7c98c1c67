"""Every mistake is answered with what was given, what was expected and the setting to mend.

The exit code is 2, it comes before the first step, no weights are needed for it, and nothing is
written. (`train` reads weights on a thread while it opens the data; the others read them last.)
"""

import dataclasses
import gzip
import json
import os
import pathlib
import pickle
import shutil
import sys
from typing import Any

import numpy as np
import pytest
import seqio
from flax import serialization
from sentencepiece import sentencepiece_model_pb2

from prompt_tuning.checkpoints import base_model
from prompt_tuning.cli import main as cli
from prompt_tuning.inference import predictor
from prompt_tuning.training import loop, step

ABSENT = object()
TSV = "text\tlabel\nshe liked the good film .\tgood\nhe saw the bad film .\tbad\n"
TASK_MODULE = """
import seqio
from prompt_tuning.data import seqio_tasks
seqio.TaskRegistry.add(
    "films",
    source=seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train", "test"]),
    preprocessors=[],
    output_features=seqio_tasks.text_features(),
)
"""


@dataclasses.dataclass
class Broken:
    """Makes what is wrong, in a folder of its own."""

    folder: pathlib.Path
    model: pathlib.Path

    def file(self, content: str | bytes = TSV, name: str = "a.tsv") -> pathlib.Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def checkpoint(self, **config: Any) -> pathlib.Path:
        """A copy of the model with another config.json."""
        copy = pathlib.Path(shutil.copytree(self.model, self.folder / "copy"))
        text = json.loads((copy / "config.json").read_text()) | config
        (copy / "config.json").write_text(json.dumps(text))
        return copy

    def truncated(self, name: str) -> pathlib.Path:
        copy = self.checkpoint()
        os.truncate(copy / name, (copy / name).stat().st_size - 9)
        return copy

    def t5x(self, content: Any) -> pathlib.Path:
        """A T5X checkpoint with this in its index."""
        optimizer = {"target": content, "state": {"step": np.asarray(3)}}
        index = serialization.msgpack_serialize({"version": 3, "optimizer": optimizer})
        (self.folder / "checkpoint_3").mkdir()
        (self.folder / "checkpoint_3" / "checkpoint").write_bytes(index)
        return self.folder / "checkpoint_3"

    def bert(self) -> pathlib.Path:
        (self.folder / "bert").mkdir()
        self.file('{"model_type": "bert", "hidden_size": 768}', "bert/config.json")
        return self.folder / "bert"

    def prompt(self, array: Any, card: str | None = None) -> pathlib.Path:
        np.save(self.folder / "p.npy", array)
        if card is not None:
            self.file(card, "p.json")
        return self.folder / "p.npy"

    def long_prompt(self) -> pathlib.Path:
        """A prompt with 10**9 rows, by its header."""
        content = self.prompt(np.ones((4, 16), np.float32)).read_bytes()
        return self.file(content.replace(b"(4, 16), }         ", b"(1000000000, 16), }"), "p.npy")

    def packed_prompt(self, content: str) -> pathlib.Path:
        """A prompt of several parameters with this content, and its card."""
        self.file('{"length": 4}', "p.json")
        return self.file(content, "p.npz")

    def vocabulary(self) -> pathlib.Path:
        """One that holds its extra ids, as T5X's does."""
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString((self.model / "spiece.model").read_bytes())
        for i in reversed(range(100)):
            proto.pieces.add(piece=f"<extra_id_{i}>", type=proto.SentencePiece.USER_DEFINED)
        return self.file(proto.SerializeToString(), "full.model")

    def task(self, name: str, **settings: Any) -> dict[str, Any]:
        """Settings that read a registered task."""
        (self.folder / "film_tasks.py").write_text(TASK_MODULE)
        files = dict.fromkeys(("TRAIN_FILE", "EVAL_FILE", "INFER_FILE"))
        names = {"MIXTURE_OR_TASK_NAME": name, "MIXTURE_OR_TASK_MODULE": "film_tasks"}
        return files | names | settings

    def glue(self, content: str, **settings: Any) -> dict[str, Any]:
        """Settings that read SST-2 from a train.tsv of this content."""
        self.file(content, "train.tsv")
        names = {"MIXTURE_OR_TASK_NAME": "glue_sst2_v200", "TASK_DATA_DIR": self.folder}
        return dict.fromkeys(("TRAIN_FILE", "EVAL_FILE", "INFER_FILE")) | names | settings


# Name -> (command, settings, what the message says).
CASES = {
    "misspelt macro": ("train", {"TRAIN_STESP": 3}, ["TRAIN_STESP", "Did you mean: TRAIN_STEPS"]),
    "place of a prompt": (
        "train",
        {"PROMPT_PLACE": "before"},
        ["PROMPT_PLACE is 'before'; expected one of", "'suffix'"],
    ),
    "required macro": (
        "train",
        {"TRAIN_STEPS": ABSENT},
        ["required settings are not set", "--gin.TRAIN_STEPS="],
    ),
    "steps behind": ("train", {"TRAIN_STEPS": 6}, ["TRAIN_STEPS=6", "starting step 1000"]),
    "missing file": (
        "train",
        {"TRAIN_FILE": "none.tsv"},
        ["TRAIN_FILE none.tsv does not exist"],
    ),
    "empty file": (
        "train",
        lambda broken: {"EVAL_FILE": broken.file("")},
        ["EVAL_FILE", "a.tsv has no row of data; expected at least one"],
    ),
    "truncated gzip": (
        "train",
        lambda broken: {"TRAIN_FILE": broken.file(gzip.compress(TSV.encode())[:-9], "a.tsv.gz")},
        ["TRAIN_FILE", "a.tsv.gz is not a complete gzip file"],
    ),
    "not UTF-8": (
        "train",
        lambda broken: {"TRAIN_FILE": broken.file(TSV.encode() + b"na\xefve\tbad\n")},
        ["TRAIN_FILE", "a.tsv, line 4: not UTF-8"],
    ),
    "column of the input": (
        "infer",
        {"INPUT_TEMPLATE": "sentence: {sentence}"},
        [
            "INFER_FILE",
            "line 1: no column 'sentence'; expected one of ['text']. Use exactly these names",
        ],
    ),
    "format of a column": (
        "infer",
        {"INPUT_TEMPLATE": "say: {text:>5}"},
        ["INPUT_TEMPLATE 'say: {text:>5}' has a format after 'text'; expected", "Write '{text}'"],
    ),
    "column of the target": (
        "eval",
        {"TARGET_COLUMN": "gold"},
        ["EVAL_FILE", "no column 'gold'; expected one of ['text', 'label']. Set TARGET_COLUMN"],
    ),
    "label outside the map": (
        "train",
        lambda broken: {"TRAIN_FILE": broken.file(), "LABEL_MAP": {"good": "1"}},
        ["TRAIN_FILE", "a.tsv, line 3: label 'bad' is not in LABEL_MAP; expected one of ['good']"],
    ),
    "cut label": (
        "train",
        {"TASK_FEATURE_LENGTHS": {"inputs": 40, "targets": 1}},
        ["labels of train are longer than TASK_FEATURE_LENGTHS['targets'] = 1", "to at least"],
    ),
    "cut label to evaluate": (
        "eval",
        {"TASK_FEATURE_LENGTHS": {"inputs": 40, "targets": 1}},
        ["labels of eval are longer than TASK_FEATURE_LENGTHS['targets'] = 1", "to at least"],
    ),
    "a mean over padding of packed rows": (
        "train",
        {"LOSS_NORMALIZING_FACTOR": "NUM_TOTAL_TARGET_TOKENS"},
        ["LOSS_NORMALIZING_FACTOR='NUM_TOTAL_TARGET_TOKENS' counts padding", "Set PACK=False"],
    ),
    "rematerialisation": (
        "train",
        {"REMAT_POLICY": "some"},
        ["REMAT_POLICY='some' is unknown; expected 'none', 'minimal' or 'full'"],
    ),
    "lengths": (
        "train",
        {"TASK_FEATURE_LENGTHS": {"input": 40}},
        ["TASK_FEATURE_LENGTHS is {'input': 40}", "'inputs' and 'targets'"],
    ),
    "no data": (
        "train",
        {"TRAIN_FILE": None, "EVAL_FILE": None, "INFER_FILE": None},
        ["no data", "MIXTURE_OR_TASK_NAME", "TRAIN_FILE"],
    ),
    "no file for the split": (
        "train",
        {"EVAL_FILE": None},
        ["EVAL_FILE is not set; expected the file of split 'validation'"],
    ),
    "name and file": (
        "train",
        {"MIXTURE_OR_TASK_NAME": "films"},
        ["both MIXTURE_OR_TASK_NAME (films) and", "'TRAIN_FILE'", "expected one of them"],
    ),
    "split of files": (
        "eval",
        {"SPLIT": "tset"},
        ["SPLIT is 'tset'; expected one of train, validation, infer"],
    ),
    "split of a task": (
        "eval",
        lambda broken: broken.task("films", SPLIT="tset"),
        ["films has no split 'tset'; expected one of ['test', 'train']", "Set SPLIT"],
    ),
    "task": (
        "eval",
        lambda broken: broken.task("flims"),
        ["MIXTURE_OR_TASK_NAME 'flims'", "Did you mean: films", "MIXTURE_OR_TASK_MODULE"],
    ),
    "task of ours": (
        "train",
        lambda broken: broken.glue("", MIXTURE_OR_TASK_NAME="gleu_sst2_v200", TASK_DATA_DIR=None),
        ["MIXTURE_OR_TASK_NAME 'gleu_sst2_v200'", "Did you mean: glue_sst2_v200"],
    ),
    "file of another task": (
        "train",
        lambda broken: broken.glue("sentence1\tsentence2\tlabel\na\tb\tentailment\n"),
        ["TASK_DATA_DIR", "train.tsv: no sentence in ['sentence1', 'sentence2', 'label']"],
    ),
    "folder without the file": (
        "eval",
        lambda broken: broken.glue("", SPLIT="validation"),
        [
            "TASK_DATA_DIR",
            "has none of dev.tsv, nor a folder SST-2 with one of them. Set TASK_DATA_DIR",
        ],
    ),
    "no folder of original files": (
        "infer",
        lambda broken: broken.glue("", TASK_DATA_DIR="none", SPLIT="test"),
        ["TASK_DATA_DIR none is not a folder"],
    ),
    "original files and files": (
        "train",
        {"TASK_DATA_DIR": "here"},
        ["both TASK_DATA_DIR (here) and ['EVAL_FILE', 'INFER_FILE', 'TRAIN_FILE'] are set"],
    ),
    "module": (
        "eval",
        lambda broken: broken.task("films", MIXTURE_OR_TASK_MODULE="none"),
        ["MIXTURE_OR_TASK_MODULE 'none' cannot be imported"],
    ),
    "missing checkpoint": (
        "train",
        {"INITIAL_CHECKPOINT_PATH": "none"},
        ["none does not exist; expected a checkpoint folder. Set INITIAL_CHECKPOINT_PATH"],
    ),
    "no checkpoint": (
        "eval",
        lambda broken: {"INITIAL_CHECKPOINT_PATH": broken.folder},
        ["neither a file `checkpoint` (T5X)", "nor `config.json`", "INITIAL_CHECKPOINT_PATH"],
    ),
    "checkpoint of another size": (
        "eval",
        {"EMBED_DIM": 32},
        ["embed_dim is 16 in config.json, and 32", "INITIAL_CHECKPOINT_PATH", "gin file"],
    ),
    "T5X checkpoint of another size": (
        "train",
        lambda broken: {
            "INITIAL_CHECKPOINT_PATH": broken.t5x({"a": {"b": np.ones(3, np.float32)}})
        },
        ["surplus: a/b (3,)", "missing: token_embedder/embedding", "INITIAL_CHECKPOINT_PATH"],
    ),
    "JSON without end": (
        "infer",
        lambda broken: {"INFER_FILE": broken.file("[" * 100_000, "a.jsonl")},
        ["INFER_FILE", "a.jsonl, line 1: not JSON"],
    ),
    "much in a small gzip": (
        "train",
        lambda broken: {"TRAIN_FILE": broken.file(gzip.compress(bytes(2**25)), "a.tsv.gz")},
        ["TRAIN_FILE", "a.tsv.gz", "over 200 times its size; decompress it with gunzip"],
    ),
    "config of a billion layers": (
        "train",
        lambda broken: {"INITIAL_CHECKPOINT_PATH": broken.checkpoint(num_layers=10**9)},
        ["copy/config.json has num_layers 1000000000", "tensors; expected", "Copy the model"],
    ),
    "config of texts": (
        "eval",
        lambda broken: {"INITIAL_CHECKPOINT_PATH": broken.checkpoint(d_model="16")},
        ["copy/config.json has d_model '16'; expected an integer", "Copy"],
    ),
    "damaged T5X index": (
        "train",
        lambda broken: {"INITIAL_CHECKPOINT_PATH": broken.t5x({"a": "text"})},
        ["checkpoint is not a T5X checkpoint or is damaged", "INITIAL_CHECKPOINT_PATH"],
    ),
    "T5X index that points elsewhere": (
        "train",
        lambda broken: {
            "INITIAL_CHECKPOINT_PATH": broken.t5x(
                {"a": {"driver": "zarr", "kvstore": {"driver": "http", "path": "/etc/passwd"}}}
            )
        },
        ["refers to a path outside its folder ('/etc/passwd')", "Use another copy"],
    ),
    "truncated weights": (
        "train",
        lambda broken: {"INITIAL_CHECKPOINT_PATH": broken.truncated("model.safetensors")},
        ["copy/model.safetensors is damaged", "Copy"],
    ),
    "truncated config": (
        "train",
        lambda broken: {"INITIAL_CHECKPOINT_PATH": broken.truncated("config.json")},
        ["copy/config.json is not a JSON object"],
    ),
    "relu checkpoint": (
        "train",
        lambda broken: {"INITIAL_CHECKPOINT_PATH": broken.checkpoint(feed_forward_proj="relu")},
        ["mlp_activations is ('relu',) in config.json, and ('gelu', 'linear')", "gin file"],
    ),
    "relu model": (
        "train",
        {"MLP_ACTIVATIONS": ("relu",)},
        ["mlp_activations is ('gelu', 'linear') in config.json, and ('relu',)"],
    ),
    "mT5": (
        "eval",
        lambda broken: {
            "INITIAL_CHECKPOINT_PATH": broken.checkpoint(model_type="mt5", vocab_size=250112)
        },
        ["256 rows", "config.json has vocab_size 250112", "Set vocab_size to 256 in config.json"],
    ),
    "BERT": (
        "eval",
        lambda broken: {"INITIAL_CHECKPOINT_PATH": broken.bert()},
        ["model_type 'bert'", "expected one of t5, mt5, umt5", "INITIAL_CHECKPOINT_PATH"],
    ),
    "vocabulary of another model": (
        "train",
        {"EXTRA_IDS": 300},
        ["the model's embedding has 256 rows", "VOCABULARY_FILE and EXTRA_IDS"],
    ),
    "missing vocabulary": (
        "train",
        {"VOCABULARY_FILE": "none.model"},
        ["none.model does not exist", "VOCABULARY_FILE"],
    ),
    "no vocabulary": (
        "train",
        lambda broken: {"VOCABULARY_FILE": broken.file()},
        ["a.tsv is not a sentencepiece model", "VOCABULARY_FILE"],
    ),
    "vocabulary that cannot be exported": (
        "train",
        lambda broken: {
            "VOCABULARY_FILE": broken.vocabulary(),
            "EXTRA_IDS": 0,
            "TRAINABLE": [".*"],
        },
        ["full.model already contains the extra ids", "Set VOCABULARY_FILE"],
    ),
    "more labels than prompt": (
        "train",
        {"CLASS_LABELS": ["good", "bad", "long", "dull", "film"]},
        ["CLASS_LABELS has 5 labels, but the prompt has only 4", "Set PROMPT_LENGTH to at least 5"],
    ),
    "missing prompt": (
        "eval",
        {"PROMPT_FILE": "none.npy"},
        ["PROMPT_FILE none.npy does not exist"],
    ),
    "no prompt by name": ("infer", {"PROMPT_FILE": {}}, ["PROMPT_FILE is empty"]),
    "an empty list of prompts": ("neighbors", {"PROMPT_FILE": []}, ["PROMPT_FILE is empty"]),
    "no prompt to look at": ("neighbors", {"PROMPT_FILE": None}, ["PROMPT_FILE is empty"]),
    "no nearest tokens": (
        "neighbors",
        {"PROMPT_FILE": "p.npy", "NUM_NEIGHBORS": 0},
        ["NUM_NEIGHBORS=0", "an integer of at least 1"],
    ),
    "prompt of another shape": (
        "infer",
        lambda broken: {"PROMPT_FILE": broken.prompt(np.ones((4, 8), np.float32))},
        ["PROMPT_FILE has shape (4, 8); expected (4, 16)"],
    ),
    "prompt with NaN": (
        "eval",
        lambda broken: {"PROMPT_FILE": broken.prompt(np.full((4, 16), np.nan, np.float32))},
        ["PROMPT_FILE", "p.npy has NaN"],
    ),
    "prompt of objects": (
        "neighbors",
        lambda broken: {"PROMPT_FILE": broken.prompt(np.array([{}], object))},
        ["PROMPT_FILE", "p.npy is not a .npy file of numbers"],
    ),
    "pickled prompt": (
        "eval",
        lambda broken: {"PROMPT_FILE": broken.file(pickle.dumps(np.ones((4, 16))), "p.npy")},
        ["PROMPT_FILE", "p.npy is not a .npy file of numbers"],
    ),
    "prompt that its header makes larger": (
        "eval",
        lambda broken: {"PROMPT_FILE": broken.long_prompt()},
        ["PROMPT_FILE", "p.npy is not a .npy file of numbers"],
    ),
    "prompt that is no zip file": (
        "eval",
        lambda broken: {"PROMPT_FILE": broken.packed_prompt("PK")},
        ["PROMPT_FILE", "p.npz is not a .npz file of numbers"],
    ),
    "card of something else": (
        "eval",
        lambda broken: {"PROMPT_FILE": broken.prompt(np.ones((4, 16)), '{"place": 5}')},
        ["p.json has place 5", "Restore or delete it"],
    ),
    "Orbax checkpoint without its marker": (
        "infer",
        lambda broken: {"INITIAL_CHECKPOINT_PATH": broken.file("", "_CHECKPOINT_METADATA").parent},
        ["is incomplete: it has no commit_success.txt"],
    ),
    "Mesh TensorFlow checkpoint": (
        "eval",
        lambda broken: {
            "INITIAL_CHECKPOINT_PATH": broken.file("", "model.ckpt-5.index").with_suffix("")
        },
        ["is a Mesh TensorFlow checkpoint", "INITIAL_CHECKPOINT_PATH"],
    ),
    "format to export": (
        "export",
        {"EXPORT_FORMAT": "pt"},
        ["EXPORT_FORMAT is 'pt'; expected one of ['huggingface', 't5x']"],
    ),
    "run to export": (
        "export",
        lambda broken: {"MODEL_DIR": broken.folder},
        ["MODEL_DIR", "has no checkpoint_<step>"],
    ),
    "batch": (
        "train",
        {"BATCH_SIZE": 12},
        ["12", "expected a multiple of the 8 data-parallel shards", "BATCH_SIZE"],
    ),
    "batch to answer": (
        "infer",
        {"BATCH_SIZE": 12},
        ["BATCH_SIZE is 12; expected a multiple of the 8 data-parallel shards"],
    ),
    "microbatches": (
        "train",
        {"NUM_MICROBATCHES": 3},
        ["NUM_MICROBATCHES is 3; expected a divisor of BATCH_SIZE=16"],
    ),
    **{
        f"{name}={value!r} of {verb}": (
            verb,
            {name: value},
            [f"{name} is {value!r}; expected an integer of at least {least}", f"Set {name}"],
        )
        for verb, name, value, least in [
            ("train", "EVAL_STEPS", -1, 0),
            ("train", "EVALUATOR_NUM_EXAMPLES", 0, 1),
            ("train", "NUM_MICROBATCHES", -1, 1),
            ("train", "NUM_MICROBATCHES", 0, 1),
            ("eval", "EVALUATOR_NUM_EXAMPLES", 0, 1),
            ("eval", "JSON_WRITE_N_RESULTS", -1, 0),
        ]
    },
    **{
        f"{name}={value!r} of {verb}": (verb, {name: value}, [f"{name}={value!r} has type {kind}"])
        for verb, name, value, kind in [
            ("train", "RANDOM_SEED", None, "NoneType; expected an integer or a list of integer"),
            ("train", "EVAL_PERIOD", None, "NoneType; expected an integer"),
            ("train", "JSON_WRITE_N_RESULTS", "5", "str; expected an integer or None"),
            ("infer", "RANDOM_SEED", None, "NoneType; expected an integer"),
            ("infer", "NUM_SHARDS", None, "NoneType; expected an integer"),
            ("infer", "SHARD_ID", "0", "str; expected an integer. Set --gin.SHARD_ID=0"),
        ]
    },
    **{
        f"{name} is no path": (
            verb,
            {name: 5},
            [f"{name}=5 has type int; expected a str", f"{name}=\"'5'\""],
        )
        for verb, name in [
            ("train", "MODEL_DIR"),
            ("eval", "EVAL_OUTPUT_DIR"),
            ("infer", "INFER_OUTPUT_DIR"),
        ]
    },
    "lengths that are a number": (
        "train",
        {"TASK_FEATURE_LENGTHS": 128},
        ["TASK_FEATURE_LENGTHS=128 has type int; expected", "{'inputs': 512, 'targets': 8}"],
    ),
    "a name for partitions": (
        "train",
        {"NUM_PARTITIONS": "8"},
        ["NUM_PARTITIONS='8' has type str", "--gin.NUM_PARTITIONS=8"],
    ),
    "partitions": ("train", {"NUM_PARTITIONS": 3}, ["NUM_PARTITIONS is 3", "8 devices"]),
    "trainable": (
        "train",
        {"TRAINABLE": ["encoder/promt/.*"]},
        ["encoder/promt/.*", "TRAINABLE"],
    ),
}
# What only reading the weights, or the model's parameters, tells.
LATE = {
    "damaged T5X index",
    "T5X index that points elsewhere",
    "T5X checkpoint of another size",
    "Orbax checkpoint without its marker",
    "trainable",
    "vocabulary that cannot be exported",
}
FOLDERS = {
    "export": "EXPORT_DIR",
    "train": "MODEL_DIR",
    "eval": "EVAL_OUTPUT_DIR",
    "infer": "INFER_OUTPUT_DIR",
}


def unreachable(*_args, **_settings):
    raise AssertionError("the mistake was not noticed in time")


@pytest.fixture
def answer(tiny_job, tmp_path, monkeypatch, capsys):
    """(command, settings) -> message, of a command that must fail before the first step."""
    prompt = tmp_path / "prompt.npy"
    np.save(prompt, np.ones((4, 16), np.float32))
    defaults = {
        "train": {"TRAIN_STEPS": 1003, "BATCH_SIZE": 16},
        "eval": {"PROMPT_FILE": prompt, "BATCH_SIZE": 16},
        "infer": {"PROMPT_FILE": prompt, "BATCH_SIZE": 16},
        "neighbors": {"PROMPT_FILE": prompt},
        "export": {},
    }
    monkeypatch.setattr(step, "make_step", unreachable)
    monkeypatch.syspath_prepend(tmp_path)

    def run(verb, settings, folder=tmp_path / "out"):
        given = defaults[verb] | ({FOLDERS[verb]: folder} if verb in FOLDERS else {}) | settings
        given = {name: value for name, value in given.items() if value is not ABSENT}
        monkeypatch.setattr(sys, "argv", ["prompt-tuning", *tiny_job.command(verb, **given)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_answered_before_anything_is_done(answer, tiny, tmp_path, monkeypatch, case):
    verb, settings, parts = CASES[case]
    if callable(settings):
        settings = settings(Broken(tmp_path, pathlib.Path(tiny.checkpoint)))
    if case not in LATE:
        monkeypatch.setattr(base_model, "load", unreachable)
    message = answer(verb, settings)
    assert all(part in message for part in parts), message
    assert "In call to configurable" not in message and "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_a_tfds_folder_without_the_data_set(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", str(tmp_path))
    message = answer("train", Broken(tmp_path, tmp_path).glue("", TASK_DATA_DIR=None))
    assert f"glue/sst2:2.0.0 does not exist in {tmp_path}/glue/sst2/2.0.0" in message
    assert f"tfds build glue/sst2:2.0.0 --data_dir={tmp_path}" in message
    assert "--tfds_data_dir" in message and "TASK_DATA_DIR" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", FOLDERS)
def test_a_folder_that_cannot_be_written_is_named(answer, tmp_path, verb):
    (tmp_path / "file").write_text("here")
    message = answer(verb, {}, tmp_path / "file" / "run")
    assert f"cannot write to {FOLDERS[verb]} {tmp_path}/file/run" in message
    assert f"Set {FOLDERS[verb]}" in message


@pytest.fixture(scope="module")
def finished(tiny_job, tmp_path_factory):
    """The folder of a run of one step."""
    folder = tmp_path_factory.mktemp("finished")
    command = tiny_job.command("train", MODEL_DIR=folder, TRAIN_STEPS=1001, BATCH_SIZE=16)
    cli.run([*command, "--gin.trainer.train.eval_dataset=None"])
    return folder


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"PROMPT_LENGTH": 5}, ["PROMPT_LENGTH: 4 -> 5", "Set another MODEL_DIR"]),
        ({"TRAINABLE": [".*"]}, ["TRAINABLE: ['.*/prompt/.*'] -> ['.*']"]),
    ],
)
def test_a_folder_with_another_run_is_left_as_it_is(answer, finished, settings, parts):
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    message = answer("train", settings, finished)
    assert all(part in message for part in [f"MODEL_DIR {finished}", *parts]), message
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*")} == before


class FirstStepError(Exception):
    """A run has come to its first step."""


def test_cut_inputs_are_counted_and_told_once(tiny_job, tmp_path, monkeypatch, capsys):
    def taking(*_):
        raise FirstStepError

    monkeypatch.setattr(loop, "_take_steps", taking)
    monkeypatch.setattr(loop, "_compile", lambda *_: None)
    predictions = [predictor.Prediction()] * 30
    monkeypatch.setattr(predictor.Predictor, "predict", lambda *_, **__: predictions)
    arguments = tiny_job.command(
        "train",
        MODEL_DIR=tmp_path,
        TRAIN_STEPS=1002,
        BATCH_SIZE=16,
        TASK_FEATURE_LENGTHS={"inputs": 6, "targets": 8},
    )
    with pytest.raises(FirstStepError):
        cli.run(arguments)
    warnings = [line for line in capsys.readouterr().err.split("\n") if "is cut off" in line]
    assert len(warnings) == 2
    for name, count in (("train", 162), ("eval", 30)):
        (warning,) = (line for line in warnings if f"{name}: the inputs" in line)
        assert (
            f"{count} of {count} examples (100 %) have more than TASK_FEATURE_LENGTHS['inputs'] = 6"
            in warning
        )
