"""Long input: `infer` killed repeatedly, and the memory of `infer` and `train`.

The model has one layer per stack, so that a million rows take minutes.
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
WORDS = ("the", "a", "film", "park", "she", "saw", "liked", "good", "bad", "story", "old")
GROWTH = 100e6  # bytes of growth to tolerate: memory that allocators keep
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
    """Sends `tries` SIGKILLs at random moments and compares with an uninterrupted command."""
    num_kills, rows = tries or 20, 5_000 * (tries or 20)
    inputs = write_rows(folder / "inputs.jsonl", rows)
    job = _Job(folder)
    job.infer(inputs, folder / "complete")
    predictions = folder / "complete" / "inputs-predict_with_aux.jsonl-00000-of-00001"
    partial = folder / "killed" / f"{predictions.name}.partial"
    rng, kills = random.Random(0), 0
    while kills < num_kills:
        process = job.start_infer(inputs, folder / "killed")
        # Not before it has written predictions: an earlier kill can lose nothing.
        target = _size(partial) + rng.uniform(0, 1.2) * _size(predictions) / num_kills
        while process.poll() is None and _size(partial) <= target:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            break  # complete before all kills: the case fails
        kills += 1
    job.infer(inputs, folder / "killed")
    is_equal = (folder / "killed" / predictions.name).read_bytes() == predictions.read_bytes()
    lines = sum(1 for _ in predictions.open("rb"))
    return {
        "trial": f"infer over {rows:,} rows with sampling, killed {kills} times",
        "result": f"{lines:,} lines; byte for byte equal: {is_equal}",
        "passed": is_equal and lines == rows and kills == num_kills,
    }


def infer_memory(folder: pathlib.Path, tries: int | None) -> dict:
    """Measures peaks of resident memory while `infer` reads `tries` rows."""
    rows = tries or 1_000_000
    inputs = write_rows(folder / "inputs.jsonl", rows)
    process = _Job(folder).start_infer(inputs, folder / "out")
    predictions = folder / "out" / "inputs-predict_with_aux.jsonl-00000-of-00001"
    partial = predictions.with_name(f"{predictions.name}.partial")
    samples = []
    while process.poll() is None:
        samples.append((_size(partial), _resident_memory(process.pid)))
        time.sleep(0.2)
    end = _size(predictions)
    peaks = [max(rss for size, rss in samples if size <= part * end) for part in (0.1, 0.5, 1)]
    return {
        "trial": f"infer over {rows:,} rows",
        "result": f"peaks at 10, 50, 100 %: {', '.join(f'{peak / 1e6:.0f} MB' for peak in peaks)}",
        "passed": process.returncode == 0 and peaks[2] < peaks[0] + GROWTH,
    }


def train_memory(folder: pathlib.Path, tries: int | None) -> dict:
    """Measures peak memory of training on a file of `tries` MB, and on one of 2,000 rows."""
    size, text = (tries or 2_000) * 10**6, "a very long film about a park " * 30
    row = json.dumps({"sentence": text, "label": "good"}) + "\n"
    files = {"large": folder / "large.jsonl", "small": folder / "small.jsonl"}
    files["small"].write_text(row * 2000)
    with files["large"].open("w") as out:
        for _ in range(size // (2000 * len(row)) + 1):
            out.write(row * 2000)
    job, peaks, codes, seconds = _Job(folder), {}, [], {}
    # The first run compiles, which needs memory too; the third one is compared.
    for run, name in enumerate(("small", "large", "small")):
        start = time.monotonic()
        process = job.start_train(files[name], folder / f"run_{run}")
        peaks[name] = 0
        while process.poll() is None:
            peaks[name] = max(peaks[name], _resident_memory(process.pid))
            time.sleep(0.1)
        codes.append(process.returncode)
        seconds[name] = time.monotonic() - start
    return {
        "trial": f"20 steps from a JSONL file of {files['large'].stat().st_size / 1e6:,.0f} MB",
        "result": f"peak {peaks['large'] / 1e6:.0f} MB in {seconds['large']:.0f} s; with 2,000 rows "
        f"{peaks['small'] / 1e6:.0f} MB in {seconds['small']:.0f} s",
        "passed": codes == [0, 0, 0] and peaks["large"] < peaks["small"] + GROWTH,
    }


def write_rows(path: pathlib.Path, count: int) -> pathlib.Path:
    """Writes `count` short texts of random words."""
    rng = random.Random(0)
    with path.open("w") as out:
        for number in range(count):
            text = " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))
            out.write(json.dumps({"sentence": f"{number} {text}"}) + "\n")
    return path


class _Job:
    """Commands on a model with one layer per stack."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        reviews = pathlib.Path(assets.path("reviews/train.tsv")).read_text().splitlines()
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=itertools.chain(reviews, WORDS),
            model_prefix=str(folder / "vocabulary"),
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
            vocabulary_file=str(folder / "vocabulary.model"),
            step=torture_job.START,
            dtype="float32",
        )

    def _start(self, verb: str, *gin_files: str, **macros) -> subprocess.Popen:
        defaults = SIZES | {
            "INITIAL_CHECKPOINT_PATH": self._folder / "model",
            "VOCABULARY_FILE": self._folder / "vocabulary.model",
            "BATCH_SIZE": BATCH_SIZE,
            "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 2},
        }
        arguments = torture_job.command(verb, *gin_files, **(defaults | macros))
        compilation_cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self._folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return torture_job.start(arguments, self._folder / "log.txt", **compilation_cache)

    def start_infer(self, inputs: pathlib.Path, output: pathlib.Path) -> subprocess.Popen:
        return self._start(
            "infer",
            "decoding/nucleus_sampling.gin",
            "runs/infer.gin",
            INFER_FILE=inputs,
            INFER_OUTPUT_DIR=output,
            PROMPT=None,
            PROMPT_FILE=None,
            MODE="predict_with_aux",
        )

    def infer(self, inputs: pathlib.Path, output: pathlib.Path) -> None:
        if code := self.start_infer(inputs, output).wait():
            raise RuntimeError(f"infer exited with {code}; see {self._folder / 'log.txt'}")

    def start_train(self, train_file: pathlib.Path, output: pathlib.Path) -> subprocess.Popen:
        return self._start(
            "train",
            MODEL_DIR=output,
            TRAIN_FILE=train_file,
            TRAIN_STEPS=torture_job.START + 20,
            TASK_FEATURE_LENGTHS={"inputs": 32, "targets": 8},
        )


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _resident_memory(pid: int) -> int:
    """Resident memory of a process in bytes; 0 if it has exited."""
    try:
        pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(pages) * 4096
