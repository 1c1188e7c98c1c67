"""Freed memory is kept: what malloc is told, and where."""

import pytest

from prompt_tuning.cli import host_memory


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
    # Of malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD.
    assert called == ([(-8, 1), (-4, 0), (-1, -1)] if expected else [])
