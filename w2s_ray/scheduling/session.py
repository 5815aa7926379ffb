"""A Ray session for one run, and what its cluster has.

A local session is the run's own: it lives in a temporary folder that goes with it, shows no dashboard, and leaves the
terminal alone. A cluster, or a session that the calling program has begun, is used and left as it was.
"""

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from w2s_ray.errors import ResourceError, first_line
from w2s_ray.planning.nodes import Node, Room, this_machine
from w2s_ray.scheduling.environment import ALLOCATOR, passed_on
from w2s_ray.scheduling.session_folder import session_folder
from w2s_ray.spec.stage import Execution

_OBJECT_STORE_BYTES = 256 * 2**20
"""Enough for a local run, which passes nothing large through Ray."""
_LOOK_SECONDS = 30.0
"""How long the nodes may take to say how much memory they have."""
_KNOCK_SECONDS = 10.0
"""How long a cluster's port may take to answer."""
_SETTINGS = {
    **ALLOCATOR,
    "RAY_worker_niceness": "0",  # Ray's own is 15: whoever else is on the machine would come first
    "RAY_worker_maximum_startup_concurrency": "8",  # Ray's own is one per CPU, and a crew's workers would wait in line
    "RAY_memory_monitor_refresh_ms": "0",  # it would begin with the dispatcher; workers give way (memory_watch.py)
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def ray_session(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Be connected to Ray: to the cluster at `address`, or to a session of our own on this machine.

    Args:
        address: the cluster; None for a session of our own.
        num_cpus: what a session of our own may use; all that there are where it is not given.

    Raises:
        ResourceError: when there is no cluster at `address`.
    """
    with _environment(_SETTINGS), _quiet_loggers():
        if ray.is_initialized():
            yield
            return
        with nullcontext() if address else session_folder() as folder:
            try:
                _connect(address, num_cpus, folder)
                yield
            finally:
                ray.shutdown()


def cluster_nodes() -> tuple[Node, ...]:
    """Return what each machine of the cluster has."""
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    memory = _memory_of(alive)
    unknown = (None, None)
    nodes = [Node(has.get("CPU", 0.0), has.get("GPU", 0.0), *memory.get(id_, unknown)) for id_, has in alive.items()]
    return tuple(sorted(nodes, key=lambda node: (-node.gpus, -node.cpus)))


def _memory_of(nodes: Iterable[str]) -> dict[str, tuple[int | None, int | None]]:
    """Return the memory of each node and of its smallest GPU, as a process on it sees them.

    This machine is looked at from here; a node that does not answer in time is left out, and nothing is refused for it.
    """
    here = ray.get_runtime_context().get_node_id()
    asked = {
        node: ray.remote(num_cpus=0, max_retries=0)(_look)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote()
        for node in nodes
        if node != here
    }
    found: dict[str, tuple[int | None, int | None]] = {here: _look()}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=_LOOK_SECONDS) if asked else None
    for node, look in asked.items():
        with suppress(RayError):
            found[node] = ray.get(look, timeout=0)
    return found


def _look() -> tuple[int | None, int | None]:
    seen = this_machine()
    return seen.memory_bytes, seen.gpu_bytes


def check_room(levels: Iterable[tuple[str, Execution]], nodes: Sequence[Node]) -> None:
    """Make sure that a crew for every level, as it may be run, fits into the cluster, empty as it may be.

    Raises:
        ResourceError: naming the first level that does not fit.
    """
    for shape, level in {execution.group_shape: name for name, execution in levels}.items():
        if Room(nodes).place(shape) is not None:
            continue
        gpus = f" and {shape.gpus_per_worker:g} GPUs" if shape.gpus_per_worker else ""
        has = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes) or "nothing"
        raise ResourceError(
            f"level {level} asks for {shape.workers} workers with {shape.cpus_per_worker:g} CPUs{gpus} each",
            f"all workers of a stage must fit into the cluster at once; its nodes have: {has}",
            f"lower `execution.workers` of {level}, or run on a larger cluster with --address",
        )


def _connect(address: str | None, num_cpus: int | None, folder: Path | None) -> None:
    try:
        if address:
            if address == "auto":  # a job knows its own cluster; on a machine with several, Ray would guess
                address = os.environ.get("RAY_ADDRESS", address)
            _knock(address)
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=_runtime_environment()
            )
        else:
            ray.init(
                address="local",  # RAY_ADDRESS, which is set in jobs and for `ray job submit`, means another cluster
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
            )
    except (OSError, ValueError, RuntimeError) as error:
        if not address:
            raise
        value = f"no Ray cluster answers at {address}: {first_line(error)}"
        raise ResourceError(value, "--address names a cluster that runs", "start it with `ray start --head`") from error


def _runtime_environment() -> dict[str, dict[str, str]] | None:
    """Return what a cluster's workers are to have of our environment; a job's was fixed when it was submitted."""
    variables = passed_on() if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ else {}
    return {"env_vars": variables} if variables else None


def _knock(address: str) -> None:
    """Try the port of a `HOST:PORT` address: Ray itself would wait for minutes where nobody answers.

    Raises:
        OSError: when nobody does.
    """
    host, separator, port = address.rpartition(":")
    if separator and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.air")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
