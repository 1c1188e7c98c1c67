"""How fast this package is, and how much memory it takes, against Hugging Face PEFT on the same machine.

Each program runs in a process of its own and they alternate, so that a ratio is of runs that followed
each other; every figure is the median of --repeats. Each turn is a JSON line of its own ("turn") as soon as it is
measured, so that a benchmark that is stopped keeps its figures. Weights are random. PEFT is measured where torch,
transformers and peft can be imported by --peer-python. TensorFlow is needed by `start` only. Wait for a
quiet machine: with another job on it every figure is worthless.
"""

import argparse
import datetime
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import bench_report
import bench_sizes
import bench_workers

OURS, PEER = "bench_ours.py", "bench_peft.py"
Records = list[bench_workers.Json]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses, measures, reports."""
    options = parser().parse_args(arguments)
    started = {
        "command": options.command,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
    }

    def write(record: bench_workers.Json) -> None:
        bench_report.write_line(started | record, options.output)

    options.report = write
    records = []
    for record in options.measure(options):
        write(record)
        records.append(record)
    print(f"\n{bench_report.table(records)}", file=sys.stderr)
    if options.command == "train":
        print(bench_report.arithmetic(records, options.peak_tflops), file=sys.stderr)
    if options.plot and options.command != "growth":
        bench_report.plot_bars(records, options.plot, f"{options.command}, {options.size}")


def train(options: argparse.Namespace) -> Records:
    """One padded step, and the dense products it is made of."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "target_length")
    shape |= _settings(options, "dropout", "steps")
    ours = _ours("ours", "train", {**shape, "dtype": options.dtype})
    rows = options.batch * (options.prompt_length + options.input_length)
    size = bench_sizes.SIZES[options.size]
    # About as long as the step: the kernels' forward and backward products of both stacks.
    times = max(1, 2 * size.num_layers * options.steps)
    dense = {"size": options.size, "rows": rows, "dtype": options.dtype, "times": times}
    products = [
        _ours("products, XLA", "products", {**dense, "library": "xla"}),
        _peer(options, "products, torch", "products", dense),
    ]
    if options.dtype == "float32":
        products.append(_ours("products, numpy", "products", {**dense, "library": "numpy"}))
    return _measure(options, [ours, *_peers(options, "train", shape, compiled=True), *products])


def file(options: argparse.Namespace) -> Records:
    """From a TSV file to a prompt that its batches have moved."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "target_length")
    shape |= _settings(options, "dropout") | {"path": options.file}
    settings = {**shape, "dtype": options.dtype, "vocabulary": options.vocabulary}
    # Every padded batch takes as long as another: a few of them do.
    numbers = {"padded": min(options.padded_examples, options.examples)}
    programs = [
        _ours(f"ours, {mode}", "file",
              {**settings, "mode": mode, "examples": numbers.get(mode, options.examples)})
        for mode in ("padded", "bucketed", "packed")
    ]  # fmt: skip
    shape["examples"] = options.examples
    with tempfile.TemporaryDirectory() as folder:
        shape["pieces_file"] = _pieces(options.vocabulary, folder)
        return _measure(options, [*programs, *_peers(options, "file", shape, compiled=True)])


def decode(options: argparse.Namespace) -> Records:
    """Greedy decoding of a fixed number of tokens."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "target_length")
    shape |= _settings(options, "steps")
    ours = _ours("ours", "decode", {**shape, "dtype": options.dtype})
    return _measure(options, [ours, *_peers(options, "decode", shape)])


def score(options: argparse.Namespace) -> Records:
    """Which of two labels: by scoring both, against decoding an answer."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "examples")
    shape |= {"path": options.file}
    settings = {**shape, "dtype": options.dtype, "vocabulary": options.vocabulary}
    with tempfile.TemporaryDirectory() as folder:
        theirs = {**shape, **_settings(options, "target_length")}
        theirs["pieces_file"] = _pieces(options.vocabulary, folder)
        programs = [_ours("ours", "score", settings), *_peers(options, "score", theirs)]
        return _measure(options, programs)


def load(options: argparse.Namespace) -> Records:
    """Reading a model of the page cache in each format, and saving what a run needs to resume."""
    dtypes = ("float32", "bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        model = {"size": options.size, "folder": folder}
        _prepare(_ours("models", "write_models", model))
        ours = [
            _ours(f"ours, {each}, {dtype}", "load", {**model, "format": each, "dtype": dtype})
            for each in ("t5x", "orbax", "huggingface")
            for dtype in dtypes
        ]
        peers = [
            _peer(
                options, f"peft, huggingface, {dtype}", "load", {"folder": folder, "dtype": dtype}
            )
            for dtype in dtypes
        ]
        saved = _ours("state, save", "save", _settings(options, "size", "prompt_length"))
        return _measure(options, [*ours, *peers, saved])


def start(options: argparse.Namespace) -> Records:
    """From the command to the first step."""
    import bench_commands

    return bench_commands.start(options.repeats, options.report)


def stack(options: argparse.Namespace) -> Records:
    """Prompts of several seeds that are tuned in one program, against a command for each."""
    import bench_commands

    return bench_commands.stack(options.repeats, options.seeds, options.steps, options.report)


def growth(options: argparse.Namespace) -> Iterator[bench_workers.Json]:
    """A step of this package against the lengths, the batch and the size; what does not grow stays as given."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "target_length")
    shape |= _settings(options, "dropout", "dtype", "steps")
    grown = {
        "input_length": options.input_lengths,
        "prompt_length": options.prompt_lengths,
        "batch": options.batches,
        "size": options.sizes,
    }
    curves: dict[str, list[bench_report.Point]] = {}
    for what, values in grown.items():
        curves[what.replace("_", " ")] = points = []
        for value in values:
            program = _ours(f"ours, {what} {value}", "train", {**shape, what: value})
            record = _measure(options, [program])[0]
            large = record.get("facts", {}).get("parameters") if what == "size" else value
            points.append(bench_report.Point(str(value), large, record))
            yield record
    print(bench_report.growth_table(curves), file=sys.stderr)
    if options.plot:
        bench_report.plot_growth(curves, options.plot)


def _settings(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _ours(name: str, program: str, settings: dict[str, Any]) -> bench_workers.Program:
    return bench_workers.Program(name, OURS, program, settings)


def _peer(options, name: str, program: str, settings: dict[str, Any]) -> bench_workers.Program:
    return bench_workers.Program(name, PEER, program, settings, options.peer_python)


def _peers(options, program: str, shape: dict[str, Any], compiled: bool = False):
    """PEFT in each of --peer-dtype and, where it is `compiled` too and asked for, by torch.compile."""
    peers = [
        _peer(options, f"peft, {dtype}", program, {**shape, "dtype": dtype})
        for dtype in options.peer_dtype
    ]
    if compiled and options.peer_compile:
        settings = {**shape, "dtype": options.peer_dtype[0], "compiled": True}
        peers.append(_peer(options, "peft, torch.compile", program, settings))
    return peers


def _measure(options: argparse.Namespace, programs: list[bench_workers.Program]) -> Records:
    return bench_workers.measure(programs, options.repeats, options.rest, options.report)


def _prepare(program: bench_workers.Program) -> None:
    worker = bench_workers.Worker(program)
    worker.prepare()
    worker.close()


def _pieces(vocabulary: str, folder: str) -> str:
    target = str(pathlib.Path(folder) / "pieces.json")
    _prepare(_ours("pieces", "pieces", {"vocabulary": vocabulary, "file": target}))
    return target


# Command -> (function, defaults of the flags it has, an example).
COMMANDS = {
    "train": (
        train,
        {"size": "small", "batch": 8, "input_length": 128, "prompt_length": 100, "target_length": 8,
         "dropout": 0.1, "dtype": "float32", "steps": 1, "peak_tflops": None, "peer_compile": False},
        "--size small --peer-python ~/hf/bin/python --peer-dtype float32 autocast bfloat16",
    ),
    "file": (
        file,
        {"size": "small", "batch": 32, "input_length": 512, "prompt_length": 100, "target_length": 8,
         "dropout": 0.1, "dtype": "float32", "file": None, "vocabulary": None, "examples": 320,
         "padded_examples": 32, "peer_compile": False},
        "--file train.tsv --vocabulary spiece.model --peer-python ~/hf/bin/python",
    ),
    "decode": (
        decode,
        {"size": "small", "batch": 8, "input_length": 128, "prompt_length": 100, "target_length": 8,
         "dtype": "float32", "steps": 1},
        "--size base --peer-python ~/hf/bin/python",
    ),
    "score": (
        score,
        {"size": "small", "batch": 32, "input_length": 512, "prompt_length": 100, "target_length": 4,
         "dtype": "float32", "file": None, "vocabulary": None, "examples": 872},
        "--file dev.tsv --vocabulary spiece.model --peer-python ~/hf/bin/python",
    ),
    "load": (
        load,
        {"size": "base", "prompt_length": 100},
        "--size base --peer-python ~/hf/bin/python",
    ),
    "start": (start, {}, "--repeats 5"),
    "stack": (stack, {"seeds": 5, "steps": 600}, "--repeats 3"),
    "growth": (
        growth,
        {"size": "small", "batch": 8, "input_length": 128, "prompt_length": 100, "target_length": 8,
         "dropout": 0.1, "dtype": "float32", "steps": 1, "input_lengths": [64, 128, 256, 512],
         "prompt_lengths": [1, 20, 100, 200], "batches": [1, 2, 4, 8, 16],
         "sizes": ["tiny", "small", "base"]},
        "--plot growth.png",
    ),
}  # fmt: skip
SIZE_NAMES = list(bench_sizes.SIZES)
FLAGS: dict[str, dict[str, Any]] = {
    "size": {"choices": SIZE_NAMES, "help": "of T5 1.1 (tiny: D 64)"},
    "batch": {"type": int, "help": "B, examples of a step"},
    "input_length": {"type": int, "help": "T, input tokens; for files the most that are kept"},
    "prompt_length": {"type": int, "help": "P, soft tokens"},
    "target_length": {"type": int, "help": "L, target tokens; for score the most that PEFT decodes"},
    "dropout": {"type": float, "help": "rate, while training"},
    "dtype": {"choices": ["float32", "bfloat16"], "help": "of our activations and frozen weights"},
    "seeds": {"type": int, "help": "prompts"},
    "steps": {"type": int, "help": "steps of one timed turn: more where a step is short"},
    "peak_tflops": {"type": float, "help": "what the device is said to reach (H200, dense bfloat16: 989)"},
    "file": {"metavar": "TSV", "required": True, "help": "SST-2's: header `sentence<TAB>label`"},
    "vocabulary": {"metavar": "FILE", "required": True, "help": "T5's sentencepiece model"},
    "examples": {"type": int, "help": "first lines of the file to read"},
    "padded_examples": {"type": int, "help": "the same, padded to the limit: each batch takes as long"},
    "input_lengths": {"type": int, "nargs": "+", "metavar": "T", "help": "to grow over"},
    "prompt_lengths": {"type": int, "nargs": "+", "metavar": "P", "help": "to grow over"},
    "batches": {"type": int, "nargs": "+", "metavar": "B", "help": "to grow over"},
    "sizes": {"nargs": "+", "choices": SIZE_NAMES, "metavar": "SIZE", "help": "to grow over"},
    "peer_compile": {"action": "store_true", "help": "also PEFT under torch.compile"},
}  # fmt: skip
PEER_DTYPES = ["float32", "autocast", "bfloat16"]


def parser() -> argparse.ArgumentParser:
    """The flags; each command has those that mean something to it."""
    root = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="command")
    for name, (measure, defaults, example) in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=measure.__doc__,
            description=measure.__doc__,
            epilog=f"example: python scripts/bench.py {name} {example}",
        )
        sub.set_defaults(measure=measure)
        for flag, default in defaults.items():
            more = {} if FLAGS[flag].get("required") else {"default": default}
            text = FLAGS[flag]["help"] + (f" (default: {default})" if default else "")
            sub.add_argument(f"--{flag.replace('_', '-')}", **{**FLAGS[flag], **more, "help": text})
        _add_shared_flags(sub, peer=name not in ("start", "stack", "growth"))
    return root


def _add_shared_flags(sub: argparse.ArgumentParser, peer: bool) -> None:
    sub.add_argument(
        "--repeats", type=int, default=5, help="timed turns of each program (default: 5)"
    )
    sub.add_argument("--output", metavar="FILE", help="JSON lines are appended (default: printed)")
    sub.add_argument("--plot", metavar="PNG", help="a picture of the figures")
    sub.add_argument(
        "--rest", type=float, default=1.0, help="seconds of silence before a turn (default: 1)"
    )
    if peer:
        sub.add_argument(
            "--peer-python", metavar="FILE", default=sys.executable,
            help="interpreter with torch, transformers and peft (default: this one)",
        )  # fmt: skip
        sub.add_argument(
            "--peer-dtype", nargs="+", choices=PEER_DTYPES, default=["float32"],
            help="PEFT in float32, with autocast to bfloat16, with bfloat16 weights (default: float32)",
        )  # fmt: skip


if __name__ == "__main__":
    main()
