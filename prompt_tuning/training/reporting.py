"""What a run tells: log lines, a progress bar, TensorBoard, JSON lines."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import rich.progress
from etils import epath

from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import atomic
from prompt_tuning.training import event_file, optimizers

Tree = Mapping[str, Any]
LOSS = "loss_per_nonpadding_target_token"  # T5X's name


class MetricWriter:
    """Writes metrics of one kind of a run to TensorBoard, and the numbers to a JSON-lines file.

    A run that goes on from a step first drops what is after it, so that nothing is
    there twice.
    """

    def __init__(
        self, jsonl: epath.PathLike, *, events: epath.PathLike, after_step: int, prefix: str
    ):
        """Reads `jsonl` if it is there; `events` is TensorBoard's folder, `prefix` starts its tags."""
        self._jsonl, self._folder = epath.Path(jsonl), epath.Path(events)
        self._prefix, self._after_step = prefix, after_step
        self._events: event_file.EventFile | None = None
        # Behind the last line break is what a run was stopped in.
        read = self._jsonl.read_bytes() if self._jsonl.exists() else b""
        lines = read.decode(errors="replace").split("\n")[:-1]
        steps = [_step(line) for line in lines]
        if None in steps:
            logging.warning("%s: dropped %d damaged lines.", self._jsonl, steps.count(None))
        self._lines = [
            line
            for line, step in zip(lines, steps, strict=True)
            if step is not None and step <= after_step
        ]
        self._appends = False

    def write(self, step: int, metrics: Mapping[str, float | str]) -> None:
        """Adds a line, and an event for each number and text."""
        if not atomic.is_writer():
            return
        if self._events is None:
            self._events = event_file.EventFile(self._folder, self._after_step)
        for name, value in metrics.items():
            self._events.add(f"{self._prefix}{name}", value, step)
        self._events.flush()
        scalars = {name: x for name, x in metrics.items() if not isinstance(x, str)}
        self._add(json.dumps({"step": step, **scalars}))

    def _add(self, line: str) -> None:
        """The first line of a run drops what is after its step; others are appended.

        What is stored under an address cannot be appended to, and is written anew.
        """
        if self._appends:
            with self._jsonl.open("a") as file:
                file.write(f"{line}\n")
            return
        self._lines.append(line)
        write_text(self._jsonl, "".join(f"{each}\n" for each in self._lines))
        self._appends = "://" not in str(self._jsonl)

    def close(self) -> None:
        """Ends the file of events."""
        if self._events is not None:
            self._events.close()


def _step(line: str) -> int | None:
    """Of a line of metrics; None where it is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None


class StepLog:
    """Tells how training goes: a progress bar, log lines, `folder`. Use as a context manager."""

    def __init__(
        self,
        folder: epath.PathLike,
        *,
        first_step: int,
        step: int,
        last_step: int,
        learning_rate: optimizers.Schedule | None = None,
        bar: bool = True,
        unwritten: Sequence[Mapping[str, float]] = (),
    ):
        """A run from `first_step` to `last_step` that is at `step`.

        `unwritten` are the sums of the steps since the last line, where the run goes on. The names of what is told are T5X's; `learning_rate` is told of the last step taken. Of
        several logs that are open together only one may have a bar.
        """
        folder, self._learning_rate = epath.Path(folder), learning_rate
        self._writer = MetricWriter(
            folder / "metrics.jsonl", events=folder, after_step=step, prefix=""
        )
        self._bar = progress(last_step - first_step, step - first_step, shown=bar)
        self._waiting: list[Mapping[str, float | jax.Array]] = [*unwritten]
        self.restart()

    def restart(self) -> None:
        """Starts the clock; what took time before is not the steps'."""
        self._untimed, self._since = len(self._waiting), time.monotonic()

    def add(self, sums: Mapping[str, jax.Array]) -> None:
        """Takes the sums of a step; does not wait for the device."""
        self._waiting.append(sums)
        self._bar.advance(0)

    def unwritten(self) -> list[dict[str, float]]:
        """The sums of the steps since the last line; JSON keeps them as they are."""
        sums = jax.device_get(self._waiting)
        return [{name: float(x) for name, x in each.items()} for each in sums]

    def write(self, step: int, others: Mapping[str, float]) -> float | None:
        """Tells the means over the steps since the last time, and `others`; returns the loss.

        Steps that were left out, as their numbers are not finite, are in no mean; None of none.
        """
        everything = self.unwritten()
        seconds, timed = time.monotonic() - self._since, everything[self._untimed :]
        sums = [each for each in everything if not each["skipped"]]
        self._waiting = []
        self.restart()
        if not sums:
            return None
        means = mean_losses(sums)
        means["gradient_norm"] = sums[-1]["gradient_norm"]
        if self._learning_rate is not None:
            means["learning_rate"] = float(self._learning_rate(jnp.asarray(step - 1)))
        means |= {
            "timing/seconds": seconds,
            "timing/steps_per_second": len(timed) / seconds,
            "timing/target_tokens_per_second": sum(x["tokens"] for x in timed) / seconds,
        }
        self._writer.write(step, {**means, **others})
        note = f"loss {means[LOSS]:.3f}"
        self._bar.update(0, note=note)
        moved = "".join(f"  {name} {value:.2f}" for name, value in others.items())
        logging.info(
            "step %d  %s  accuracy %.3f%s  %.2f steps/s",
            step, note, means["accuracy"], moved, means["timing/steps_per_second"],
        )  # fmt: skip
        return means[LOSS]

    def __enter__(self) -> "StepLog":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        self._writer.close()


def mean_losses(sums: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """T5X's metrics of the sums over batches that `model.loss` gives."""
    total = {name: sum(float(each[name]) for each in sums) for name in sums[0]}
    tokens = max(total["tokens"], 1.0)
    penalty = {"penalty": total["penalty"] / len(sums)} if "penalty" in total else {}
    return {
        LOSS: total["loss"] / tokens,
        "loss": total["loss"] / len(sums),
        "cross_ent_loss": (total["loss"] - total["z_loss"]) / len(sums),
        "z_loss": total["z_loss"] / len(sums),
        **penalty,
        "accuracy": total["correct"] / tokens,
    }


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a file so that it is never there by halves."""
    atomic.write(path, text.encode())


def check_folder(folder: Any, setting: str) -> None:
    """Raises ValueError where `setting` is not the path of a folder, before anything is read."""
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder).strip():
        raise ValueError(
            f"{setting} is {folder!r}; expected the path of a folder. Set {setting} to one."
        )
    if os.path.isfile(folder):
        raise ValueError(
            f"{setting} {folder} is a file; expected a new or an existing folder. Set {setting} to "
            "one."
        )


def start_folder(
    folder: epath.PathLike, config_text: str, setting: str, step: int | None = None
) -> None:
    """Writes config.gin, a run's first file: what is wrong with `setting`, the folder, shows here.

    The config.gin of a run that was trained with it up to `step` is kept as config_<step>.gin. All of
    several processes have read what is there before the first of them writes.
    """
    atomic.wait_for_writer(f"start {folder}")
    config = epath.Path(folder) / "config.gin"
    try:
        if step is not None and config.exists() and (text := config.read_text()) != config_text:
            kept = config.with_name(f"config_{step}.gin")
            if not kept.exists():  # else nothing was trained with the later one
                write_text(kept, text)
        write_text(config, config_text)
    except OSError as error:
        raise OSError(
            f"cannot write to {setting} {folder}: {error}. Expected a writable folder. Set "
            f"{setting} to one."
        ) from error


def progress(
    total: int, done: int = 0, unit: str = "steps", shown: bool = True
) -> rich.progress.Progress:
    """A progress bar with one task, shown on a terminal only. Use as a context manager."""
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn(unit),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
        disable=not (shown and sys.stderr is not None and sys.stderr.isatty()),
        console=rich.console.Console(stderr=True),
    )
    bar.add_task("", total=total, completed=done, note="")
    return bar


class _Stderr(logging.Handler):
    """Writes to what sys.stderr is now: while a bar is shown, that is rich's, which moves the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def set_up_logging() -> None:
    """One plain line a message, on standard error; the chatter of libraries off."""
    # TensorFlow reads it when it is imported, later.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("absl", "jax", "orbax", "tensorflow", "seqio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def model_info(trainable: Tree, params: Tree) -> str:
    """One line a parameter (T5X's model-info.txt): trained or not, path, size, shape, partition."""
    trained = params_lib.flatten(trainable)
    lines = []
    for path, leaf in params_lib.flatten(params).items():
        kind, shape = "trained" if path in trained else "frozen", tuple(leaf.shape)
        lines.append(f"{kind:8} {path:70} {leaf.size:>12,}  {shape}  {tuple(leaf.sharding.spec)}")
    total, tuned = params_lib.count(params), params_lib.count(trainable)
    lines.append(f"Total number of parameters: {total}")
    lines.append(f"Trainable parameters: {tuned} ({100 * tuned / total:.4f} %)")
    return "\n".join(lines) + "\n"


def table(rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(f"  {line}" for line in lines)
