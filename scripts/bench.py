"""Benchmarks of speed and memory, compared with Hugging Face PEFT on the same machine.

Each program runs in a separate process. Programs alternate, so that a ratio compares neighboring
runs; figures are medians of --repeats. Each repeat is written as a JSON line ("repeat") as soon as
it is measured, so an interrupted benchmark keeps its figures. Weights are random. PEFT is measured
if --peer-python can import torch, transformers and peft. Run it on an idle machine: other load
invalidates the figures.
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

WORKER, PEER_WORKER = "bench_prompt_tuning.py", "bench_peft.py"
Records = list[bench_workers.Json]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a benchmark and reports its records."""
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


def train(options: argparse.Namespace) -> Records:
    """One padded training step, and matrix products of its shapes."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "target_length")
    shape |= _settings(options, "dropout", "steps")
    step = _program("prompt-tuning", "train", {**shape, "dtype": options.dtype})
    rows = options.batch * (options.prompt_length + options.input_length)
    size = bench_sizes.SIZES[options.size]
    # About as long as a step: forward and backward products of encoder and decoder.
    times = max(1, 2 * size.num_layers * options.steps)
    dense = {"size": options.size, "rows": rows, "dtype": options.dtype, "times": times}
    products = [
        _program("products, XLA", "products", dense),
        _peer(options, "products, torch", "products", dense),
    ]
    return _measure(options, [step, *_peers(options, "train", shape), *products])


def file(options: argparse.Namespace) -> Records:
    """Training on a TSV file, reading and batching included."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "target_length")
    shape |= _settings(options, "dropout") | {"path": options.file}
    settings = {**shape, "dtype": options.dtype, "vocabulary": options.vocabulary}
    # All padded batches take equally long, so a few are enough.
    counts = {"padded": min(options.padded_examples, options.examples)}
    programs = [
        _program(f"prompt-tuning, {mode}", "file",
                 {**settings, "mode": mode, "examples": counts.get(mode, options.examples)})
        for mode in ("padded", "bucketed", "packed")
    ]  # fmt: skip
    shape["examples"] = options.examples
    with tempfile.TemporaryDirectory() as folder:
        shape["pieces_file"] = _write_pieces(options.vocabulary, folder)
        return _measure(options, [*programs, *_peers(options, "file", shape)])


def decode(options: argparse.Namespace) -> Records:
    """Greedy decoding of a fixed number of tokens."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "target_length")
    shape |= _settings(options, "steps")
    program = _program("prompt-tuning", "decode", {**shape, "dtype": options.dtype})
    return _measure(options, [program, *_peers(options, "decode", shape)])


def score(options: argparse.Namespace) -> Records:
    """Classification: label ranking, compared with PEFT's generation."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "examples")
    shape |= {"path": options.file}
    settings = {**shape, "dtype": options.dtype, "vocabulary": options.vocabulary}
    with tempfile.TemporaryDirectory() as folder:
        shape |= _settings(options, "target_length")
        shape["pieces_file"] = _write_pieces(options.vocabulary, folder)
        program = _program("prompt-tuning", "score", settings)
        return _measure(options, [program, *_peers(options, "score", shape)])


def load(options: argparse.Namespace) -> Records:
    """Loading a model from the page cache in each format, and saving the training state."""
    dtypes = ("float32", "bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        model = {"size": options.size, "folder": folder}
        _prepare(_program("models", "write_models", model))
        programs = [
            _program(f"prompt-tuning, {format}, {dtype}", "load",
                     {**model, "format": format, "dtype": dtype})
            for format in ("t5x", "orbax", "huggingface")
            for dtype in dtypes
        ]  # fmt: skip
        peers = [
            _peer(
                options, f"peft, huggingface, {dtype}", "load", {"folder": folder, "dtype": dtype}
            )
            for dtype in dtypes
        ]
        save = _program("state, save", "save", _settings(options, "size", "prompt_length"))
        return _measure(options, [*programs, *peers, save])


def start(options: argparse.Namespace) -> Records:
    """Time from the command to its first step."""
    import bench_commands

    return bench_commands.start(options.repeats, options.report)


def stack(options: argparse.Namespace) -> Records:
    """Several seeds in one command, compared with one command per seed."""
    import bench_commands

    return bench_commands.stack(options.repeats, options.seeds, options.steps, options.report)


def growth(options: argparse.Namespace) -> Iterator[bench_workers.Json]:
    """A training step for growing lengths, batches and sizes, one of them at a time."""
    shape = _settings(options, "size", "batch", "input_length", "prompt_length", "target_length")
    shape |= _settings(options, "dropout", "dtype", "steps")
    grown = {
        "input_length": options.input_lengths,
        "prompt_length": options.prompt_lengths,
        "batch": options.batches,
        "size": options.sizes,
    }
    curves: dict[str, list[bench_report.Point]] = {}
    for setting, values in grown.items():
        curves[setting.replace("_", " ")] = points = []
        for value in values:
            name = f"prompt-tuning, {setting} {value}"
            record = _measure(options, [_program(name, "train", {**shape, setting: value})])[0]
            size = record.get("facts", {}).get("parameters") if setting == "size" else value
            points.append(bench_report.Point(str(value), size, record))
            yield record
    print(bench_report.growth_table(curves), file=sys.stderr)
    if options.plot:
        bench_report.plot_growth(curves, options.plot)


def _settings(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def _program(name: str, function: str, settings: dict[str, Any]) -> bench_workers.Program:
    return bench_workers.Program(name, WORKER, function, settings)


def _peer(options, name: str, function: str, settings: dict[str, Any]) -> bench_workers.Program:
    return bench_workers.Program(name, PEER_WORKER, function, settings, options.peer_python)


def _peers(options, function: str, shape: dict[str, Any]) -> list[bench_workers.Program]:
    """PEFT in each of --peer-dtype."""
    return [
        _peer(options, f"peft, {dtype}", function, {**shape, "dtype": dtype})
        for dtype in options.peer_dtype
    ]


def _measure(options: argparse.Namespace, programs: list[bench_workers.Program]) -> Records:
    return bench_workers.measure(programs, options.repeats, options.rest, options.report)


def _prepare(program: bench_workers.Program) -> None:
    worker = bench_workers.Worker(program)
    worker.prepare()
    worker.close()


def _write_pieces(vocabulary: str, folder: str) -> str:
    file = str(pathlib.Path(folder) / "vocabulary.json")
    _prepare(_program("vocabulary", "write_pieces", {"vocabulary": vocabulary, "file": file}))
    return file


# Command -> (function, its flags with their defaults, an example).
COMMANDS = {
    "train": (
        train,
        {"size": "small", "batch": 8, "input_length": 128, "prompt_length": 100, "target_length": 8,
         "dropout": 0.1, "dtype": "float32", "steps": 1, "peak_tflops": None},
        "--size small --peer-python ~/hf/bin/python --peer-dtype float32 autocast bfloat16",
    ),
    "file": (
        file,
        {"size": "small", "batch": 32, "input_length": 512, "prompt_length": 100, "target_length": 8,
         "dropout": 0.1, "dtype": "float32", "file": None, "vocabulary": None, "examples": 320,
         "padded_examples": 32},
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
         "sizes": ["tiny", "small", "base"], "plot": None},
        "--plot growth.png",
    ),
}  # fmt: skip
SIZE_NAMES = list(bench_sizes.SIZES)
FLAGS: dict[str, dict[str, Any]] = {
    "size": {"choices": SIZE_NAMES, "help": "of T5 1.1 (tiny: D 64)"},
    "batch": {"type": int, "help": "B, examples per step"},
    "input_length": {"type": int, "help": "T, input tokens; the limit for files"},
    "prompt_length": {"type": int, "help": "P, soft tokens"},
    "target_length": {"type": int, "help": "L, target tokens; for score the limit of PEFT's generation"},
    "dropout": {"type": float, "help": "rate in training"},
    "dtype": {"choices": ["float32", "bfloat16"], "help": "of activations and frozen weights of this package"},
    "seeds": {"type": int, "help": "number of prompts"},
    "steps": {"type": int, "help": "steps per repeat: more if a step is short"},
    "peak_tflops": {"type": float, "help": "nominal rate of the device (H200, dense bfloat16: 989)"},
    "file": {"metavar": "TSV", "required": True, "help": "SST-2, with the header `sentence<TAB>label`"},
    "vocabulary": {"metavar": "FILE", "required": True, "help": "T5's SentencePiece model"},
    "examples": {"type": int, "help": "rows of the file to read"},
    "padded_examples": {"type": int, "help": "rows to read if batches are padded to the limit"},
    "input_lengths": {"type": int, "nargs": "+", "metavar": "T", "help": "values to measure"},
    "prompt_lengths": {"type": int, "nargs": "+", "metavar": "P", "help": "values to measure"},
    "batches": {"type": int, "nargs": "+", "metavar": "B", "help": "values to measure"},
    "sizes": {"nargs": "+", "choices": SIZE_NAMES, "metavar": "SIZE", "help": "values to measure"},
    "plot": {"metavar": "PNG", "help": "image file for a plot"},
}  # fmt: skip
PEER_DTYPES = ["float32", "autocast", "bfloat16"]


def parser() -> argparse.ArgumentParser:
    """The parser, with the flags of each command."""
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
    sub.add_argument("--repeats", type=int, default=5, help="measurements per program (default: 5)")
    sub.add_argument(
        "--output", metavar="FILE", help="file to append JSON lines to (default: standard output)"
    )
    sub.add_argument(
        "--rest", type=float, default=1.0, help="idle seconds before each measurement (default: 1)"
    )
    if peer:
        sub.add_argument(
            "--peer-python", metavar="FILE", default=sys.executable,
            help="Python with torch, transformers and peft (default: this one)",
        )  # fmt: skip
        sub.add_argument(
            "--peer-dtype", nargs="+", choices=PEER_DTYPES, default=["float32"],
            help="float32, autocast to bfloat16, or bfloat16 weights (default: float32)",
        )  # fmt: skip


if __name__ == "__main__":
    main()
