"""Converts adapters between this package and Hugging Face PEFT and compares their outputs.

This package tunes a prompt, a prefix and IA3 on the embedded reviews; PEFT loads them after
`prompt-tuning convert`. PEFT tunes adapters (prompt tuning, P-tuning, prefix tuning, IA3, LoRA), and
`convert` reads them. In each case both packages compute logits of the labels and greedy predictions
for the same --inputs token ids. PEFT runs in --peer-python, a Python with torch, transformers and
peft.

Prints a table. The exit code is 1 if a prediction differs, or a logit by more than 2e-5 and by more
than twice the difference between PEFT in float32 and in float64.

PEFT 0.21.2 ignores the prefix in generation with transformers 5.24; use transformers 5.23.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from prompt_tuning import assets
from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.cli import main as cli
from prompt_tuning.data import vocabularies
from prompt_tuning.methods import base, ia3, prefix
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import state

PEER = pathlib.Path(__file__).with_name("peft_round_trip_peer.py")
BASE = assets.path("t5_mini")
VOCABULARY = vocabularies.SentencePiece(f"{BASE}/spiece.model", 100)
TOLERANCE, PREDICTION_LENGTH, PROMPT_LENGTH = 2e-5, 6, 20
MODEL = "--gin_file=models/t5_mini.gin"
# Method of this package -> its gin files.
METHODS = {
    "prompt": [],
    "prefix": ["--gin_file=prompts/prefix.gin"],
    "ia3": ["--gin_file=prompts/ia3.gin"],
}
# Method of PEFT -> suffix of the converted file; none for a model folder.
PEFT_METHODS = {
    "PROMPT_TUNING": ".npy",
    "P_TUNING": ".npy",
    "PREFIX_TUNING": ".npz",
    "IA3": ".npz",
    "LORA": "",
}


class Outputs(NamedTuple):
    """Logits [B, L, V] of the targets, predicted ids [B, A], and logits in float64 (PEFT only)."""

    logits: np.ndarray
    predictions: np.ndarray
    exact_logits: np.ndarray | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the comparison of every adapter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peer-python", required=True, help="Python with torch, transformers and peft"
    )
    parser.add_argument(
        "--steps", type=int, default=200, help="training steps of each package (default: 200)"
    )
    parser.add_argument("--inputs", type=int, default=100, help="number of inputs (default: 100)")
    parser.add_argument("--folder", help="new folder for the files (default: a temporary one)")
    options = parser.parse_args(arguments)
    _check_peer(options.peer_python)
    heads = ("largest difference", "rounding of PEFT", "equal predictions", "distinct texts")
    failed, rows = False, [_row("", *heads)]
    with _folder(options.folder) as folder:
        for name, outputs, peer, is_target in _compare(folder, options):
            difference = float(np.abs(outputs.logits - peer.logits)[is_target].max())
            rounding = float(np.abs(peer.exact_logits - peer.logits)[is_target].max())
            equal = int((outputs.predictions == peer.predictions).all(axis=1).sum())
            texts = {VOCABULARY.decode(row) for row in outputs.predictions}
            counts = f"{equal} of {len(is_target)}", len(texts)
            rows.append(_row(name, f"{difference:.2e}", f"{rounding:.2e}", *counts))
            print(rows[-1], flush=True)
            # Both packages round about equally.
            failed |= difference > max(TOLERANCE, 2 * rounding) or equal < len(is_target)
    print("", *rows, sep="\n")
    sys.exit(failed)


def _check_peer(python: str) -> None:
    try:
        line = [python, "-c", "import torch, transformers, peft"]
        subprocess.run(line, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        last = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        sys.exit(
            f"peft_round_trip: {python} cannot import torch, transformers and peft ({last}); "
            "set another --peer-python"
        )


def _row(name: str, *columns: object) -> str:
    return f"{name:32}" + "".join(f"{column!s:>20}" for column in columns)


@contextlib.contextmanager
def _folder(path: str | None) -> Iterator[pathlib.Path]:
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)
    else:
        pathlib.Path(path).mkdir(parents=True)
        yield pathlib.Path(path)


def _compare(folder: pathlib.Path, options: argparse.Namespace):
    """Yields (name, own outputs, PEFT's outputs, mask of targets) for each method and direction."""
    batch = _batch("restaurants", options.inputs)
    np.savez(folder / "batch.npz", **batch)
    np.savez(folder / "train.npz", **_batch("train", None))
    is_target = batch["targets"] > 0
    for name in METHODS:
        adapter = folder / f"adapter_{name}"
        file = _tune(name, folder / f"run_{name}", options.steps)
        _convert(file, adapter)
        peer = _run_peer("use", folder, options, adapter)
        yield f"{name}, loaded by PEFT", _predict(batch, file), peer, is_target
    for method, suffix in PEFT_METHODS.items():
        adapter, file = folder / method, folder / f"from_{method}{suffix}"
        peer = _run_peer("tune", folder, options, adapter)
        _convert(adapter, file)
        yield f"{method} of PEFT", _predict(batch, file), peer, is_target
        if suffix == ".npy":
            yield f"{method} of PEFT, its folder", _predict(batch, adapter), peer, is_target
        if not suffix:
            # A merged model is a model folder of transformers too.
            merged = _run_peer("plain", folder, options, file)
            yield f"{method}, merged", _predict(batch, file), merged, is_target


def _batch(name: str, count: int | None) -> dict[str, np.ndarray]:
    """Returns `inputs` [B, T] and `targets` [B, L] of embedded reviews: ids with EOS and padding."""
    lines = pathlib.Path(assets.path(f"reviews/{name}.tsv")).read_text().splitlines()[1:]
    columns = zip(*(line.split("\t") for line in lines[:count]), strict=True)
    return {
        part: _padded(texts) for part, texts in zip(("inputs", "targets"), columns, strict=True)
    }


def _padded(texts: Sequence[str]) -> np.ndarray:
    rows = [[*VOCABULARY.encode(text), vocabularies.EOS_ID] for text in texts]
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], np.int32)


def _tune(name: str, run: pathlib.Path, steps: int) -> pathlib.Path:
    first = huggingface.read_step(BASE)
    files = ["--gin_file=tasks/reviews.gin", *METHODS[name], "--gin_file=runs/train.gin"]
    settings = {"MODEL_DIR": str(run), "TRAIN_STEPS": first + steps, "EVAL_PERIOD": steps}
    if name in ("prompt", "prefix"):
        settings["PROMPT_LENGTH"] = PROMPT_LENGTH
    cli.run(["train", MODEL, *files, *(f"--gin.{x}={y!r}" for x, y in settings.items())])
    (file,) = (run / "prompts").glob(f"prompt_{first + steps}.np?")
    return file


def _convert(source: pathlib.Path, target: pathlib.Path) -> None:
    flags = [f"--gin.PROMPT_FILE={str(source)!r}", f"--gin.OUTPUT={str(target)!r}"]
    cli.run(["convert", MODEL, "--gin_file=runs/convert.gin", *flags])


def _predict(batch: Mapping[str, np.ndarray], path: pathlib.Path) -> Outputs:
    """Returns outputs of this package with a prompt file, an adapter folder, or a merged model."""
    ids, targets = batch["inputs"], batch["targets"]
    checkpoint, method = BASE, base.NO_METHOD
    if huggingface.is_checkpoint(path):
        checkpoint, initializer = str(path), None
    else:
        initializer = prompt_files.initializer(path)
        method = _method(path)
    network = model_lib.EncoderDecoderModel(huggingface.read_config(checkpoint), method)
    loaded = state.load_model(
        network, VOCABULARY, checkpoint=checkpoint, prompt_initializer=initializer
    )
    soft_ids = np.tile(loaded.soft_tokens.ids, (len(ids), 1))
    ids = np.concatenate([soft_ids, ids], axis=1)
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    parts = {"encoder_input": ids, "decoder_input": shifted, "decoder_target": targets}
    logits = jax.jit(network.logits)(loaded.params, {f"{x}_tokens": y for x, y in parts.items()})
    tokens, _ = jax.jit(network.predict, static_argnums=2)(loaded.params, ids, PREDICTION_LENGTH)
    return Outputs(np.asarray(logits), np.asarray(tokens)[:, 0])


def _method(path: pathlib.Path) -> base.Method:
    """Returns the method of a prompt file or an adapter folder."""
    length = prompt_files.length(path)
    if not length:
        return ia3.IA3()
    if path.suffix == prompt_files.SUFFIX_OF_LEAVES:
        return prefix.Prefix(length)
    return prompt_method.Prompt(length)


def _run_peer(
    action: str, folder: pathlib.Path, options: argparse.Namespace, path: pathlib.Path
) -> Outputs:
    """Returns outputs of PEFT; peft_round_trip_peer.py describes the arguments."""
    request: dict[str, Any] = {"action": action, "base": BASE, "path": str(path)}
    request |= {"prediction_length": PREDICTION_LENGTH, "prompt_length": PROMPT_LENGTH}
    request |= {"steps": options.steps, "folder": str(folder), "output": str(folder / "peer.npz")}
    subprocess.run([options.peer_python, str(PEER), json.dumps(request)], check=True)
    with np.load(folder / "peer.npz") as file:
        return Outputs(file["logits"], file["predictions"], file["exact_logits"])


if __name__ == "__main__":
    main()
