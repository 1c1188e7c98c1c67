"""scripts/bench.py: measurements, reports, and analytic FLOPs."""

import json
import math
import pathlib
import subprocess
import sys
import time

import jax
import pytest
from flax import linen as nn

from prompt_tuning import params as params_lib
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import model

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"
# Makes imports of TensorFlow and torch fail.
WITHOUT_TENSORFLOW = """
import sys
sys.modules.update(dict.fromkeys(("tensorflow", "seqio", "torch")))
"""


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


@pytest.fixture
def sizes(scripts):
    import bench_sizes

    return bench_sizes


@pytest.fixture
def report(scripts):
    import bench_report

    return bench_report


def test_measures_a_step_without_tensorflow_and_reports_that_peft_is_missing(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    output = tmp_path / "lines.jsonl"
    flags = ["--size=tiny", "--batch=2", "--input-length=40", "--prompt-length=4"]
    flags += ["--repeats=2", "--rest=0", "--dropout=0"]
    shown = subprocess.run(
        [sys.executable, SCRIPTS / "bench.py", "train", *flags, f"--output={output}"],
        env={"PYTHONPATH": str(tmp_path), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    records = {line["program"]: line for line in lines if "repeat" not in line}
    repeats = [line for line in lines if line["program"] == "prompt-tuning" and "repeat" in line]
    step, facts = records["prompt-tuning"], records["prompt-tuning"]["facts"]
    assert [repeat["seconds"] for repeat in repeats] == step["seconds"]
    assert len(step["seconds"]) == 2 and step["median"] == sum(step["seconds"]) / 2
    assert step["peak_bytes"] > 2**20
    # Other operations than products are a few percent at this width.
    assert 1 < facts["compiled_flops"] / facts["analytic_flops"] < 1.1
    assert records["products, XLA"]["median"] > 0
    for peer in ("peft, float32", "products, torch"):
        assert "PEFT is not available" in records[peer]["absent"]
    assert "the step reaches" in shown.stderr and "PEFT is not available" in shown.stderr


WORKER = """
import bench_workers
prepared = bench_workers.Prepared(lambda: None, {"examples": 3})
bench_workers.serve({"platform": "cpu"}, {"work": lambda: prepared}, lambda: 1)
"""
STOPPED = """
import sys, bench, bench_workers
worker, output = sys.argv[1:]
program = bench_workers.Program("mine", worker, "work", {})
bench.COMMANDS["fake"] = (lambda options: bench._measure(options, [program]), {}, "")
bench.main(["fake", "--repeats=100000", "--rest=0.01", f"--output={output}"])
"""


def test_a_killed_benchmark_keeps_complete_measurements(tmp_path):
    worker, output = tmp_path / "worker.py", tmp_path / "lines.jsonl"
    worker.write_text(WORKER)
    output.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, worker, output],
        env={"PYTHONPATH": f"{SCRIPTS}"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while output.read_bytes().count(b"\n") < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["repeat"] for line in lines] == list(range(1, len(lines) + 1)) and len(lines) > 4
    for line in lines:
        assert (line["command"], line["program"], line["settings"]) == ("fake", "mine", {})
        assert line["seconds"] > 0 and line["facts"]["examples"] == 3 and line["peak_bytes"] == 1


@pytest.mark.parametrize("command", ["start", "stack"])
def test_commands_report_each_measurement(scripts, monkeypatch, command):
    import bench_commands

    times, repeats = iter(range(1, 100)), []
    monkeypatch.setattr(bench_commands, "_seconds", lambda *_: float(next(times)))
    sizes = (2, 1) if command == "stack" else ()
    records = getattr(bench_commands, command)(2, *sizes, repeats.append)
    by_program = {record["program"]: record["seconds"] for record in records}
    assert len(by_program) == 2 and len(repeats) == 4
    for name, seconds in by_program.items():
        assert [x["seconds"] for x in repeats if x["program"] == name] == seconds
        assert [x["repeat"] for x in repeats if x["program"] == name] == [1, 2]


LOAD = """
import sys, bench_prompt_tuning as worker
settings = {"size": "tiny", "folder": sys.argv[1]}
worker.write_models(**settings)
growth = []
for name in ("t5x", "orbax", "huggingface"):
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        prepared = worker.load(**settings, format=name, dtype=dtype)
        assert prepared.facts["weights_bytes"] == size * 4_310_016, prepared.facts
        growth.append(prepared.facts["growth_bytes"])
# Later loads may reuse memory of earlier ones.
assert growth[0] > 0 and max(growth) < 2**28, growth
"""


def test_loads_every_format_and_measures_its_memory(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "models"],
        env={"PYTHONPATH": f"{tmp_path}:{SCRIPTS}:{SCRIPTS.parent}"},
        check=True,
    )


def test_memory_growth_is_relative_to_the_weights(report):
    facts = {"growth_bytes": 110, "weights_bytes": 100}
    record = {"facts": facts, "peak_bytes": 3 * 2**30}
    assert report.memory(record) == "3.00 GiB (growth 1.10 × the weights)"
    assert report.memory({**record, "facts": {}}) == "3.00 GiB"


def test_analytic_flops_match_the_compiled_gradient(sizes):
    size = sizes.Size(256, 4, 64, 512, num_layers=2, vocab_size=512)
    batch, inputs, prompt, targets = 4, 40, 8, 48
    tuned = model.EncoderDecoderModel(_config(size), prompt_method.Prompt(prompt))
    weights = nn.unbox(tuned.abstract_params())

    def gradient(table, frozen, ids, targets_BL):
        def loss(table):
            merged = params_lib.merge(frozen, params_lib.unflatten({prompt_method.PATH: table}))
            data = {
                "encoder_input_tokens": ids,
                "decoder_input_tokens": targets_BL,
                "decoder_target_tokens": targets_BL,
                "decoder_loss_weights": targets_BL,
            }
            return tuned.loss(merged, data)[0]

        return jax.grad(loss)(table)

    table, frozen = params_lib.split(weights, (".*/prompt/.*",))
    ids, targets_BL = (
        jax.ShapeDtypeStruct((batch, n), jax.numpy.int32) for n in (prompt + inputs, targets)
    )
    table = params_lib.flatten(table)[prompt_method.PATH]
    compiled = jax.jit(gradient).lower(table, frozen, ids, targets_BL).compile()
    counted = compiled.cost_analysis()["flops"]
    analytic = sizes.train_flops(size, batch, inputs, prompt, targets)
    assert 1 <= counted / analytic < 1.05


def _config(size) -> config_lib.T5Config:
    return config_lib.T5Config(
        vocab_size=size.vocab_size,
        embed_dim=size.embed_dim,
        num_heads=size.num_heads,
        head_dim=size.head_dim,
        mlp_dim=size.mlp_dim,
        num_encoder_layers=size.num_layers,
        num_decoder_layers=size.num_layers,
    )


def test_sizes_match_the_gin_files(sizes):
    macros = {
        "EMBED_DIM": "embed_dim",
        "NUM_HEADS": "num_heads",
        "MLP_DIM": "mlp_dim",
        "NUM_ENCODER_LAYERS": "num_layers",
        "NUM_DECODER_LAYERS": "num_layers",
    }
    for name, size in sizes.SIZES.items():
        if name != "tiny":
            text = (SCRIPTS.parent / "gin" / "models" / "sizes" / f"{name}.gin").read_text()
            for macro, field in macros.items():
                assert f"\n{macro} = {getattr(size, field)}\n" in text, (name, macro)
    assert {(size.vocab_size, size.head_dim) for size in sizes.SIZES.values()} == {
        (32128, 16),
        (32128, 64),
    }


def test_ratio_is_the_median_over_neighboring_repeats_per_example(report):
    record = {"seconds": [1.0, 10.0, 2.0], "facts": {"examples": 4}}
    peer = {"seconds": [3.0, 30.0, 2.0], "facts": {"examples": 8}}
    assert report.ratio(peer, record) == 1.5


def test_summary_has_median_and_spread(scripts):
    import bench_workers

    assert bench_workers.summary([1, 9, 2]) == {"seconds": [1, 9, 2], "median": 2, "spread": 4}


def test_exponent_of_a_power(report):
    assert math.isclose(report.exponent([1, 2, 4], [3, 12, 48]), 2)


def test_growth_table_skips_failed_points(report):
    points = []
    for n in (1, 2):
        facts = {"compiled_flops": 2e9 * n, "temporary_bytes": 2**30 * n**3}
        record = {"median": 0.1 * n, "settings": {}, "facts": facts, "peak_bytes": 2**30 * n**2}
        points.append(report.Point(str(n), n, record))
    failed = report.Point("4", 4, {"absent": "no memory"})
    assert report.growth_table({"batch": [*points, failed]}).splitlines()[2:5] == [
        "| 1 | 0.1 | 20 | 1 | 1 |",
        "| 2 | 0.2 | 20 | 8 | 4 |",
        "| exponent | 1.00 | | 3.00 | 2.00 |",
    ]
