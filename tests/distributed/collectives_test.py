"""Collectives are read as XLA writes them, with the axis they lie along."""

import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from prompt_tuning.distributed import collectives

# A program whose entry takes a loop of five rounds, and a call in each round.
PROGRAM = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p: f32[4]) -> f32[4] {
  ROOT %r = f32[4]{0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %c = f32[4]{0} call(%x), to_apply=%inner
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %c)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]{0}) while(%t), condition=%until, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %v = (s32[], f32[4]{0}) while(%w), condition=%until, body=%body
  ROOT %g = f32[4]{0} fusion(%v), kind=kLoop, calls=%fused
}
"""
PLAIN = "replica_groups=[2,4]<=[8]"


@pytest.fixture
def mesh(load):
    return load((2, 4)).mesh


def read(text, mesh):
    return collectives.read(types.SimpleNamespace(as_text=lambda: text), mesh)


def of_line(line, mesh):
    """What is read of a program of one line."""
    return read(f'ENTRY %main () -> f32[] {{\n  %x = {line}, metadata={{op_name="a/b"}}\n}}', mesh)


@pytest.mark.parametrize(
    ("groups", "axis"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", "model"),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", "data"),
        ("replica_groups={}", "data+model"),
        ("replica_groups=[2,4]<=[8]", "model"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", "data"),
        ("replica_groups=[1,8]<=[8]", "data+model"),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=4] {'c'}", "model"),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=4] {'a'}", "data"),
        ("replica_groups=mesh['a'=2,'c'=4] {'a','c'}", "data+model"),
        ("replica_groups=mesh['a'=4,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", "model"),
        ("replica_groups=mesh['a'=4,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", "data"),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", "data"),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", "model"),
        ("source_target_pairs={{0,1},{1,2},{6,4}}", "model"),
        ("source_target_pairs={{0,4},{5,1}}", "data"),
    ],
)
def test_groups_lie_along_an_axis(mesh, groups, axis):
    (collective,) = of_line(f"f32[2,3]{{1,0}} all-reduce(%p), {groups}, to_apply=%add", mesh)
    assert (collective.kind, collective.axis, collective.times, collective.source) == (
        "all-reduce",
        axis,
        1,
        "a/b",
    )


@pytest.mark.parametrize(
    ("line", "arrays", "size"),
    [
        ("f32[] all-reduce(%p)", ["f32[]"], 4),
        ("pred[2,3]{1,0} all-to-all(%p)", ["pred[2,3]"], 6),
        ("f8e4m3fn[6]{0} all-reduce(%p)", ["f8e4m3fn[6]"], 6),
        ("bf16[2,12]{1,0:T(8,128)(2,1)} all-gather(%p), dimensions={1}", ["bf16[2,12]"], 48),
        ("s32[2,3]{1,0} reduce-scatter(%p), dimensions={1}", ["s32[2,12]"], 96),
        ("(f32[2]{0}, /*index=1*/f32[3]{0}) all-reduce(%p, %q)", ["f32[2]", "f32[3]"], 20),
        ("(f32[2]{0}, f32[3]{0}) all-reduce-start(%p, %q)", ["f32[2]", "f32[3]"], 20),
        ("(f32[2]{0}, f32[8]{0}) all-gather-start(%p)", ["f32[8]"], 32),
        (
            "((f32[2]{0}, s8[1]{0}), (f32[8]{0}, s8[4]{0})) all-gather-start(%p, %q)",
            ["f32[8]", "s8[4]"],
            36,
        ),
        ("(f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(%p)", ["f32[2]"], 8),
    ],
)
def test_arrays_are_whole(mesh, line, arrays, size):
    (exchange,) = of_line(f"{line}, {PLAIN}", mesh)
    assert [str(array) for array in exchange.arrays] == arrays
    assert exchange.bytes == size


@pytest.mark.parametrize(
    "line",
    [
        f"f32[8]{{0}} all-gather-done(%p), {PLAIN}",
        "f32[8]{0} all-reduce(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}",
        "f32[8]{0} add(%all-reduce.1, %all-gather)",
    ],
)
def test_what_exchanges_nothing_is_left_out(mesh, line):
    assert of_line(line, mesh) == []


def test_groups_that_are_written_otherwise_are_an_error(mesh):
    with pytest.raises(ValueError, match=r"cannot parse .*: %x = f32"):
        of_line("f32[8]{0} all-reduce(%p), replica_groups=other", mesh)


def test_a_loop_counts_as_often_as_it_runs(mesh):
    assert [each.times for each in read(PROGRAM, mesh)] == [5, 1]


def test_rows_of_the_summary_add_up(mesh):
    lines = [
        f"f32[8]{{0}} all-gather(%p), {PLAIN}",
        f"f32[3,2]{{1,0}} all-reduce(%p), {PLAIN}",
        f"f32[2]{{0}} all-reduce(%p), {PLAIN}",
        "f32[1]{0} all-reduce(%p), replica_groups={}",
    ]
    exchanges = [each for line in lines for each in of_line(line, mesh)]
    assert [tuple(row.values()) for row in collectives.summarize(exchanges)] == [
        ("all-gather", "model", 1, 32, "f32[8]"),
        ("all-reduce", "model", 2, 32, "f32[3,2]"),
        ("all-reduce", "data+model", 1, 4, "f32[1]"),
    ]


def test_a_weight_that_is_gathered_is_found(mesh):
    def sharded(*axes):
        return NamedSharding(mesh, PartitionSpec(*axes))

    weight = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=sharded(None, "model"))
    rows = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=sharded("data"))
    gathered = jax.jit(jnp.cos, out_shardings=sharded()).lower(weight).compile()
    product = jax.jit(jnp.dot, out_shardings=sharded("data")).lower(rows, weight).compile()
    for program, count in ((gathered, 1), (product, 0)):
        exchanges = collectives.read(program, mesh)
        assert [(each.kind, each.axis) for each in exchanges] == [("all-gather", "model")]
        for shape in ((16, 32), (32, 16), (32, 1, 16)):
            assert len(collectives.weight_exchanges(exchanges, [(9, 9), shape])) == count
        assert not collectives.weight_exchanges(exchanges, [(16, 16)])
