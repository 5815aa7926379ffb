"""The tiny study on a real cluster: two nodes on this machine, started as docs/cluster.md says."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Done, command, environment

RAY = Path(sys.executable).with_name("ray")
WORKERS = ("--set", "execution.workers=2", "--set", "execution.cpus_per_worker=1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cluster_environment() -> dict[str, str]:
    """With token authentication, and with `w2s` on the path, which jobs call."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**environment(), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "PATH": path}


@dataclass(frozen=True)
class TwoNodes:
    address: str
    dashboard: str

    def w2s(self, *arguments: str | Path, cwd: Path) -> Done:
        done = subprocess.run(
            command(*arguments), capture_output=True, text=True, cwd=cwd, env=cluster_environment(), timeout=300
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def num_nodes(self) -> int:
        asked = [str(RAY), "status", "--address", self.address]
        told = subprocess.run(asked, capture_output=True, text=True, env=cluster_environment(), timeout=60).stdout
        return told.partition("Pending:")[0].count(" node_")


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    folder = Path("/tmp") / f"w2s-ray-{os.getpid()}"  # sockets are below it, and their paths must be short
    log = tmp_path_factory.mktemp("cluster") / "ray.log"
    port, dashboard = free_port(), free_port()
    found = TwoNodes(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}")
    head = [f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}", "--head"]
    node = [f"--address={found.address}"]
    subprocess.run([RAY, "get-auth-token", "--generate"], capture_output=True, env=cluster_environment(), check=True)
    running: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("wb") as out:
            for number, arguments in enumerate((head, node), start=1):
                start = [
                    str(RAY),
                    "start",
                    "--block",
                    "--num-cpus=1",
                    f"--dashboard-agent-listen-port={free_port()}",
                    *arguments,
                ]
                running.append(subprocess.Popen(start, stdout=out, stderr=out, env=cluster_environment()))
                deadline = time.monotonic() + 60
                while found.num_nodes() < number:
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(1)
        yield found
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shared(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder; both nodes reach it."""
    folder = tmp_path_factory.mktemp("shared") / "home"
    shutil.copytree(home, folder, ignore=shutil.ignore_patterns("store*"))
    return folder


def test_the_keys_to_results_and_models_reach_the_workers_of_a_cluster(two_nodes: TwoNodes, tmp_path: Path) -> None:
    code = (
        "import os, ray, sys; from w2s_ray.scheduling.session import ray_session\n"
        "def seen(): return os.environ['WANDB_API_KEY'], os.environ['HF_ENDPOINT']\n"
        "with ray_session(sys.argv[1]): print(*ray.get(ray.remote(seen).remote()))"
    )
    ours = {**cluster_environment(), "WANDB_API_KEY": "a key", "HF_ENDPOINT": "http://mirror"}
    asked = [sys.executable, "-c", code, two_nodes.address]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, env=ours, timeout=120)
    assert done.stdout == "a key http://mirror\n", done.stderr


@pytest.mark.soak
def test_a_running_cluster_of_two_nodes_trains_each_stage_on_both(two_nodes: TwoNodes, shared: Path) -> None:
    done = two_nodes.w2s("run", "tiny.yaml", "--address", two_nodes.address, "--store", "store", *WORKERS, cwd=shared)
    assert done.code == 0, done
    assert "finished 4 of 4 stages" in done.out
    assert two_nodes.num_nodes() == 2, "the cluster stays up"


@pytest.mark.soak
def test_a_submitted_job_trains_on_both_nodes_and_prints_its_table(two_nodes: TwoNodes, shared: Path) -> None:
    store = shared / "store-of-jobs"
    done = two_nodes.w2s(
        "submit", "tiny.yaml", "--address", two_nodes.dashboard, "--store", store, *WORKERS, cwd=shared
    )
    assert done.code == 0, done
    assert "finished 4 of 4 stages" in done.out and "succeeded" in done.out
    assert (store / "studies" / "tiny" / "report" / "report.html").is_file()


@pytest.mark.soak
def test_a_job_that_cannot_run_fails_with_the_reason(two_nodes: TwoNodes, shared: Path) -> None:
    too_many = ("--set", "execution.workers=3", "--set", "execution.cpus_per_worker=1")
    store = shared / "store-of-jobs-too-large"
    done = two_nodes.w2s(
        "submit", "tiny.yaml", "--address", two_nodes.dashboard, "--store", store, *too_many, cwd=shared
    )
    assert done.code == 1, done
    assert "3 workers" in done.out and "failed" in done.out


def test_the_cluster_page_starts_its_cluster_like_this_one() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    for words in ("RAY_AUTH_MODE=token", "ray start --head", "--dashboard-agent-listen-port"):
        assert words in page
