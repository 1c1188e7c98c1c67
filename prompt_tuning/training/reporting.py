"""Reports of a run: log lines, a progress bar, TensorBoard and JSON lines."""

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
    """Writes metrics to TensorBoard, and their scalars to a JSON-lines file.

    A run that resumes from a step first drops later lines, so that no step is
    listed twice.
    """

    def __init__(
        self, jsonl: epath.PathLike, *, events: epath.PathLike, after_step: int, prefix: str
    ):
        """Reads `jsonl` if it exists; `events` is TensorBoard's folder, `prefix` that of its tags."""
        self._jsonl, self._folder = epath.Path(jsonl), epath.Path(events)
        self._prefix, self._after_step = prefix, after_step
        self._events: event_file.EventFile | None = None
        # An interrupted run leaves an incomplete last line.
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
        """Adds one line per step, and one event per scalar and text."""
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
        """Rewrites the file with the first line, to drop later steps, and appends the others.

        Files in cloud storage cannot be appended to; they are rewritten each time.
        """
        if self._appends:
            with self._jsonl.open("a") as file:
                file.write(f"{line}\n")
            return
        self._lines.append(line)
        write_text(self._jsonl, "".join(f"{kept}\n" for kept in self._lines))
        self._appends = "://" not in str(self._jsonl)

    def close(self) -> None:
        """Closes the event file."""
        if self._events is not None:
            self._events.close()


def _step(line: str) -> int | None:
    """Parses the step of a line of metrics; None if the line is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None


class StepLog:
    """Reports steps by a progress bar, log lines and files. Use as a context manager."""

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
        """Opens the log of a run from `first_step` to `last_step` that is at `step`.

        Args:
          folder: gets metrics.jsonl and event files, with the metric names of T5X.
          first_step: absolute step that training began at.
          step: absolute step that the run is at.
          last_step: absolute step to end at.
          learning_rate: schedule, logged for the last step.
          bar: whether to show a progress bar; at most one can be shown at a time.
          unwritten: sums of the steps since the last line, for a resumed run.
        """
        folder, self._learning_rate = epath.Path(folder), learning_rate
        self._writer = MetricWriter(
            folder / "metrics.jsonl", events=folder, after_step=step, prefix=""
        )
        self._bar = progress(last_step - first_step, step - first_step, shown=bar)
        self._waiting: list[Mapping[str, float | jax.Array]] = [*unwritten]
        self.restart()

    def restart(self) -> None:
        """Restarts the clock, so that evaluations do not count as time of steps."""
        self._untimed, self._since = len(self._waiting), time.monotonic()

    def add(self, sums: Mapping[str, jax.Array]) -> None:
        """Adds the sums of a step without waiting for the device."""
        self._waiting.append(sums)
        self._bar.advance(0)

    def unwritten(self) -> list[dict[str, float]]:
        """Returns the sums of the steps since the last line, as floats for JSON."""
        sums = jax.device_get(self._waiting)
        return [{name: float(x) for name, x in of_step.items()} for of_step in sums]

    def write(self, step: int, others: Mapping[str, float]) -> float | None:
        """Logs means over the steps since the last line, and `others`; returns the mean loss.

        Skipped (non-finite) steps are not in the means. Returns None if all were skipped.
        """
        everything = self.unwritten()
        seconds, timed = time.monotonic() - self._since, everything[self._untimed :]
        sums = [of_step for of_step in everything if not of_step["skipped"]]
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
        other_metrics = "".join(f"  {name} {value:.2f}" for name, value in others.items())
        logging.info(
            "step %d  %s  accuracy %.3f%s  %.2f steps/s",
            step, note, means["accuracy"], other_metrics, means["timing/steps_per_second"],
        )  # fmt: skip
        return means[LOSS]

    def __enter__(self) -> "StepLog":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        self._writer.close()


def mean_losses(sums: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns T5X's metrics, from sums per batch as returned by `model.loss`."""
    total = {name: sum(float(of_batch[name]) for of_batch in sums) for name in sums[0]}
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
    """Writes a file atomically."""
    atomic.write(path, text.encode())


def check_folder(folder: Any, setting: str) -> None:
    """Raises ValueError unless the value of `setting` is the path of a folder, new or not."""
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
    """Writes config.gin; keeps a different one, used up to `step`, as config_<step>.gin.

    With several processes, all have read the folder before the first process writes.

    Raises:
      OSError: `folder`, the value of `setting`, is not writable.
    """
    atomic.wait_for_writer(f"start {folder}")
    config = epath.Path(folder) / "config.gin"
    try:
        if step is not None and config.exists() and (text := config.read_text()) != config_text:
            kept = config.with_name(f"config_{step}.gin")
            if not kept.exists():  # else no step was trained with the later config
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
    """Writes to the current sys.stderr, which rich replaces while it shows a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def set_up_logging() -> None:
    """Logs one line per message to standard error, and only warnings of libraries."""
    # TensorFlow reads it when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("absl", "jax", "orbax", "tensorflow", "seqio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def model_info(trainable: Tree, params: Tree) -> str:
    """Returns T5X's model-info.txt, one line per parameter: trainable, path, size, shape, sharding."""
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
    """Formats rows as aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(f"  {line}" for line in lines)
