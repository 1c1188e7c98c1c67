"""Full and read-only disks: at each write of a save, and of a run from its first file on.

As root the disk is a tmpfs of which all but some pages are taken; else no file may grow beyond a size.
"""

import contextlib
import io
import logging
import os
import pathlib
import resource
import subprocess
import sys
import threading
import unittest.mock
from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
import torture_job as job

from prompt_tuning.checkpoints import train_state
from prompt_tuning.cli import main as cli

SIZE, PAGE = 2**20, 4096
SIZES = (0, 300, 5000, 20_000, 1, 8, 64, 100, 128, 200, 256, 400, 512, 700, 1000, 2000)


def disk_full(folder: pathlib.Path, tries: int | None) -> dict:
    """A save, and a run, on disks with ever more room; `tries` of each, None for until it fits."""
    saves, runs = Counter(), Counter()
    for where, limited in _limits(folder, "save", tries):
        saves[_save(where, limited)] += 1
    # Runs are in this process, and what they compile is compiled once.
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    runs[_run(folder / "no_limit", contextlib.nullcontext())] += 1
    for where, limited in _limits(folder, "run", tries):
        runs[end := _run(where, limited)] += 1
        with (folder / "runs.txt").open("a") as file:
            file.write(f"{where.name}: {end}\n")
    fine = {"error, last state whole", "saved"}, {"error", "error, state whole", "ended"}
    return {
        "tried": f"{saves.total()} saves and {runs.total()} runs with no room, a page more each, files of "
        f"at most {min(SIZES)} to {max(SIZES)} bytes, and read-only",
        "found": f"saves: {dict(saves)}; runs: {dict(runs)}",
        "passed": saves.keys() <= fine[0] and runs.keys() <= fine[1] and bool(runs["ended"]),
    }


def _abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _limits(
    folder: pathlib.Path, what: str, tries: int | None
) -> Iterator[tuple[pathlib.Path, contextlib.AbstractContextManager]]:
    """(folder, what makes its disk full within): sizes of files, pages left, read-only."""
    for size in SIZES[: tries or (len(SIZES) if what == "save" else 4)]:
        yield folder / f"{what}_of_{size}", _files_of(size)
    if os.geteuid():
        return
    for pages in range(1000 if tries is None else tries):
        with _mounted(folder / f"{what}_with_{pages}_pages") as disk:
            room = _pages(disk, pages)
            yield disk, room
            if room.fits:
                break
    with _mounted(folder / f"{what}_read_only") as disk:
        yield disk, _read_only(disk)


@contextlib.contextmanager
def _files_of(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def _mounted(disk: pathlib.Path) -> Iterator[pathlib.Path]:
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


class _pages(contextlib.AbstractContextManager):
    """All but some pages of a disk are taken; `fits` says that nothing failed."""

    def __init__(self, disk: pathlib.Path, pages: int):
        self._filler, self._disk, self._pages, self.fits = disk / "filler", disk, pages, False

    def __enter__(self) -> None:
        free = os.statvfs(self._disk).f_bfree * os.statvfs(self._disk).f_frsize
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - self._pages * PAGE, 1))

    def __exit__(self, kind, *_) -> None:
        self.fits = kind is None
        self._filler.unlink()


@contextlib.contextmanager
def _read_only(disk: pathlib.Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def _save(folder: pathlib.Path, limited: contextlib.AbstractContextManager) -> str:
    """A state is there; the next is saved with too little room."""
    prompt = np.random.default_rng(0).normal(size=(20, 256)).astype(np.float32)
    tree = jax.device_put({"prompt": prompt, "step": np.asarray(1, np.int32)})
    train_state.save(folder, 1, tree, {"step": 1}, keep=1)
    try:
        with limited:
            train_state.save(folder, 2, tree, {"step": 2}, keep=1)
        end, last = "saved", 2
    except OSError:
        end, last = "error, last state whole", 1
    if train_state.latest_step(folder) != last:
        return f"OTHER STATE in {folder}"
    values, told = train_state.restore(folder, last, jax.tree.map(_abstract, tree))
    same = all(jax.tree.leaves(jax.tree.map(np.array_equal, values, tree)))
    return end if same and told == {"step": last} else f"WRONG VALUES in {folder}"


def _run(folder: pathlib.Path, limited: contextlib.AbstractContextManager) -> str:
    """`train` from its first file on, as the command runs it, and once more where there is room."""
    settings = {"EVAL_PERIOD": 1, "LOG_PERIOD": 1, "EVALUATOR_NUM_EXAMPLES": 8}
    arguments = job.train(folder / "run", 2, **settings)[3:]
    failed, code, told = [], 0, io.StringIO()
    with (
        unittest.mock.patch.object(sys, "argv", ["prompt-tuning", *arguments]),
        unittest.mock.patch.object(threading, "excepthook", failed.append),
        unittest.mock.patch.object(cli, "start_process", lambda: None),
        unittest.mock.patch.object(cli, "end_process", sys.exit),
        contextlib.redirect_stderr(told),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            with limited:
                cli.main()
        except SystemExit as error:
            code = error.code
        except Exception as error:
            return f"CRASHED in {folder}: {error!r}"
        finally:
            logging.shutdown()
    if failed or "Traceback" in told.getvalue():
        return f"TRACEBACK in {folder}: {told.getvalue()[-500:]}"
    if not code:
        return "ended"
    if code != 2 or "prompt-tuning: " not in told.getvalue():
        return f"EXIT CODE {code} in {folder}"
    step = train_state.latest_step(folder / "run")
    if step is None:
        return "error"
    train_state.open_trained(folder / "run", step)
    train_state.read_metadata(folder / "run", step)
    return "error, state whole"
