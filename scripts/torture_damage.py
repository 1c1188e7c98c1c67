"""Damage of a run's state: every file cut short, lost, and with bits flipped."""

import pathlib
import shutil
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
import torture_job as job

from prompt_tuning.checkpoints import train_state
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.training import optimizers

CUTS, FLIPS = 20, 200  # of each file
STEPS, PERIOD = 6, 2


def damage(folder: pathlib.Path, tries: int | None) -> dict:
    """`tries` flips of each file of a state; then runs that go on beside a damaged state."""
    tree, metadata, told = _state(), {"best": 50.5, "position": {"epoch": 1}}, Counter()
    train_state.save(folder / "state", 1, tree, metadata, keep=1)
    files = sorted(x for x in (folder / "state").rglob("*") if x.is_file())
    for file in files:
        content = file.read_bytes()
        for damaged in _damaged(content, CUTS, FLIPS if tries is None else tries):
            file.unlink(missing_ok=True)
            if damaged is not None:
                file.write_bytes(damaged)
            told[_read(folder / "state", tree, metadata)] += 1
        file.write_bytes(content)
    runs = _runs(folder)
    right = told["recognised"] + told["harmless"] == told.total()
    return {
        "tried": f"{len(files)} files of a state: {CUTS} cuts, {FLIPS if tries is None else tries} "
        f"flipped bits and the loss of each, {told.total()} states; {len(runs)} runs that go on",
        "found": f"{dict(told)}; runs: {dict(Counter(runs))}",
        "passed": right and set(runs) == {"ended as if undamaged"},
    }


def _abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _state() -> dict:
    """That of a prompt of 20 vectors of 256."""
    prompt = np.random.default_rng(0).normal(size=(20, 256)).astype(np.float32)
    trainable = {"encoder": {"prompt": {"prompt": jax.numpy.asarray(prompt)}}}
    optimizer = optimizers.for_trainable(optimizers.adafactor(0.3, start_step=1), (".*",))
    step = jax.numpy.asarray(1, jax.numpy.int32)
    assert prompt_method.PATH == "encoder/prompt/prompt"
    return {"step": step, "trainable": trainable, "optimizer": optimizer.init(trainable)}


def _damaged(content: bytes, cuts: int, flips: int) -> Iterator[bytes | None]:
    """The contents that take its place; None for no file."""
    rng = np.random.default_rng(len(content))
    yield None
    for at in sorted({int(x) for x in np.linspace(0, len(content) - 1, cuts)}):
        yield content[:at]
    for bit in rng.choice(8 * len(content), min(flips, 8 * len(content)), replace=False):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def _read(folder: pathlib.Path, tree: dict, metadata: dict) -> str:
    try:
        found, told = train_state.restore(folder, 1, jax.tree.map(_abstract, tree))
    except train_state.DamagedError:
        return "recognised"
    except Exception as error:
        return f"crashed: {type(error).__name__}"
    same = jax.tree.map(lambda a, b: a.tobytes() == np.asarray(b).tobytes(), found, tree)
    return "harmless" if all(jax.tree.leaves(same)) and told == metadata else "WRONG VALUES"


def _runs(folder: pathlib.Path) -> list[str]:
    """A run with two states, the last damaged in one file, goes on; for each part of a state."""
    settings = {"EVAL_PERIOD": PERIOD, "LOG_PERIOD": 1, "EVALUATOR_NUM_EXAMPLES": 8}
    whole, stopped, log = folder / "whole", folder / "stopped", folder / "log.txt"
    for run, steps in ((whole, STEPS), (stopped, STEPS - PERIOD)):
        assert job.finish(job.train(run, steps, **settings), log) == 0, f"see {log}"
    wanted, ends = _left(whole), []
    last = f"checkpoint_{job.START + STEPS - PERIOD}"
    for part in ("_CHECKPOINT_METADATA", "state/manifest.ocdbt", "state/d", "state", ""):
        run = folder / f"run_{len(ends)}"
        shutil.copytree(stopped, run)
        _spoil(run / last / part)
        own = folder / f"log_{len(ends)}.txt"
        code = job.finish(job.train(run, STEPS, **settings), own)
        text = own.read_text()
        if code or "Traceback" in text or f"{last} is damaged" not in text:
            ends.append(f"exit code {code}, see {own}")
        else:
            ends.append("ended as if undamaged" if _left(run) == wanted else f"other end: {run}")
    return ends


def _spoil(path: pathlib.Path) -> None:
    """Flips a bit of a file; of a folder, empties all files below."""
    if path.is_file():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        return
    for file in path.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def _left(run: pathlib.Path) -> tuple[bytes, ...]:
    """What a run gives: prompts and evaluations, to the bit."""
    last = f"prompts/prompt_{job.START + STEPS}.npy"
    names = (last, "prompts/best.npy", "prompts/best.json")
    metrics = sorted((run / "inference_eval").glob("*-metrics.jsonl"))
    return tuple((run / name).read_bytes() for name in names) + tuple(
        file.read_bytes() for file in metrics
    )
