"""Start of a run with several processes: connection, comparison of settings, heartbeats."""

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
HELLO_TIMEOUT = 10  # seconds for a new connection to send its first message
ADDRESS_BYTES = 1024
MESSAGE_BYTES = 2**24  # settings have a few kilobytes
MAX_LINES = 10
VERSIONS = ("jax", "jaxlib", "numpy", "flax", "optax", "seqio", "tensorflow", "tensorflow-datasets")
Facts = Mapping[str, str]  # must be equal on all processes; "settings" has many lines


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
    """Initializes JAX for the devices of all processes, until the context ends.

    Enter it once per process, before the first array is created. If a process fails or raises an
    error, the others exit; see `watch`.

    Args:
      settings: gin config.
      preemption: whether JAX's preemption service handles SIGTERM (in training).
      coordinator_address: "host:port" of process 0; None to detect the cluster.
      process_count: number of processes; None to detect the cluster.
      process_index: index of this process; None to detect the cluster.
      initialization_timeout: seconds to wait for other processes; None for 300.
      heartbeat_timeout: seconds after which a silent process has failed; None for 100.

    Raises:
      ValueError: another process has other code, settings or devices.
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
    # JAX aborts without naming the reason, so its timeouts are later than these.
    late = threading.Timer(wait, watch.leave, (absent, watch.EXIT_USER_ERROR))
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
            interrupts.catch()  # the preemption service has replaced the handler of SIGTERM
        _check_devices()
        host = (coordinator_address or "").rpartition(":")[0].strip("[]")
        links = _connect(host or _local_address(), settings, wait)
    finally:
        late.cancel()
    watching = watch.Watch(_name(), links, limit)
    try:
        yield
    except BaseException as error:
        if isinstance(error, interrupts.Terminated):
            watching.end()  # all processes have stopped after the same step
        else:
            watching.fail(error)
        raise
    watching.end()


def _name() -> str:
    return f"process {jax.process_index()} (on {socket.gethostname()})"


def _check_devices() -> None:
    """Raises ValueError if processes have different numbers of devices."""
    devices = Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        device_counts = ", ".join(f"process {i} has {n}" for i, n in sorted(devices.items()))
        raise ValueError(
            f"processes have different numbers of devices: {device_counts}; expected the same number on "
            "each. Start each on machines with the same devices."
        )


def _local_address() -> str:
    """Returns the address of this machine's default route, or its host name; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            outward.connect(("192.0.2.1", 9))  # TEST-NET-1 of RFC 5737
        except OSError:
            return socket.gethostname()
        return outward.getsockname()[0]


def _connect(host: str, settings: str, wait: float) -> dict[str, socket.socket]:
    """Connects process 0, at `host`, with the others, and compares their facts.

    Returns sockets by process name: to all processes from process 0, else to process 0. Raises as
    `together`.
    """
    first = jax.process_index() == 0
    both = (
        {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
    )
    with socket.create_server(("", 0), **both) if first else contextlib.nullcontext() as server:
        address = {}
        if first:
            address = {"host": host, "port": server.getsockname()[1], "token": secrets.token_hex()}
        address = json.loads(_from_first(json.dumps(address)))
        greeting = {"name": _name(), "facts": facts(settings), "token": address["token"]}
        if first:
            server.settimeout(wait)
            return _accept_all(server, greeting)
    return _join((address["host"], address["port"]), greeting, wait)


def _from_first(text: str) -> str:
    """Broadcasts a text of process 0."""
    padded = np.frombuffer(text.encode().ljust(ADDRESS_BYTES), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(padded).astype(np.uint8)).decode()


def _accept_all(server: socket.socket, greeting: Mapping) -> dict[str, socket.socket]:
    """Accepts all other processes, and answers whether their facts agree."""
    links, wrong = {}, []
    while len(links) < jax.process_count() - 1:
        link, _ = server.accept()
        link.settimeout(HELLO_TIMEOUT)
        hello = _receive(link)
        if hello.get("token") != greeting["token"]:  # not a process of this run
            link.close()
            continue
        links[hello["name"]] = link
        if differences := differing(greeting["facts"], hello["facts"]):
            lines = [f"{hello['name']} differs from {greeting['name']}:", *differences]
            wrong.append("\n  ".join(lines))
    advice = (
        "Expected the same installation, flags and gin files for all processes. Start all of them "
        "with these."
    )
    refused = "\n".join([*wrong, advice]) if wrong else ""
    for link in links.values():
        _send(link, {"name": greeting["name"], "refused": refused})
        if refused:
            link.close()
    if refused:
        raise ValueError(refused)
    return links


def _join(address: tuple[str, int], greeting: Mapping, wait: float) -> dict[str, socket.socket]:
    """Sends the facts of this process to process 0, and returns the socket if they agree."""
    try:
        link = socket.create_connection(address, wait)
    except OSError as error:
        raise OSError(
            f"{greeting['name']} cannot connect to process 0 at {address[0]}, port {address[1]}: {error}. "
            "Expected a network in which the machines of a run can connect to each other at any "
            "port. Check firewalls and addresses."
        ) from error
    _send(link, greeting)
    answer = _receive(link)
    if answer and not answer["refused"]:
        return {answer["name"]: link}
    link.close()
    if answer:
        raise ValueError(answer["refused"])
    raise OSError(
        f"process 0 has exited, or did not reply to {greeting['name']} within {wait} s; expected a "
        "reply. See the log of process 0, and start all processes again."
    )


def _send(link: socket.socket, message: Mapping) -> None:
    link.sendall(json.dumps(message).encode() + b"\n")


def _receive(link: socket.socket) -> dict:
    """Receives one line of JSON; {} if it is not an object."""
    with link.makefile("rb") as lines:
        try:
            message = tables.parse_json(lines.readline(MESSAGE_BYTES), "a message")
        except (ValueError, OSError):
            return {}
    return message if isinstance(message, dict) else {}


def facts(settings: str) -> Facts:
    """Returns what must be equal on all processes: versions, code, settings."""
    package = pathlib.Path(prompt_tuning.__file__).parent
    files = {str(file.relative_to(package)): file for file in sorted(package.rglob("*.py"))}
    result = {
        "Python": platform.python_version(),
        "prompt_tuning": f"{prompt_tuning.__version__}, {_digest(files)}",
        "settings": settings,
    }
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            result[name] = importlib.metadata.version(name)
    # User modules that gin files import.
    for name in re.findall(r"^(?:import|from) (\S+)", settings, re.MULTILINE):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and not name.startswith("prompt_tuning"):
            result[f"module {name}"] = _digest({name: pathlib.Path(file)})
    return result


def _digest(files: Mapping[str, pathlib.Path]) -> str:
    total = hashlib.sha256()
    for name, file in files.items():
        total.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"files {total.hexdigest()[:12]}"


def differing(expected: Facts, actual: Facts) -> list[str]:
    """Returns one line per fact, and per line of the settings, that differs."""
    lines = [
        f"{name}: {actual.get(name)}, expected {expected.get(name)}"
        for name in sorted(expected.keys() | actual.keys())
        if name != "settings" and actual.get(name) != expected.get(name)
    ]
    texts = (facts["settings"].splitlines() for facts in (expected, actual))
    for line in difflib.ndiff(*texts):
        if line[:2] in ("+ ", "- "):
            lines.append(f"settings: {line[2:]}{', expected' * (line[0] == '-')}")
    return [*lines[:MAX_LINES], *(["…"] if len(lines) > MAX_LINES else [])]
