"""Trades prompts with Hugging Face PEFT on the embedded model and compares logits and answers, both ways.

Here a prompt, a prefix and IA3's factors are tuned on the embedded reviews, and become adapters with
`prompt-tuning convert`. PEFT loads them on the same weights; then it tunes adapters of its own
(prompt tuning, P-tuning, prefix tuning, IA3, LoRA), which come back with the same command. Each time both sides tell
the logits of the labels and what they answer to the same --inputs inputs, greedily. PEFT runs in
--peer-python, an environment with torch, transformers and peft; it gets the ids of tokens, as it needs
no vocabulary then. Ends with a table, and with exit code 1 where an answer differs, or a logit by more
than 2e-5 and more than twice what PEFT's float32 differs from its own float64.

PEFT 0.21.2 hands generate a prefix under a name that transformers 5.24 does not read: its answers are
those without prefix. Take transformers 5.23 there.
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
TOLERANCE, ANSWER_LENGTH, PROMPT_LENGTH = 2e-5, 6, 20
MODEL = "--gin_file=models/t5_mini.gin"
# What is tuned here, and its gin files.
TUNED = {
    "prompt": [],
    "prefix": ["--gin_file=prompts/prefix.gin"],
    "ia3": ["--gin_file=prompts/ia3.gin"],
}
# What PEFT tunes, and as what it comes back.
THEIRS = {
    "PROMPT_TUNING": ".npy",
    "P_TUNING": ".npy",
    "PREFIX_TUNING": ".npz",
    "IA3": ".npz",
    "LORA": "",
}


class Told(NamedTuple):
    """What a side says: logits [B, L, V] of the targets, answers [B, A] (ids), and PEFT in float64."""

    logits: np.ndarray
    answers: np.ndarray
    exact: np.ndarray | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses, trades, compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peer-python", required=True, help="python with torch, transformers, peft"
    )
    parser.add_argument("--steps", type=int, default=200, help="of training, on each side")
    parser.add_argument("--inputs", type=int, default=100, help="inputs to answer")
    parser.add_argument("--folder", help="keeps the files there; a temporary one by default")
    options = parser.parse_args(arguments)
    _check_peer(options.peer_python)
    heads = ("largest difference", "PEFT's own rounding", "equal answers", "different texts")
    failed, rows = False, [_row("", *heads)]
    with _folder(options.folder) as folder:
        for name, ours, theirs, real in _trade(folder, options):
            difference = float(np.abs(ours.logits - theirs.logits)[real].max())
            rounding = float(np.abs(theirs.exact - theirs.logits)[real].max())
            equal = int((ours.answers == theirs.answers).all(axis=1).sum())
            texts = {VOCABULARY.decode(row) for row in ours.answers}
            figures = f"{difference:.2e}", f"{rounding:.2e}", f"{equal} of {len(real)}", len(texts)
            rows.append(_row(name, *figures))
            print(rows[-1], flush=True)
            # Both sides round, each as much as the other.
            failed |= difference > max(TOLERANCE, 2 * rounding) or equal < len(real)
    print("", *rows, sep="\n")
    sys.exit(failed)


def _check_peer(python: str) -> None:
    try:
        line = [python, "-c", "import torch, transformers, peft"]
        subprocess.run(line, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        last = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        sys.exit(
            f"peft_round_trip: {python} cannot import torch, transformers and peft ({last}); give a python "
            "that can with --peer-python"
        )


def _row(name: str, *columns: object) -> str:
    return f"{name:32}" + "".join(f"{each!s:>20}" for each in columns)


@contextlib.contextmanager
def _folder(path: str | None) -> Iterator[pathlib.Path]:
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)
    else:
        pathlib.Path(path).mkdir(parents=True)
        yield pathlib.Path(path)


def _trade(folder: pathlib.Path, options: argparse.Namespace):
    """(what, ours, PEFT's, where targets are real) of each method and direction."""
    batch = _batch("restaurants", options.inputs)
    np.savez(folder / "batch.npz", **batch)
    np.savez(folder / "train.npz", **_batch("train", None))
    real = batch["targets"] > 0
    for name in TUNED:
        run, made = folder / f"run_{name}", folder / f"adapter_{name}"
        file = _tune(name, run, options.steps)
        _convert(file, made)
        yield (
            f"{name}, ours in PEFT",
            _here(batch, file),
            _there("use", folder, options, made),
            real,
        )
    for method, suffix in THEIRS.items():
        made, file = folder / method, folder / f"from_{method}{suffix}"
        told = _there("tune", folder, options, made)
        _convert(made, file)
        yield f"{method}, PEFT's here", _here(batch, file), told, real
        if suffix == ".npy":
            yield f"{method}, the folder itself", _here(batch, made), told, real
        if not suffix:
            # What is saved here is a model for transformers too.
            plain = _there("plain", folder, options, file)
            yield f"{method}, merged, in transformers", _here(batch, file), plain, real


def _batch(name: str, count: int | None) -> dict[str, np.ndarray]:
    """`inputs` [B, T] and `targets` [B, L] of embedded reviews: ids with an end, filled up with 0."""
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
    files = ["--gin_file=tasks/reviews.gin", *TUNED[name], "--gin_file=runs/train.gin"]
    settings = {"MODEL_DIR": str(run), "TRAIN_STEPS": first + steps, "EVAL_PERIOD": steps}
    if name in ("prompt", "prefix"):
        settings["PROMPT_LENGTH"] = PROMPT_LENGTH
    cli.run(["train", MODEL, *files, *(f"--gin.{x}={y!r}" for x, y in settings.items())])
    (file,) = (run / "prompts").glob(f"prompt_{first + steps}.np?")
    return file


def _convert(source: pathlib.Path, target: pathlib.Path) -> None:
    flags = [f"--gin.PROMPT_FILE={str(source)!r}", f"--gin.OUTPUT={str(target)!r}"]
    cli.run(["convert", MODEL, "--gin_file=runs/convert.gin", *flags])


def _here(batch: Mapping[str, np.ndarray], path: pathlib.Path) -> Told:
    """What this package says with a prompt file, an adapter's folder, or a merged model."""
    ids, targets = batch["inputs"], batch["targets"]
    checkpoint, method = BASE, base.NO_METHOD
    if huggingface.is_checkpoint(path):
        checkpoint, start = str(path), None
    else:
        start = prompt_files.initializer(path)
        method = _method(path)
    network = model_lib.EncoderDecoderModel(huggingface.read_config(checkpoint), method)
    loaded = state.load_model(network, VOCABULARY, checkpoint=checkpoint, prompt_initializer=start)
    soft = np.tile(loaded.soft_tokens.ids, (len(ids), 1))
    ids = np.concatenate([soft, ids], axis=1)
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    parts = {"encoder_input": ids, "decoder_input": shifted, "decoder_target": targets}
    logits = jax.jit(network.logits)(loaded.params, {f"{x}_tokens": y for x, y in parts.items()})
    tokens, _ = jax.jit(network.predict, static_argnums=2)(loaded.params, ids, ANSWER_LENGTH)
    return Told(np.asarray(logits), np.asarray(tokens)[:, 0])


def _method(path: pathlib.Path) -> base.Method:
    """The method of a prompt file or an adapter's folder."""
    length = prompt_files.length(path)
    if not length:
        return ia3.IA3()
    if path.suffix == prompt_files.SUFFIX_OF_LEAVES:
        return prefix.Prefix(length)
    return prompt_method.Prompt(length)


def _there(
    what: str, folder: pathlib.Path, options: argparse.Namespace, path: pathlib.Path
) -> Told:
    """What PEFT says with the adapter in `path`, which it tunes and saves there first where asked."""
    request: dict[str, Any] = {"what": what, "base": BASE, "folder": str(folder), "path": str(path)}
    request |= {"answer_length": ANSWER_LENGTH, "prompt_length": PROMPT_LENGTH}
    request |= {"steps": options.steps, "output": str(folder / "told.npz")}
    subprocess.run([options.peer_python, str(PEER), json.dumps(request)], check=True)
    with np.load(folder / "told.npz") as file:
        return Told(file["logits"], file["answers"], file["exact"])


if __name__ == "__main__":
    main()
