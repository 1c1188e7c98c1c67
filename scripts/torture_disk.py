"""Full and read-only disks at each write of a save, and of a run from its first file on.

File sizes are limited with RLIMIT_FSIZE. As root, a tmpfs with a number of free pages is used too.
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
SAVED, COMPLETE = "saved", "complete"
REFUSED, REFUSED_FIRST = "error, last state intact", "error before the first state"
SIZES = (0, 300, 5000, 20_000, 1, 8, 64, 100, 128, 200, 256, 400, 512, 700, 1000, 2000)


def disk_full(folder: pathlib.Path, tries: int | None) -> dict:
    """Saves and runs with more and more free space: `tries` sizes, None for until all fits."""
    saves, runs = Counter(), Counter()
    for directory, limit in _limits(folder, "save", tries):
        saves[_save(directory, limit)] += 1
    # Runs share this process and its compiled programs.
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    runs[_run(folder / "no_limit", contextlib.nullcontext())] += 1
    for directory, limit in _limits(folder, "run", tries):
        runs[outcome := _run(directory, limit)] += 1
        with (folder / "runs.txt").open("a") as file:
            file.write(f"{directory.name}: {outcome}\n")
    return {
        "trial": f"{saves.total()} saves and {runs.total()} runs: no space, then one page more each; "
        f"files of at most {min(SIZES)} to {max(SIZES)} bytes; read-only",
        "result": f"saves: {dict(saves)}; runs: {dict(runs)}",
        "passed": saves.keys() <= {REFUSED, SAVED}
        and runs.keys() <= {REFUSED, REFUSED_FIRST, COMPLETE}
        and bool(runs[COMPLETE]),
    }


def _limits(
    folder: pathlib.Path, what: str, tries: int | None
) -> Iterator[tuple[pathlib.Path, contextlib.AbstractContextManager]]:
    """Yields (folder, context that limits it): file sizes, free pages, read-only."""
    for size in SIZES[: tries or (len(SIZES) if what == "save" else 4)]:
        yield folder / f"{what}_of_{size}", _max_file_size(size)
    if os.geteuid():
        return
    for pages in range(1000 if tries is None else tries):
        with _mounted(folder / f"{what}_with_{pages}_pages") as disk:
            limit = _FreePages(disk, pages)
            yield disk, limit
            if limit.is_enough:
                break
    with _mounted(folder / f"{what}_read_only") as disk:
        yield disk, _read_only(disk)


@contextlib.contextmanager
def _max_file_size(size: int) -> Iterator[None]:
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


class _FreePages(contextlib.AbstractContextManager):
    """Fills a disk except some pages; `is_enough` is set if the body raises no error."""

    def __init__(self, disk: pathlib.Path, pages: int):
        self._filler, self._disk, self._pages = disk / "filler", disk, pages
        self.is_enough = False

    def __enter__(self) -> None:
        free = os.statvfs(self._disk).f_bfree * os.statvfs(self._disk).f_frsize
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - self._pages * PAGE, 1))

    def __exit__(self, kind, *_) -> None:
        self.is_enough = kind is None
        self._filler.unlink()


@contextlib.contextmanager
def _read_only(disk: pathlib.Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def _save(folder: pathlib.Path, limit: contextlib.AbstractContextManager) -> str:
    """Saves a state, and a second one within the limit."""
    prompt = np.random.default_rng(0).normal(size=(20, 256)).astype(np.float32)
    tree = jax.device_put({"prompt": prompt, "step": np.asarray(1, np.int32)})
    train_state.save(folder, 1, tree, {"step": 1}, keep=1)
    try:
        with limit:
            train_state.save(folder, 2, tree, {"step": 2}, keep=1)
        outcome, last = SAVED, 2
    except OSError:
        outcome, last = REFUSED, 1
    if train_state.latest_step(folder) != last:
        return f"OTHER STATE in {folder}"
    values, metadata = train_state.restore(folder, last, tree)
    same = all(jax.tree.leaves(jax.tree.map(np.array_equal, values, tree)))
    return outcome if same and metadata == {"step": last} else f"WRONG VALUES in {folder}"


def _run(folder: pathlib.Path, limit: contextlib.AbstractContextManager) -> str:
    """Runs `train` within the limit, as the command line does."""
    settings = {"EVAL_PERIOD": 1, "LOG_PERIOD": 1, "EVALUATOR_NUM_EXAMPLES": 8}
    arguments = job.train(folder / "run", 2, **settings)[3:]
    failed_threads, code, log = [], 0, io.StringIO()
    with (
        unittest.mock.patch.object(sys, "argv", ["prompt-tuning", *arguments]),
        unittest.mock.patch.object(threading, "excepthook", failed_threads.append),
        unittest.mock.patch.object(cli, "start_process", lambda: None),
        unittest.mock.patch.object(cli, "end_process", sys.exit),
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            with limit:
                cli.main()
        except SystemExit as error:
            code = error.code
        except Exception as error:
            return f"CRASHED in {folder}: {error!r}"
        finally:
            logging.shutdown()
    # Orbax logs tracebacks of failed writes; the message of the command comes after them.
    text, prefix, message = log.getvalue().rpartition("prompt-tuning: ")
    if failed_threads or "Traceback" in (message if code else text + message):
        (folder.parent / f"{folder.name}.log").write_text(log.getvalue())
        return f"TRACEBACK, see {folder}.log, and threads {failed_threads}"
    if not code:
        return COMPLETE
    if code != 2 or not prefix:
        (folder.parent / f"{folder.name}.log").write_text(log.getvalue())
        return f"EXIT CODE {code} in {folder}"
    step = train_state.latest_step(folder / "run")
    if step is None:
        return REFUSED_FIRST
    train_state.open_trained(folder / "run", step)
    train_state.read_metadata(folder / "run", step)
    return REFUSED
