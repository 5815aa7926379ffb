"""A run killed with SIGKILL in the middle of its large stage, and resumed, gives the results of an undisturbed one."""

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.cli.conftest import command, environment, w2s
from w2s_ray.spec.chain import PlannedStage, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import load_study
from w2s_ray.store.artifacts import ArtifactStore

pytestmark = pytest.mark.soak

STUDY = ("run", "tiny.yaml")
CHANGES = (
    "--set=name=sudden",
    "--set=methods={naive: {arms: [chain]}, confident: {arms: [chain], losses: {large: {kind: confidence}}}}",
    "--set=ladder.large.execution={workers: 2, zero_stage: 3, checkpoint_every_seconds: 0}",
    "--set=ladder.small.execution={workers: 2, zero_stage: 1}",
    "--set=ladder.large.optimisation.epochs=60",
)


def stages_of(home: Path, store: ArtifactStore) -> list[PlannedStage]:
    from w2s_ray.planning.resolve import locked

    study = load_study(home / "tiny.yaml", [change.removeprefix("--set=") for change in CHANGES])
    return list(distinct_stages(compile_study(study, locked(study, store))).values())


def large_steps(store: Path) -> int:
    """Steps of the running large stages that are in a checkpoint."""
    markers = store.glob("artifacts/large-*/checkpoints/step*/rank1.json")
    return max((int(marker.parent.name.removeprefix("step")) for marker in markers), default=0)


def test_a_killed_run_resumes_and_ends_like_an_undisturbed_one(home: Path) -> None:
    disturbed, whole = home / "disturbed", home / "whole"
    process = subprocess.Popen(
        command(*STUDY, *CHANGES, "--store", disturbed),
        cwd=home,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while large_steps(disturbed) < 40:
        assert time.monotonic() < deadline and process.poll() is None, "the large stage did not start"
        time.sleep(0.05)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait(timeout=30)
    psutil.wait_procs(family, timeout=30)

    store = ArtifactStore(disturbed)
    finished = {stage.identity for stage in stages_of(home, store) if store.find(stage.identity)}
    before = {identity: store.num_attempts(identity) for identity in finished}
    assert finished, "the floor is finished"
    done = w2s(*STUDY, *CHANGES, "--store", disturbed, cwd=home)
    assert done.code == 0, done.err
    assert {identity: store.num_attempts(identity) for identity in finished} == before

    assert w2s(*STUDY, *CHANGES, "--store", whole, cwd=home).code == 0
    other = ArtifactStore(whole)
    resumed = 0
    for stage in stages_of(home, store):
        assert stage.test_prediction is not None
        mine, theirs = (each.read_predictions(stage.test_prediction.identity) for each in (store, other))
        assert mine.ids == theirs.ids
        np.testing.assert_allclose(np.log(mine.probs_NC), np.log(theirs.probs_NC), atol=1e-6)
        record = store.find(stage.identity)
        assert record is not None
        resumed += store.num_attempts(stage.identity) == 2
        steps = (store.verify(record) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert resumed == 1, "the killed stage is resumed from its checkpoint"
