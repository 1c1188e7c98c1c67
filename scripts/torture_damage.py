"""Damaged training states: files are truncated, removed, and changed by single bits."""

import pathlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
import torture_job as job

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import train_state
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.training import optimizers

CUTS, FLIPS = 20, 200  # per file
STEPS, PERIOD = 6, 2
DETECTED, HARMLESS, EQUAL = "detected", "harmless", "equal to an uninterrupted run"


def damage(folder: pathlib.Path, tries: int | None) -> dict:
    """Reads damaged states, with `tries` flipped bits per file; then resumes runs from them."""
    # Orbax leaves coroutines of failed reads, which log a traceback when they are collected.
    sys.unraisablehook = lambda _: None
    tree, metadata, outcomes = _state(), {"best": 50.5, "position": {"epoch": 1}}, Counter()
    flips = FLIPS if tries is None else tries
    train_state.save(folder / "state", 1, tree, metadata, keep=1)
    files = sorted(x for x in (folder / "state").rglob("*") if x.is_file())
    for file in files:
        content = file.read_bytes()
        for damaged in _damaged(content, CUTS, flips):
            file.unlink(missing_ok=True)
            if damaged is not None:
                file.write_bytes(damaged)
            outcomes[_read(folder / "state", tree, metadata)] += 1
        file.write_bytes(content)
    runs = _runs(folder)
    return {
        "trial": f"{len(files)} files of a state: {CUTS} truncations, {flips} flipped bits and the "
        f"removal of each, {outcomes.total()} states; {len(runs)} resumed runs",
        "result": f"{dict(outcomes)}; runs: {dict(Counter(runs))}",
        "passed": outcomes.keys() <= {DETECTED, HARMLESS} and set(runs) == {EQUAL},
    }


def _state() -> dict:
    """A state of a prompt [20, 256]."""
    prompt = np.random.default_rng(0).normal(size=(20, 256)).astype(np.float32)
    trainable = params_lib.unflatten({prompt_method.PATH: jax.numpy.asarray(prompt)})
    optimizer = optimizers.for_trainable(optimizers.adafactor(0.3, start_step=1), (".*",))
    step = jax.numpy.asarray(1, jax.numpy.int32)
    return {"step": step, "trainable": trainable, "optimizer": optimizer.init(trainable)}


def _damaged(content: bytes, cuts: int, flips: int) -> Iterator[bytes | None]:
    """Yields damaged contents of a file; None means that it is removed."""
    rng = np.random.default_rng(len(content))
    yield None
    for size in sorted({int(x) for x in np.linspace(0, len(content) - 1, cuts)}):
        yield content[:size]
    for bit in rng.choice(8 * len(content), min(flips, 8 * len(content)), replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def _read(folder: pathlib.Path, tree: dict, metadata: dict) -> str:
    try:
        restored, stored_metadata = train_state.restore(folder, 1, tree)
    except train_state.DamagedError:
        return DETECTED
    except Exception as error:
        return f"crashed: {type(error).__name__}"
    same = jax.tree.map(lambda a, b: a.tobytes() == np.asarray(b).tobytes(), restored, tree)
    is_equal = all(jax.tree.leaves(same)) and stored_metadata == metadata
    return HARMLESS if is_equal else "WRONG VALUES"


def _runs(folder: pathlib.Path) -> list[str]:
    """Resumes a run of two states whose last one is damaged, once per part of a state."""
    settings = {"EVAL_PERIOD": PERIOD, "LOG_PERIOD": 1, "EVALUATOR_NUM_EXAMPLES": 8}
    complete, stopped, log = folder / "complete", folder / "stopped", folder / "log.txt"
    for run, steps in ((complete, STEPS), (stopped, STEPS - PERIOD)):
        assert job.finish(job.train(run, steps, **settings), log) == 0, f"see {log}"
    expected, outcomes = _results(complete), []
    last = f"checkpoint_{job.START + STEPS - PERIOD}"
    for part in ("_CHECKPOINT_METADATA", "state/manifest.ocdbt", "state/d", "state", ""):
        run = folder / f"run_{len(outcomes)}"
        shutil.copytree(stopped, run)
        _damage(run / last / part)
        log = folder / f"log_{len(outcomes)}.txt"
        code = job.finish(job.train(run, STEPS, **settings), log)
        text = log.read_text()
        if code or "Traceback" in text or f"{last} is damaged" not in text:
            outcomes.append(f"exit code {code}, see {log}")
        else:
            outcomes.append(EQUAL if _results(run) == expected else f"other results: {run}")
    return outcomes


def _damage(path: pathlib.Path) -> None:
    """Flips a bit of a file, or empties all files of a folder."""
    if path.is_file():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        return
    for file in path.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def _results(run: pathlib.Path) -> tuple[bytes, ...]:
    """Contents of the last prompt, the best one, and the metrics."""
    last = f"prompts/prompt_{job.START + STEPS}.npy"
    names = (last, "prompts/best.npy", "prompts/best.json")
    metrics = sorted((run / "inference_eval").glob("*-metrics.jsonl"))
    return tuple((run / name).read_bytes() for name in names) + tuple(
        file.read_bytes() for file in metrics
    )
