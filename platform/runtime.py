"""Ray for a run: joins a cluster or starts a local one, with the settings that keep training fast and private.

A local Ray listens on the loopback interface only and asks for a token (Ray's own default), its
workers run at normal priority with one thread each, and it reports nothing to anybody. A process of
a submitted job finds itself in its cluster already.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from quadriga.platform import tokens
from quadriga.platform.errors import UserError

# One thread a process: several torch threads on a busy machine are 10 to 20 times slower than one.
# Niceness 0: Ray's default of 15 makes the start of an actor take minutes next to other programs.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}

# Despite its name this holds on every system: "0" makes Ray take the loopback address as the node's own.
# Without it Ray turns 127.0.0.1 into the address of the network card and listens on all interfaces.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

logger = logging.getLogger("quadriga")

CONNECT_TIMEOUT = 5.0
REPORT_LENGTH = 300
JOIN_TIMEOUT = 120.0
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it in the processes of a submitted job; joining then needs no trial, whose connection would count as the
job's."""
LEAVE_S = 5.0
"""How long actors of a run that has ended may take to leave a local Ray."""

_own: str | None = None
"""Address of the Ray that `ensure_ray` has started in this process."""


class Cluster(NamedTuple):
    """The Ray that this process is connected to; `started` if `ensure_ray` started it, and it ends with the process."""

    address: str
    started: bool
    cpus: float
    gpus: float

    def __str__(self) -> str:
        where = "local Ray" if self.started else f"Ray cluster at {self.address}"
        gpus = f", {self.gpus:g} GPU{'s' if self.gpus != 1 else ''}" if self.gpus else ""
        return f"{where}, {self.cpus:g} CPU slot{'s' if self.cpus != 1 else ''}{gpus}"


def ensure_ray(
    address: str | None = None, num_cpus: int | None = None, *, dashboard: bool = False, worker_output: bool = False
) -> Cluster:
    """Connects this process to Ray, unless it is connected already.

    A local Ray that an earlier run has started gives way to a larger one, if this run occupies more slots.

    Args:
        address: cluster to join (`host:port`, `ray://host:port`, or `auto` for the one that
            `ray start` runs on this machine); without it `RAY_ADDRESS`; without both a local Ray
            is started.
        num_cpus: CPU slots that the run occupies at once. A local Ray offers at least that many,
            or the processes of a large run would wait for ever on a small machine.
        dashboard: a local Ray serves its dashboard (on the loopback interface).
        worker_output: shows what Ray and its workers print.

    Raises:
        UserError: the address does not answer, turns us away, or a local Ray cannot start, or cannot give way since
            something else runs in it.
    """
    global _own
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    started = address == "local"
    needed = num_cpus or 1
    loaded = sys.modules.get("ray")
    if loaded is not None and loaded.is_initialized():
        connected = loaded.get_runtime_context().gcs_address
        cluster = _describe(connected, connected == _own)
        if cluster.cpus >= needed or not (cluster.started and started):
            return cluster
        _leave(cluster, needed)
    if started:
        _bind_to_loopback()
    elif IN_A_JOB not in os.environ:
        _require_answer(address)
    import ray

    log_level = "warning" if worker_output else "critical"
    logging.getLogger("ray.rllib").setLevel(log_level.upper())  # RLlib sets its own level when Ray is imported
    try:
        if started:
            slots = max(os.cpu_count() or 1, needed)
            ray.init(
                address="local",
                num_cpus=slots,
                include_dashboard=dashboard,
                logging_level=log_level,
                log_to_driver=worker_output,
            )
            _own = ray.get_runtime_context().gcs_address
        else:
            ray.init(address=address, logging_level=log_level, log_to_driver=worker_output)
    except Exception as error:  # Ray raises bare ones too: "The current node timed out during startup"
        what = "a local Ray did not start" if started else f"could not join the Ray cluster at {address}"
        raise UserError(f"{what}: {_first_line(str(error))}") from error
    if not worker_output:
        _report_to_log()
    return _describe(address, started)


@contextlib.contextmanager
def quiet_core() -> Iterator[None]:
    """Keeps what Ray's core writes to the error stream by itself from the terminal.

    It warns of every restartable actor whose arguments lie in the object store (ray-project/ray
    issue 53727), which RLlib's always do, and which is harmless. Python's exceptions pass.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _leave(cluster: Cluster, slots: int) -> None:
    """Ends the local Ray of this process, which has too few slots, if no actor and no task is left in it."""
    import ray
    from ray._private import state  # the public list of actors is the dashboard's, which a local Ray does without

    deadline = time.monotonic() + LEAVE_S
    while True:
        actors = sum(actor["State"] != "DEAD" for actor in state.actors().values())
        occupied = cluster.cpus - ray.available_resources().get("CPU", 0.0)
        if not actors and not occupied:
            ray.shutdown()
            return
        if time.monotonic() > deadline:
            raise UserError(
                f"the run occupies {slots} CPU slots, and this process's local Ray has {cluster.cpus:g}, of which "
                f"{occupied:g} are occupied; actors alive in it: {actors}; end them, or call ray.shutdown()"
            )
        time.sleep(0.1)


def _report_to_log() -> None:
    """What the cluster reports, as the loss of a node, becomes a warning: Ray prints it between a command's rows."""
    from ray._private import worker

    def report(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        for message in data["lines"]:
            logger.warning("Ray: %s", " ".join(message.split()).partition(". ")[0][:REPORT_LENGTH])

    worker.print_to_stdstream = report


def _bind_to_loopback() -> None:
    for name, value in LOOPBACK_ONLY.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules:  # it read the variable when it was imported
        from ray._private import ray_constants

        ray_constants.ENABLE_RAY_CLUSTER = os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] not in ("0", "false")


def _require_answer(address: str) -> None:
    """Ray itself waits minutes for an address that does not answer and may then end the process."""
    if address != "auto":
        host, port = _host_and_port(address)
        try:
            _connect(host, port)
        except OSError as error:
            raise UserError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None
        if _is_this_machine(host):
            tokens.show()
            if _is_loopback_only(host, port):
                _bind_to_loopback()
    # In a process of its own, for Ray may also exit there and then.
    attempt = "import sys, ray; ray.init(address=sys.argv[1], logging_level='critical', log_to_driver=False)"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", attempt, address], capture_output=True, text=True, timeout=JOIN_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"no Ray cluster answers at {address} within {JOIN_TIMEOUT:g} seconds") from None
    if answer.returncode == 0:
        return
    if "AuthenticationError" in answer.stderr:
        raise UserError(
            f"the Ray cluster at {address} asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH (or put it into ~/.ray/auth_token)"
        )
    said = [line for line in answer.stderr.splitlines() if line and not line[0].isspace()]
    raise UserError(f"could not join the Ray cluster at {address}: {said[-1] if said else 'no reason given'}")


def _host_and_port(address: str) -> tuple[str, int]:
    place = address.rpartition("://")[2].partition("?")[0].rstrip("/")
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"--address {address!r}: expected host:port, ray://host:port, auto or local")
    return host.strip("[]"), int(port)


def _connect(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()


def _is_this_machine(host: str) -> bool:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(place)  # only our own addresses can be bound
    except OSError:
        return False
    return True


def _is_loopback_only(host: str, port: int) -> bool:
    """Whether a cluster of this machine hides from the network; Ray would look for it at the network's address."""
    if host not in ("127.0.0.1", "localhost", "::1"):
        return False
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the network card, if there is one
            own_address = probe.getsockname()[0]
        _connect(own_address, port)
    except OSError:
        return True
    return False


def _describe(address: str, started: bool) -> Cluster:
    import ray

    resources = ray.cluster_resources()
    return Cluster(address, started, resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
