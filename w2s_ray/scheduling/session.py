"""The Ray session of a run, and the resources of its cluster.

A local session belongs to the run: it has a temporary folder that is removed with it, no dashboard, and prints nothing.
A cluster, or a session that the calling program has started, is used and left as it was.
"""

import fcntl
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from w2s_ray.errors import ResourceError, first_line
from w2s_ray.planning.nodes import Node, misfit, this_machine
from w2s_ray.spec.execution import ExecutionSpec
from w2s_ray.training.memory.usage import ALLOCATOR

PASSED_ON = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_ENTITY", "HF_TOKEN", "HF_ENDPOINT")
"""Environment variables forwarded to cluster workers and jobs: where results and models are, and their keys."""
_FOLDER_PREFIX = "w2s-ray-"
"""Short, because paths of sockets are limited to 107 characters."""
_LOCK_NAME = "in-use"
_OBJECT_STORE_BYTES = 256 * 2**20
"""Enough for a local run, which passes nothing large through Ray."""
_LOOK_SECONDS = 30.0
"""How long nodes may take to report their memory."""
_CONNECT_SECONDS = 10.0
"""How long a cluster's port may take to accept a connection."""
_SETTINGS = {
    **ALLOCATOR,
    "RAY_worker_niceness": "0",  # Ray's default, 15, gives every other process precedence
    "RAY_worker_maximum_startup_concurrency": "8",  # Ray's default is one per CPU, and workers would start one by one
    "RAY_memory_monitor_refresh_ms": "0",  # it kills the dispatcher first; workers give way instead (memory_watch.py)
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def ray_session(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to the cluster at `address`, or start a local session.

    Args:
        address: the cluster; None for a local session.
        num_cpus: CPUs of a local session; all of the machine's if None.

    Raises:
        ResourceError: when there is no cluster at `address`.
    """
    if address:
        _check_address(address)
    with _environment(_SETTINGS), _quiet_loggers():
        if ray.is_initialized():
            yield
            return
        with nullcontext() if address else session_folder() as folder:
            try:
                with _handlers_kept():
                    _connect(address, num_cpus, folder)
                yield
            finally:
                ray.shutdown()


def cluster_nodes() -> tuple[Node, ...]:
    """Return the resources of each machine of the cluster."""
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    memory = _memory_of(alive)
    unknown = (None, None)
    nodes = [Node(has.get("CPU", 0.0), has.get("GPU", 0.0), *memory.get(id_, unknown)) for id_, has in alive.items()]
    return tuple(sorted(nodes, key=lambda node: (-node.gpus, -node.cpus)))


def _memory_of(nodes: Iterable[str]) -> dict[str, tuple[int | None, int | None]]:
    """Return the memory of each node and of its smallest GPU, as seen by a process on it.

    A node that does not answer in time is left out, and no study is refused because of it.
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


def check_cluster(levels: Iterable[tuple[str, ExecutionSpec]], nodes: Sequence[Node]) -> None:
    """Check that a worker group of every level fits into the empty cluster.

    Raises:
        ResourceError: for the first level that does not fit.
    """
    for shape, level in {execution.group_shape: name for name, execution in levels}.items():
        error = misfit(level, shape, nodes)
        if error is not None:
            raise error


@contextmanager
def session_folder() -> Iterator[Path]:
    """Make a temporary folder for Ray's sockets and logs, and remove it at the end.

    A process that is killed leaves its folder behind. Folders whose lock is free are removed here too.
    """
    parent = Path(tempfile.gettempdir())
    for lock in parent.glob(f"{_FOLDER_PREFIX}*/{_LOCK_NAME}"):
        with suppress(OSError), _locked(lock):
            shutil.rmtree(lock.parent)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=parent))
    try:
        with _locked(folder / _LOCK_NAME):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process.

    Raises:
        BlockingIOError: when another process holds it.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def passed_on() -> dict[str, str]:
    """Return the environment variables for cluster workers and jobs."""
    return ALLOCATOR | {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def _check_address(address: str) -> None:
    """Check the form of a cluster's address.

    Raises:
        ResourceError: when it is neither `auto` nor `HOST:PORT`.
    """
    if address != "auto" and not re.fullmatch(r"[^/]+:\d+", address):
        raise ResourceError(
            f"the address {address} of a Ray cluster is neither auto nor HOST:PORT",
            "HOST:6379 is the usual one; http://HOST:8265 is for `w2s submit`",
        )


def _connect(address: str | None, num_cpus: int | None, folder: Path | None) -> None:
    try:
        if address:
            if address == "auto":  # a job knows its cluster; with several on one machine Ray would guess
                address = os.environ.get("RAY_ADDRESS", address)
            _try_port(address)
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=_runtime_environment()
            )
        else:
            ray.init(
                address="local",  # not RAY_ADDRESS, which is set in jobs and for `ray job submit`
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
            )
    except (OSError, ValueError, RuntimeError, RayError) as error:
        if not address:
            raise ResourceError(
                f"Ray could not be started on this machine: {first_line(error)}",
                f"`w2s doctor` checks the machine; Ray's files are below {tempfile.gettempdir()}",
            ) from error
        raise ResourceError(
            f"no Ray cluster answers at {address}: {first_line(error)}",
            "start one with `ray start --head`, or omit --address to run on this machine",
        ) from error


def _runtime_environment() -> dict[str, dict[str, str]] | None:
    """Return the environment of a cluster's workers; a job's was set when it was submitted."""
    variables = passed_on() if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ else {}
    return {"env_vars": variables} if variables else None


def _try_port(address: str) -> None:
    """Try a `HOST:PORT` address, because Ray itself waits for minutes if the port does not answer.

    Raises:
        OSError: when it does not answer.
    """
    host, separator, port = address.rpartition(":")
    if separator:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


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
def _handlers_kept() -> Iterator[None]:
    """Install the handler of SIGTERM again: that of Ray aborts the process, and a batch system ends jobs with it."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


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
