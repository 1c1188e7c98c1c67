"""Freed memory is kept: looked at from a process of its own."""

import subprocess
import sys

import pytest

from prompt_tuning.runtime import host_memory

PROGRAM = """
import os, resource, sys
from prompt_tuning.runtime import host_memory
if sys.argv[1] == "keep":
    assert host_memory.keep_freed()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: jnp.sort(jnp.cos(x))[::-1].sum())
x = jnp.arange(5_000_000.0)
for _ in range(3):
    step(x).block_until_ready()
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def faults(how: str) -> int:
    """Pages that the kernel had to give in a step that needs 20 MB and more.

    The least of five: a busy kernel takes pages back at times.
    """
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True
    )
    return int(found.stdout)


def test_a_step_finds_the_memory_of_the_step_before():
    assert faults("keep") < 300 < 5_000_000 * 4 / 4096 / 2 < faults("leave")


@pytest.mark.parametrize(
    ("platforms", "plugin", "expected"),
    [
        ("cpu", True, True),
        ("cuda,cpu", False, False),
        ("", True, False),
        ("", False, True),
    ],
)
def test_only_where_the_cpu_computes(monkeypatch, platforms, plugin, expected):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda _: plugin or None)
    called = []

    class Library:
        def mallopt(self, name, value):
            called.append((name, value))
            return 1

    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: Library())
    monkeypatch.setattr(host_memory.sys, "platform", "linux")
    assert host_memory.keep_freed() is expected
    assert bool(called) is expected
