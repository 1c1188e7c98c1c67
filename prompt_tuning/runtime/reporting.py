"""What a run tells: log lines, a progress bar, TensorBoard, JSON lines."""

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import rich.progress
import tensorboardX
from etils import epath

from prompt_tuning import params as params_lib

Tree = Mapping[str, Any]


class MetricWriter:
    """Writes scalars of one kind of a run to TensorBoard and to a JSON-lines file.

    A run that goes on from a step first drops the lines after it, so that no line is
    there twice.
    """

    def __init__(self, folder: epath.PathLike, jsonl: str, *, after_step: int, prefix: str = ""):
        """Opens `folder` for events and `folder/jsonl` for lines; `prefix` starts the tags."""
        self._folder, self._prefix = epath.Path(folder), prefix
        self._events: tensorboardX.SummaryWriter | None = None
        self._jsonl = self._folder / jsonl
        lines = self._jsonl.read_text().splitlines() if self._jsonl.exists() else []
        self._lines = [line for line in lines if json.loads(line)["step"] <= after_step]

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a line and an event for each scalar."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._events is None:
            self._events = tensorboardX.SummaryWriter(str(self._folder), flush_secs=10)
        for name, value in scalars.items():
            self._events.add_scalar(f"{self._prefix}{name}", value, step)
        self._lines.append(json.dumps({"step": step, **scalars}))
        write_text(self._jsonl, "\n".join(self._lines) + "\n")

    def close(self) -> None:
        """Flushes the events."""
        if self._events is not None:
            self._events.close()


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a file so that it is never there by halves."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def start_folder(folder: epath.PathLike, config_text: str, setting: str) -> None:
    """Writes config.gin, a run's first file: what is wrong with `setting`, the folder, shows here."""
    try:
        write_text(epath.Path(folder) / "config.gin", config_text)
    except OSError as error:
        raise OSError(
            f"cannot write to {setting} {folder}: {error}; set {setting} to a folder that you may "
            "write to"
        ) from error


def progress(total: int, done: int = 0, unit: str = "steps") -> rich.progress.Progress:
    """A progress bar with one task, shown on a terminal only. Use as a context manager."""
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn(unit),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
        disable=not sys.stderr.isatty(),
        console=rich.console.Console(stderr=True),
    )
    bar.add_task("", total=total, completed=done, note="")
    return bar


def set_up_logging() -> None:
    """One plain line a message, on standard error; absl's and Orbax's chatter off."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for noisy in ("absl", "jax", "orbax", "tensorflow", "seqio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def model_info(trainable: Tree, params: Tree, shardings: Tree) -> str:
    """One line a parameter (T5X's model-info.txt): path, size, shape, partition, trained or not."""
    trained = params_lib.flatten(trainable)
    specs = params_lib.flatten(shardings)
    lines = []
    for path, leaf in params_lib.flatten(params).items():
        kind = "trained" if path in trained else "frozen"
        spec = specs[path].spec
        lines.append(f"{kind:8} {path:70} {leaf.size:>12,}  {tuple(leaf.shape)}  {spec}")
    total, tuned = params_lib.count(params), params_lib.count(trainable)
    lines.append(f"Total number of parameters: {total}")
    lines.append(f"Trainable parameters: {tuned} ({100 * tuned / total:.4f} %)")
    return "\n".join(lines) + "\n"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Two aligned columns."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
