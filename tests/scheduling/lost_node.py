"""A run on a cluster of several nodes on this machine that loses a node in each attempt at a stage; prints its error.

It is a program of its own, because a process has one Ray session.
"""

import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tests.scheduling.runner import Behaviour, behave
from tests.scheduling.studies import small_study
from tests.scheduling.test_run import run
from w2s_ray.scheduling.status import StudyStatus
from w2s_ray.store.artifacts import ArtifactStore


class LosesNodes:
    """A view that removes a node whenever a group has trained for a moment, and adds another."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._hit = cluster, set[str]()
        self._nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]

    def update(self, status: StudyStatus) -> None:
        for stage in status.running:
            if stage.step > 0 and stage.group not in self._hit:
                self._hit.add(stage.group)
                self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)
                self._nodes.append(self._cluster.add_node(num_cpus=1))


if __name__ == "__main__":
    store = ArtifactStore(Path(sys.argv[1]))
    behave(store, all=Behaviour(steps=500, step_seconds=0.1))
    own = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        ray.init(address=own.address, log_to_driver=False)
        outcome = run(small_study(methods={"naive": {"arms": ["chain"]}}), store, LosesNodes(own))  # type: ignore[arg-type]
        print("\n".join(outcome.failed.values()))
    finally:
        ray.shutdown()
        own.shutdown()
