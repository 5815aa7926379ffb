"""The Ray session's folder, and whether worker groups fit into a cluster."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.scheduling.studies import small_study
from w2s_ray.errors import ResourceError
from w2s_ray.planning.nodes import Node
from w2s_ray.scheduling.session import check_cluster, ray_session, session_folder
from w2s_ray.spec.points import executions

KILLED = """
import os, signal, tempfile
tempfile.tempdir = {place!r}
from w2s_ray.scheduling.session import session_folder
with session_folder() as folder:
    (folder / "socket").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_killed_run_is_removed_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    repository = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", KILLED.format(place=str(tmp_path))], cwd=repository, timeout=60, check=False)
    (left,) = tmp_path.iterdir()
    with session_folder() as ours:
        assert not left.exists()
        with session_folder() as second:
            assert ours.exists()
            assert second != ours
    assert list(tmp_path.iterdir()) == []


def test_a_level_whose_workers_do_not_fit_is_refused() -> None:
    levels = executions(small_study())
    check_cluster(levels, [Node(1), Node(1)])
    with pytest.raises(ResourceError) as caught:
        check_cluster(levels, [Node(1)])
    assert "2 workers with 1 CPU each" in caught.value.message and "the nodes have 1 CPU" in caught.value.message
    assert "execution.workers" in caught.value.hint


@pytest.mark.parametrize(
    ("execution", "nodes", "message", "key"),
    [
        ({"workers": 2, "gpus_per_worker": 1}, [Node(8, gpus=1)], "there is room for 1", "workers"),
        ({"gpus_per_worker": 0.5}, [Node(8), Node(8)], "gpus_per_worker = 0.5, and there is no GPU", "gpus_per_worker"),
        ({"gpus_per_worker": 2}, [Node(8, 1), Node(8, 1)], "gpus_per_worker = 2, and no node", "gpus_per_worker"),
        ({"cpus_per_worker": 6}, [Node(4), Node(4)], "cpus_per_worker = 6, and no node", "cpus_per_worker"),
        ({"cpus_per_worker": 6, "gpus_per_worker": 1}, [Node(8), Node(4, 1)], "on one node", "cpus_per_worker"),
    ],
)
def test_a_study_that_does_not_fit_names_the_resource_that_is_short(
    execution: dict[str, float], nodes: list[Node], message: str, key: str
) -> None:
    with pytest.raises(ResourceError) as caught:
        check_cluster(executions(small_study(execution=execution)), nodes)
    assert message in caught.value.message
    assert f"execution.{key}`" in caught.value.hint


@pytest.mark.parametrize("address", ["head", "http://127.0.0.1:8265", "ray://127.0.0.1:10001", "host:", ":port"])
def test_an_address_of_another_form_is_refused_at_once(address: str) -> None:
    with pytest.raises(ResourceError, match="neither auto nor HOST:PORT"), ray_session(address):
        pass


def test_a_session_keeps_the_handler_of_sigterm_and_ignores_the_shells_cluster() -> None:
    code = (
        "import signal; from w2s_ray.scheduling.session import cluster_nodes, ray_session\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('asked'))\n"
        "with ray_session(None, num_cpus=1):\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print([node.cpus for node in cluster_nodes()])"
    )
    names_one = os.environ | {"RAY_ADDRESS": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", code], env=names_one, capture_output=True, text=True)
    assert done.stdout.split() == ["asked", "[1.0]"], done.stderr
