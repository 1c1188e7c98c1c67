"""Long input: infer killed again and again, and what infer and training keep in memory.

A model of one layer a stack, made here, so that many rows take minutes.
"""

import itertools
import json
import pathlib
import random
import signal
import subprocess
import time

import jax
import sentencepiece
import torture_job

from prompt_tuning import assets
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model

BATCH_SIZE = 64
GROWTH = 100e6  # bytes that do not count: what the allocators keep
SIZES = {
    "NUM_EMBEDDINGS": 512,
    "EMBED_DIM": 16,
    "NUM_HEADS": 2,
    "HEAD_DIM": 8,
    "MLP_DIM": 16,
    "NUM_ENCODER_LAYERS": 1,
    "NUM_DECODER_LAYERS": 1,
}


def infer(folder: pathlib.Path, tries: int | None) -> dict:
    """So many kills -9 at random moments; then the rest, beside a run that nothing has stopped."""
    kills, rows = tries or 20, 5_000 * (tries or 20)
    asked = write_rows(folder / "asked.jsonl", rows)
    job = _Job(folder)
    job.finish(asked, folder / "whole")
    answers = folder / "whole" / "asked-predict_with_aux.jsonl-00000-of-00001"
    partial = folder / "killed" / f"{answers.name}.partial"
    rng, done = random.Random(0), 0
    while done < kills:
        process = job.start(asked, folder / "killed")
        # Not before it answers: what is killed earlier has nothing to lose.
        target = _size(partial) + rng.uniform(0, 1.2) * _size(answers) / kills
        while process.poll() is None and _size(partial) <= target:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            break  # it was done before all kills: told below
        done += 1
    job.finish(asked, folder / "killed")
    same = (folder / "killed" / answers.name).read_bytes() == answers.read_bytes()
    lines = sum(1 for _ in answers.open("rb"))
    return {
        "tried": f"infer over {rows:,} rows with sampling, killed {done} times",
        "found": f"{lines:,} lines; byte for byte the same: {same}",
        "passed": same and lines == rows and done == kills,
    }


def infer_memory(folder: pathlib.Path, tries: int | None) -> dict:
    """Peaks of resident memory while so many rows are answered."""
    rows = tries or 1_000_000
    asked = write_rows(folder / "asked.jsonl", rows)
    process = _Job(folder).start(asked, folder / "out")
    answers = folder / "out" / "asked-predict_with_aux.jsonl-00000-of-00001"
    seen = []
    while process.poll() is None:
        seen.append((_size(answers.with_name(f"{answers.name}.partial")), _resident(process.pid)))
        time.sleep(0.2)
    end = _size(answers)
    peaks = [max(rss for size, rss in seen if size <= part * end) for part in (0.1, 0.5, 1)]
    return {
        "tried": f"infer over {rows:,} rows",
        "found": f"peaks at 10, 50, 100 %: {', '.join(f'{peak / 1e6:.0f} MB' for peak in peaks)}",
        "passed": process.returncode == 0 and peaks[2] < peaks[0] + GROWTH,
    }


def train_memory(folder: pathlib.Path, tries: int | None) -> dict:
    """Peaks of training from a file of so many MB, and from one of 2,000 rows."""
    size, words = (tries or 2_000) * 10**6, "a very long film about a park " * 30
    row = json.dumps({"sentence": words, "label": "good"}) + "\n"
    files = {"large": folder / "large.jsonl", "small": folder / "small.jsonl"}
    files["small"].write_text(row * 2000)
    with files["large"].open("w") as out:
        for _ in range(size // (2000 * len(row)) + 1):
            out.write(row * 2000)
    job, peaks, codes, waits = _Job(folder), {}, [], {}
    # The first compiles for the others, which takes memory too.
    for run, name in enumerate(("small", "large", "small")):
        began = time.monotonic()
        process = job.train(files[name], folder / f"run_{run}")
        peaks[name] = 0
        while process.poll() is None:
            peaks[name] = max(peaks[name], _resident(process.pid))
            time.sleep(0.1)
        codes.append(process.returncode)
        waits[name] = time.monotonic() - began
    return {
        "tried": f"20 steps from a JSONL file of {files['large'].stat().st_size / 1e6:,.0f} MB",
        "found": f"peak {peaks['large'] / 1e6:.0f} MB in {waits['large']:.0f} s; with 2,000 rows "
        f"{peaks['small'] / 1e6:.0f} MB in {waits['small']:.0f} s",
        "passed": codes == [0, 0, 0] and peaks["large"] < peaks["small"] + GROWTH,
    }


def write_rows(path: pathlib.Path, count: int) -> pathlib.Path:
    """So many short texts, of random words."""
    rng = random.Random(0)
    with path.open("w") as out:
        for number in range(count):
            text = " ".join(rng.choices(_words(), k=rng.randint(1, 9)))
            out.write(json.dumps({"sentence": f"{number} {text}"}) + "\n")
    return path


def _words() -> list[str]:
    return ["the", "a", "film", "park", "she", "saw", "liked", "good", "bad", "story", "old"]


class _Job:
    """Commands on the small model."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        reviews = pathlib.Path(assets.path("reviews/train.tsv")).read_text().splitlines()
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=itertools.chain(reviews, _words()),
            model_prefix=str(folder / "pieces"),
            vocab_size=400,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
        config = config_lib.T5Config(
            vocab_size=SIZES["NUM_EMBEDDINGS"],
            embed_dim=SIZES["EMBED_DIM"],
            num_heads=SIZES["NUM_HEADS"],
            head_dim=SIZES["HEAD_DIM"],
            mlp_dim=SIZES["MLP_DIM"],
            num_encoder_layers=SIZES["NUM_ENCODER_LAYERS"],
            num_decoder_layers=SIZES["NUM_DECODER_LAYERS"],
        )
        weights = jax.device_get(jax.jit(model.EncoderDecoderModel(config).init)(jax.random.key(0)))
        huggingface.save(
            folder / "model",
            weights,
            config,
            vocabulary_file=str(folder / "pieces.model"),
            step=torture_job.START,
            dtype="float32",
        )

    def _start(self, verb: str, *gin_files: str, **macros) -> subprocess.Popen:
        own = SIZES | {
            "INITIAL_CHECKPOINT_PATH": self._folder / "model",
            "VOCABULARY_FILE": self._folder / "pieces.model",
            "BATCH_SIZE": BATCH_SIZE,
            "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 2},
        }
        arguments = torture_job.command(verb, *gin_files, **(own | macros))
        # A start need not compile what another has compiled.
        compiled = {
            "JAX_COMPILATION_CACHE_DIR": str(self._folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return torture_job.start(arguments, self._folder / "log.txt", **compiled)

    def start(self, asked: pathlib.Path, output: pathlib.Path) -> subprocess.Popen:
        return self._start(
            "infer",
            "decoding/nucleus_sampling.gin",
            "runs/infer.gin",
            INFER_FILE=asked,
            INFER_OUTPUT_DIR=output,
            PROMPT=None,
            PROMPT_FILE=None,
            MODE="predict_with_aux",
        )

    def finish(self, asked: pathlib.Path, output: pathlib.Path) -> None:
        if code := self.start(asked, output).wait():
            raise RuntimeError(f"infer ended with {code}; see {self._folder / 'log.txt'}")

    def train(self, train_file: pathlib.Path, output: pathlib.Path) -> subprocess.Popen:
        return self._start(
            "train",
            MODEL_DIR=output,
            TRAIN_FILE=train_file,
            TRAIN_STEPS=torture_job.START + 20,
            TASK_FEATURE_LENGTHS={"inputs": 32, "targets": 8},
        )


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _resident(pid: int) -> int:
    """Bytes of a process's memory that are in RAM; 0 where it has ended."""
    try:
        pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(pages) * 4096
