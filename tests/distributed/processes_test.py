"""Processes that meet: what they compare, and what is said where they differ."""

import contextlib
import platform
import socket
import sys
import types

import jax
import pytest

import prompt_tuning
from prompt_tuning.distributed import interrupts, processes, watch
from prompt_tuning.training import background

SETTINGS = "import math\n\nA = 1\nB = 2\n"


def test_the_same_has_the_same_facts():
    mine = processes.facts(SETTINGS)
    assert mine == processes.facts(SETTINGS) and processes.differing(mine, mine) == []
    assert mine["Python"] == platform.python_version() and mine["jax"] == jax.__version__
    assert mine["prompt_tuning"].startswith(f"{prompt_tuning.__version__}, files ")


def test_what_differs_is_named():
    mine = processes.facts(SETTINGS)
    other = {**processes.facts("import math\n\nA = 1\nB = 3\n"), "jax": "0.1"}
    assert processes.differing(mine, other) == [
        f"jax: 0.1, expected {jax.__version__}",
        "settings: B = 2, expected",
        "settings: B = 3",
    ]
    many = processes.differing(mine, processes.facts("\n".join(map(str, range(30)))))
    assert len(many) == processes.MAX_LINES + 1 and many[-1] == "…"


def test_code_is_compared_ours_and_the_users(tmp_path, monkeypatch):
    package = tmp_path / "prompt_tuning"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(prompt_tuning, "__file__", str(package / "__init__.py"))
    user_module = types.ModuleType("my_tasks")
    user_module.__file__ = str(tmp_path / "my_tasks.py")
    monkeypatch.setitem(sys.modules, "my_tasks", user_module)
    (tmp_path / "my_tasks.py").write_text("# none yet")
    settings = "from my_tasks import tasks\n"
    all_facts = []
    for text in ("", "x = 1"):
        for file in (package / "more.py", tmp_path / "my_tasks.py"):
            file.write_text(text)
            all_facts.append(processes.facts(settings))
    for before, after, name in zip(
        all_facts[1:], all_facts[2:], ("prompt_tuning", "module my_tasks"), strict=False
    ):
        (line,) = processes.differing(before, after)
        assert line.startswith(f"{name}: ")


@pytest.fixture
def met(monkeypatch):
    """(settings of the others) -> what `_accept_all` and each `_join` returned, or raised."""
    opened = contextlib.ExitStack()

    def meet(*others):
        monkeypatch.setattr(jax, "process_count", lambda: 1 + len(others))
        server = opened.enter_context(socket.create_server(("localhost", 0)))
        address = server.getsockname()[:2]
        for line in (b"GET / HTTP/1.1\r\n", b"[]\n", b"[" * 100_000 + b"\n"):
            with socket.create_connection(address) as stray:
                stray.sendall(line)

        def hello(index, settings):
            facts = processes.facts(settings)
            return {"name": f"process {index}", "facts": facts, "token": "a"}

        calls = [background.Background(lambda: processes._accept_all(server, hello(0, SETTINGS)))]
        for index, settings in enumerate(others, 1):
            message = hello(index, settings)
            calls.append(background.Background(lambda m=message: processes._join(address, m, 10)))
        results = []
        for call in calls:
            try:
                results.append(call.result())
                for link in results[-1].values():
                    opened.enter_context(link)
            except ValueError as error:
                results.append(str(error))
        return results

    with opened:
        yield meet


def test_all_that_run_the_same_are_linked_with_the_first(met):
    first, *others = met(SETTINGS, SETTINGS)
    assert first.keys() == {"process 1", "process 2"}
    assert [each.keys() for each in others] == [{"process 0"}] * 2
    others[1]["process 0"].sendall(b"from 2")
    assert first["process 2"].recv(100) == b"from 2"


def test_all_say_which_one_differs(met):
    errors = met(SETTINGS, "import math\n\nA = 5\nB = 2\n")
    assert len(set(errors)) == 1
    assert errors[0].startswith("process 2 differs from process 0:\n")
    assert (
        "A = 1, expected" in errors[0]
        and "A = 5" in errors[0]
        and "same installation, flags" in errors[0]
    )


def test_a_first_process_that_cannot_be_reached():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = free.getsockname()
    with pytest.raises(OSError, match=r"cannot connect to process 0 at 127\.0\.0\.1, port"):
        processes._join(address, {"name": "process 1"}, 1)


def test_a_first_process_that_goes_before_it_answers():
    with socket.create_server(("localhost", 0)) as server:
        address = server.getsockname()
        call = background.Background(lambda: processes._join(address, {"name": "process 1"}, 10))
        server.accept()[0].close()
        with pytest.raises(OSError, match="process 0 has exited, or did not reply to process 1"):
            call.result()


def test_a_machine_is_reached_at_its_local_address():
    with socket.create_server((processes._local_address(), 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_numbers_of_devices_are_compared(monkeypatch):
    devices = [types.SimpleNamespace(process_index=i) for i in (0, 0, 1)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with pytest.raises(ValueError, match="process 0 has 2, process 1 has 1"):
        processes._check_devices()


@pytest.mark.parametrize(
    ("preemption", "error", "expected"),
    [
        (False, None, ["end"]),
        (True, interrupts.Terminated, ["handler restored", "end"]),  # all stop after the same step
        (True, KeyboardInterrupt, ["handler restored", "fail"]),
    ],
)
def test_a_single_process_initializes_jax_and_ends(monkeypatch, preemption, error, expected):
    """JAX gets timeouts that are later than those of the package."""
    calls, ends = [], []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **more: calls.append((*a, more)))
    monkeypatch.setattr(jax.config, "update", lambda *each: calls.append(each))
    monkeypatch.setattr(interrupts, "catch", lambda: ends.append("handler restored"))
    monkeypatch.setattr(watch, "_delay_aborts", lambda: None)
    monkeypatch.setattr(watch.Watch, "end", lambda self: ends.append("end"))
    monkeypatch.setattr(watch.Watch, "fail", lambda self, error: ends.append("fail"))
    several = {"coordinator_address": "localhost:1", "process_count": 1, "heartbeat_timeout": 7}
    with (
        pytest.raises(error) if error else contextlib.nullcontext(),
        processes.together("", preemption=preemption, **several),
    ):
        if error:
            raise error
    limits = {"initialization_timeout": 600, "heartbeat_timeout_seconds": 14}
    service = ("jax_enable_preemption_service", preemption)
    assert calls == [service, ("localhost:1", 1, None, limits)]
    assert ends == expected
