"""Several processes become one run: they meet, compare what they run, and watch each other."""

import contextlib
import difflib
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import re
import secrets
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

import prompt_tuning
from prompt_tuning.data.files import tables
from prompt_tuning.distributed import interrupts, watch

INITIALIZATION_TIMEOUT, HEARTBEAT_TIMEOUT = 300, 100  # seconds; JAX's own
HELLO_TIMEOUT = 10  # seconds in which one that has come says who it is
ADDRESS_BYTES = 1024
MESSAGE_BYTES = 2**24  # settings have some kilobytes
LINES_TOLD = 10
VERSIONS = ("jax", "jaxlib", "numpy", "flax", "optax", "seqio", "tensorflow", "tensorflow-datasets")
Facts = Mapping[str, str]  # what processes have in common; "settings" has many lines


@contextlib.contextmanager
def together(
    settings: str,
    *,
    preemption: bool,
    coordinator_address: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    initialization_timeout: int | None = None,
    heartbeat_timeout: int | None = None,
) -> Iterator[None]:
    """Within it JAX computes with the devices of all processes.

    To be entered before the first array is made, and once in a process. A process that is
    gone ends the others, see `watch`; they also end where one raises an error.

    Args:
      settings: gin's text.
      preemption: JAX's preemption service takes SIGTERM, and is asked at each step of training.
      coordinator_address: where process 0 listens, "host:port"; None where the cluster tells.
      process_count: of the run; None where the cluster tells.
      process_index: of this process; None where the cluster tells.
      initialization_timeout: seconds that processes wait for each other; None for 300.
      heartbeat_timeout: seconds that a process may be silent; None for 100.

    Raises:
      ValueError: another process runs other code, or has other settings or devices.
      OSError: another process cannot be reached.
    """
    wait = initialization_timeout or INITIALIZATION_TIMEOUT
    limit = heartbeat_timeout or HEARTBEAT_TIMEOUT
    absent = (
        f"not all processes connected to {coordinator_address or 'the cluster'} within {wait} s "
        f"(this is process {process_index} of {process_count}); expected all of them. Start all "
        "with the same --coordinator_address and --process_count, and with --process_index 0, 1, "
        "…, or raise --initialization_timeout."
    )
    # JAX aborts, and does not say why: its limits are later than ours.
    late = threading.Timer(wait, watch.leave, (absent, watch.MENDABLE))
    late.start()
    jax.config.update("jax_enable_preemption_service", preemption)
    try:
        jax.distributed.initialize(
            coordinator_address,
            process_count,
            process_index,
            initialization_timeout=2 * wait,
            heartbeat_timeout_seconds=2 * limit,
        )
        if jax.process_count() > 1:
            interrupts.raise_control_c()
        elif preemption:
            interrupts.catch()  # JAX has taken SIGTERM, which it tells other processes
        _check_devices()
        given = (coordinator_address or "").rpartition(":")[0].strip("[]")
        links = _meet(given or _own_address(), settings, wait)
    finally:
        late.cancel()
    watching = watch.Watch(_name(), links, limit)
    try:
        yield
    except BaseException as error:
        if isinstance(error, interrupts.Terminated):
            watching.end()  # all have stopped after the same step
        else:
            watching.fail(error)
        raise
    watching.end()


def _name() -> str:
    return f"process {jax.process_index()} (on {socket.gethostname()})"


def _check_devices() -> None:
    """Raises ValueError where processes have different numbers of devices, which JAX does not share."""
    devices = Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        told = ", ".join(f"process {i} has {n}" for i, n in sorted(devices.items()))
        raise ValueError(
            f"processes have different numbers of devices: {told}; expected the same number on "
            "each. Start each on machines with the same devices."
        )


def _own_address() -> str:
    """This machine's towards others; its name where it has no way out. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            outward.connect(("192.0.2.1", 9))  # of RFC 5737: nobody's
        except OSError:
            return socket.gethostname()
        return outward.getsockname()[0]


def _meet(host: str, settings: str, wait: float) -> dict[str, socket.socket]:
    """Links process 0, which others reach as `host`, with each other one, if all run the same.

    Returns the links by name, of process 0 to all, of the others to process 0. Raises as `together`.
    """
    first = jax.process_index() == 0
    both = (
        {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
    )
    with socket.create_server(("", 0), **both) if first else contextlib.nullcontext() as server:
        place = {}
        if first:
            place = {"host": host, "port": server.getsockname()[1], "token": secrets.token_hex()}
        place = json.loads(_from_first(json.dumps(place)))
        mine = {"name": _name(), "facts": facts(settings), "token": place["token"]}
        if first:
            server.settimeout(wait)
            return _gather(server, mine)
    return _join((place["host"], place["port"]), mine, wait)


def _from_first(text: str) -> str:
    """What process 0 says, on all."""
    padded = np.frombuffer(text.encode().ljust(ADDRESS_BYTES), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(padded).astype(np.uint8)).decode()


def _gather(server: socket.socket, mine: Mapping) -> dict[str, socket.socket]:
    """Hears every other process, and tells each whether it may go on."""
    links, wrong = {}, []
    while len(links) < jax.process_count() - 1:
        link, _ = server.accept()
        link.settimeout(HELLO_TIMEOUT)
        hello = _receive(link)
        if hello.get("token") != mine["token"]:  # somebody else
            link.close()
            continue
        links[hello["name"]] = link
        if differences := differing(mine["facts"], hello["facts"]):
            lines = [f"{hello['name']} differs from {mine['name']}:", *differences]
            wrong.append("\n  ".join(lines))
    advice = (
        "Expected the same installation, flags and gin files for all processes. Start all of them "
        "with these."
    )
    refused = "\n".join([*wrong, advice]) if wrong else ""
    for link in links.values():
        _send(link, {"name": mine["name"], "refused": refused})
        if refused:
            link.close()
    if refused:
        raise ValueError(refused)
    return links


def _join(place: tuple[str, int], mine: Mapping, wait: float) -> dict[str, socket.socket]:
    """Tells process 0 what this one runs, and hears whether it may go on."""
    try:
        link = socket.create_connection(place, wait)
    except OSError as error:
        raise OSError(
            f"{mine['name']} cannot connect to process 0 at {place[0]}, port {place[1]}: {error}. "
            "Expected a network in which the machines of a run can connect to each other at any "
            "port. Check firewalls and addresses."
        ) from error
    _send(link, mine)
    answer = _receive(link)
    if answer and not answer["refused"]:
        return {answer["name"]: link}
    link.close()
    if answer:
        raise ValueError(answer["refused"])
    raise OSError(
        f"process 0 has exited, or did not reply to {mine['name']} within {wait} s; expected a "
        "reply. See the log of process 0, and start all processes again."
    )


def _send(link: socket.socket, message: Mapping) -> None:
    link.sendall(json.dumps(message).encode() + b"\n")


def _receive(link: socket.socket) -> dict:
    """A line of JSON, which is all that is sent until it is answered; {} where it is no object."""
    with link.makefile("rb") as lines:
        try:
            message = tables.parse_json(lines.readline(MESSAGE_BYTES), "a message")
        except (ValueError, OSError):
            return {}
    return message if isinstance(message, dict) else {}


def facts(settings: str) -> Facts:
    """What all processes must have in common: versions, code, settings."""
    package = pathlib.Path(prompt_tuning.__file__).parent
    files = {str(file.relative_to(package)): file for file in sorted(package.rglob("*.py"))}
    found = {
        "Python": platform.python_version(),
        "prompt_tuning": f"{prompt_tuning.__version__}, {_digest(files)}",
        "settings": settings,
    }
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    # Modules of the user's that gin files import.
    for name in re.findall(r"^(?:import|from) (\S+)", settings, re.MULTILINE):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and not name.startswith("prompt_tuning"):
            found[f"module {name}"] = _digest({name: pathlib.Path(file)})
    return found


def _digest(files: Mapping[str, pathlib.Path]) -> str:
    total = hashlib.sha256()
    for name, file in files.items():
        total.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"files {total.hexdigest()[:12]}"


def differing(expected: Facts, given: Facts) -> list[str]:
    """A line for each fact that differs, and for each line of the settings."""
    lines = [
        f"{name}: {given.get(name)}, expected {expected.get(name)}"
        for name in sorted(expected.keys() | given.keys())
        if name != "settings" and given.get(name) != expected.get(name)
    ]
    texts = (facts["settings"].splitlines() for facts in (expected, given))
    for line in difflib.ndiff(*texts):
        if line[:2] in ("+ ", "- "):
            lines.append(f"settings: {line[2:]}{', expected' * (line[0] == '-')}")
    return [*lines[:LINES_TOLD], *(["…"] if len(lines) > LINES_TOLD else [])]
