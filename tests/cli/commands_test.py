"""The table of commands."""

import importlib
import inspect

import pytest

from prompt_tuning.cli import commands


@pytest.mark.parametrize("verb", commands.VERBS)
def test_a_function_takes_the_flags_of_its_command(verb):
    command = commands.VERBS[verb]
    function = getattr(importlib.import_module(command.module), command.function)
    names = {each.get("dest", flag.lstrip("-")) for flag, each in command.flags.items()}
    assert names <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize("mesh", ["8", "0x4", "8x", "axb", "8x4x1", "-8x4", "8X4", "8 x4", "08x4"])
def test_a_mesh_is_two_numbers(mesh):
    parse = commands.VERBS["describe"].flags["--mesh"]["type"]
    assert parse("12x4") == (12, 4)
    with pytest.raises(commands.UsageError) as caught:
        parse(mesh)
    assert f"--mesh is '{mesh}'" in str(caught.value) and "--mesh 8x4" in str(caught.value)
